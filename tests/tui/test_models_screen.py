"""The model chooser: what is here, what can be fetched, what this machine can hold."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from textual.app import App
from textual.pilot import Pilot
from textual.widgets import Input, OptionList

from fixtures.checkpoints import qwen2
from qwen_tui import hub
from qwen_tui.hub import KNOWN, Snapshot
from qwen_tui.settings import Endpoint
from qwen_tui.tui.context import ENGINE
from qwen_tui.tui.recent_models import recent_models, remember_model
from qwen_tui.tui.screens.models import Models, free_memory, offers, verdict
from qwen_tui.types import Progress, Trouble

GIB = 1 << 30
SMALL = "Qwen/Qwen2.5-0.5B"


class Choosing(App[None]):
    """An app with the chooser over it; `answer` is what it said."""

    answer: str | None = "nothing yet"

    def __init__(self, models: Models) -> None:
        super().__init__()
        self.models = models

    def on_mount(self) -> None:
        def answered(name: str | None) -> None:
            self.answer = name

        self.push_screen(self.models, answered)

    def lines(self) -> list[str]:
        choose = self.screen.query_one(OptionList)
        return [str(choose.get_option_at_index(n).prompt) for n in range(choose.option_count)]

    def text(self) -> str:
        return "\n".join(strip.text for strip in self.screen._compositor.render_strips())


async def until(pilot: Pilot[None], true: Callable[[], object], what: str) -> None:
    for _ in range(400):
        if true():
            return
        await pilot.pause(0.01)
    pytest.fail(f"never: {what}")


def test_what_the_machine_can_hold_is_told_from_shapes_alone() -> None:
    seven = KNOWN["Qwen/Qwen2.5-7B"]
    assert verdict(seven, 64 * GIB)[0] == "runs"
    assert verdict(seven, 8 * GIB)[0] == "small"
    mood, said = verdict(seven, 2 * GIB)
    assert mood == "never"
    assert "4-bit" in said


def test_the_seven_b_is_offered_with_its_download_and_memory() -> None:
    lines = offers(64 * GIB, ())
    (seven,) = [line for line in lines if line.name == "Qwen/Qwen2.5-7B"]
    assert "15.2 GB" in seven.about
    assert "runs here" in seven.verdict


def test_free_memory_is_read_and_never_fatal(tmp_path: Path) -> None:
    file = tmp_path / "meminfo"
    file.write_text("MemTotal: 1 kB\nMemAvailable:    2048 kB\n")
    assert free_memory(file) == 2 * 1024 * 1024
    file.write_text("MemAvailable: much\n")
    assert free_memory(file) >= 0


async def test_what_is_on_this_disk_comes_first_and_is_chosen_at_once(tmp_path: Path) -> None:
    qwen2(tmp_path / "tiny")
    found = hub.find(str(tmp_path / "tiny"))
    app = Choosing(Models(free=8 * GIB, found=(found,)))
    async with app.run_test(size=(110, 30)) as pilot:
        assert "tiny" in app.lines()[0]
        await pilot.press("enter")
        await pilot.pause()
        assert app.answer == found.name


async def test_a_check_mark_stands_only_before_what_is_on_this_disk(tmp_path: Path) -> None:
    qwen2(tmp_path / "tiny")
    found = hub.find(str(tmp_path / "tiny"))
    for free in (64 * GIB, 8 * GIB, 0):
        app = Choosing(Models(free=free, found=(found,)))
        async with app.run_test(size=(110, 30)):
            here, *others = app.lines()
            fetched = [line for line in others if "to fetch" in line]
            assert here.startswith("✓" if free else " ")
            assert fetched
            for line in fetched:
                assert line.startswith("✗" if "needs" in line else "↓")


async def test_fetching_shows_bytes_and_answers_when_it_is_here() -> None:
    step = threading.Event()

    def pull(name: str, report: Callable[[Progress], None], cancel: threading.Event) -> Snapshot:
        report(Progress("download", 300_000_000, 999_600_000))
        assert step.wait(10)
        return Snapshot(Path("/x"), name)

    app = Choosing(Models(free=8 * GIB, found=(), pull=pull))
    async with app.run_test(size=(110, 30)) as pilot:
        choose = app.screen.query_one(OptionList)
        choose.highlighted = choose.get_option_index("fetch:" + SMALL)
        await pilot.press("enter")
        for _ in range(200):
            await pilot.pause(0.01)
            if "300.0 MB of 999.6 MB" in app.text():
                break
        assert "300.0 MB of 999.6 MB" in app.text()
        step.set()
        for _ in range(200):
            await pilot.pause(0.01)
            if app.answer == SMALL:
                break
        assert app.answer == SMALL


async def test_a_failed_fetch_says_why_and_the_chooser_stays() -> None:
    def pull(name: str, report: Callable[[Progress], None], cancel: threading.Event) -> Snapshot:
        raise Trouble("no network", hint="try again later")

    app = Choosing(Models(free=8 * GIB, found=(), pull=pull))
    async with app.run_test(size=(110, 30)) as pilot:
        await pilot.press("enter")
        for _ in range(200):
            await pilot.pause(0.01)
            if "no network" in app.text():
                break
        assert "no network" in app.text()
        assert "try again later" in app.text()
        assert app.answer == "nothing yet"


async def test_escape_stops_a_fetch_before_it_leaves() -> None:
    stopped = threading.Event()

    def pull(name: str, report: Callable[[Progress], None], cancel: threading.Event) -> Snapshot:
        assert cancel.wait(10)
        stopped.set()
        raise hub.Stopped

    app = Choosing(Models(free=8 * GIB, found=(), pull=pull))
    async with app.run_test(size=(110, 30)) as pilot:
        await pilot.press("enter")
        await pilot.pause()
        await pilot.press("escape")
        for _ in range(200):
            await pilot.pause(0.01)
            if not app.models.fetching:
                break
        assert stopped.is_set()
        assert app.answer == "nothing yet"
        await pilot.press("escape")
        await pilot.pause()
        assert app.answer is None


async def test_a_folder_is_checked_before_it_is_taken(tmp_path: Path) -> None:
    qwen2(tmp_path / "tiny")
    app = Choosing(Models(free=8 * GIB, found=()))
    async with app.run_test(size=(110, 30)) as pilot:
        choose = app.screen.query_one(OptionList)
        choose.highlighted = choose.option_count - 1
        await pilot.press("enter")
        await pilot.pause()
        app.screen.query_one(Input).value = str(tmp_path / "nowhere")
        await pilot.press("enter")
        await pilot.pause()
        assert app.answer == "nothing yet"
        app.screen.query_one(Input).value = str(tmp_path / "tiny")
        await pilot.press("enter")
        await pilot.pause()
        assert app.answer == str(tmp_path / "tiny")


async def test_servers_of_the_configuration_stand_beside_the_models_of_this_disk() -> None:
    lab = Endpoint("http://lab.example:8000", name="lab", model="coder")
    app = Choosing(Models(free=8 * GIB, found=(), engines=(lab,)))
    async with app.run_test(size=(110, 30)) as pilot:
        assert "lab" in app.lines()[0]
        assert "coder" in app.lines()[0]
        assert "at lab.example:8000" in app.lines()[0]
        await pilot.press("enter")
        await pilot.pause()
        assert app.answer == ENGINE + "lab"


async def test_the_folder_of_a_model_is_completed_while_one_types_and_offered_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QWEN_TUI_HOME", str(tmp_path / "home"))
    qwen2(tmp_path / "models" / "tiny-one")
    (tmp_path / "models" / "tiny.txt").write_text("no folder")
    app = Choosing(Models(free=8 * GIB, found=()))
    async with app.run_test(size=(110, 30)) as pilot:
        await pilot.press("end", "enter")
        field = app.screen.query_one(Input)
        field.value = f"{tmp_path}/mod"
        field.cursor_position = len(field.value)
        for finished in (f"{tmp_path}/models/", f"{tmp_path}/models/tiny-one/"):
            await until(pilot, lambda: field._suggestion, "a folder is suggested")
            await pilot.press("tab")
            assert field.value == finished
            await pilot.press("t")
        field.value = f"{tmp_path}/models/tiny-one/"
        await pilot.press("enter")
        await pilot.pause()
        assert app.answer == f"{tmp_path}/models/tiny-one"
    remember_model(app.answer)
    remember_model("Qwen/Qwen2.5-0.5B")
    remember_model(str(tmp_path / "gone"))
    assert recent_models() == [f"{tmp_path}/models/tiny-one"]
    again = Choosing(Models(free=8 * GIB, found=(), recent=recent_models()))
    async with again.run_test(size=(110, 30)) as pilot:
        assert "tiny-one" in again.lines()[0]
        assert "folder" in again.lines()[0]
        await pilot.press("enter")
        await pilot.pause()
        assert again.answer == f"{tmp_path}/models/tiny-one"


def test_a_damaged_memory_of_models_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QWEN_TUI_HOME", str(tmp_path))
    (tmp_path / "state").mkdir()
    for text in ("{", '{"a": 1}', "[1, null]", "\x00", '["/no/such/folder"]'):
        (tmp_path / "state" / "recent-models.json").write_text(text)
        assert recent_models() == []
