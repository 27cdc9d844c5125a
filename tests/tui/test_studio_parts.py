"""The studio's small parts, without a terminal: pump, filters, estimates, words, rows."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest
from rich.segment import Segment
from rich.style import Style
from textual.color import Color

from qwen_tui.engine.channel import Channel
from qwen_tui.session.session import Session
from qwen_tui.tui.screens.dialogs import stops_read, stops_shown
from qwen_tui.tui.studio.model_loading import Estimate
from qwen_tui.tui.studio.pump import pump
from qwen_tui.tui.terminal.line_filters import NoColours, NoControls
from qwen_tui.tui.text.wording import progress_words, short
from qwen_tui.tui.widgets.alternatives import rows_of as candidates
from qwen_tui.tui.widgets.alternatives import spelled
from qwen_tui.tui.widgets.branch_tree import rows_of, words_of
from qwen_tui.tui.widgets.status import StatusFacts, meter
from qwen_tui.types import Choice, Emitted, Event, Finished, Progress, Token

BLACK = Color(0, 0, 0)


def said(word: bytes, index: int) -> Emitted:
    return Emitted((Token(1, word),), index=index)


async def test_every_event_happens_once_in_order_and_the_end_is_painted() -> None:
    channel = Channel(asyncio.get_running_loop(), threading.Event())
    happened: list[Event] = []
    painted: list[int] = []
    events = [said(b"a", 0), said(b"b", 1), said(b"c", 2), Finished("eos")]
    for event in events:
        channel.put(event)
    await pump(channel, happened.append, lambda _batch: painted.append(len(happened)), frame_s=0.0)
    assert happened == events
    assert painted[-1] == len(events)


async def test_the_first_token_is_painted_at_once_and_later_ones_by_the_frame() -> None:
    channel = Channel(asyncio.get_running_loop(), threading.Event())
    painted = asyncio.Event()
    paints: list[int] = []
    happened: list[Event] = []

    def paint(_batch: Sequence[Event]) -> None:
        paints.append(len(happened))
        painted.set()

    channel.put(said(b"a", 0))
    task = asyncio.create_task(pump(channel, happened.append, paint, frame_s=3600.0))
    await asyncio.wait_for(painted.wait(), 5)
    assert paints == [1]
    painted.clear()
    channel.put(said(b"b", 1))
    await asyncio.wait_for(painted.wait(), 5)
    channel.put(said(b"c", 2))  # within the frame: it waits in the channel
    for _ in range(5):
        await asyncio.sleep(0)
    assert paints == [1, 2]
    task.cancel()


def test_no_control_character_passes_and_no_width_changes() -> None:
    line = [Segment("a\x1b[31mb\u202ec\x9b", Style(bold=True)), Segment("clean")]
    safe = NoControls().apply(line, BLACK)
    assert not {c for segment in safe for c in segment.text if c in "\x1b\u202e\x9b"}
    assert [each.cell_length for each in safe] == [each.cell_length for each in line]
    clean = [Segment("clean")]
    assert NoControls().apply(clean, BLACK) is clean


def test_without_colour_what_stands_out_is_reversed() -> None:
    (segment,) = NoColours().apply([Segment("x", Style.parse("bold red on blue"))], BLACK)
    assert segment.style == Style(bold=True, reverse=True)
    (plain,) = NoColours().apply([Segment("x", Style.parse("red on default"))], BLACK)
    assert not plain.style.reverse
    assert plain.style.color is None


def test_an_estimate_comes_from_the_pace_of_its_stage() -> None:
    estimate = Estimate()
    estimate.update(Progress("load", 0, 100), 10.0)
    assert estimate.seconds_left(10.0) is None
    estimate.update(Progress("load", 25, 100), 15.0)
    assert estimate.seconds_left(15.0) == pytest.approx(15.0)
    estimate.update(Progress("quantise", 0, 10), 20.0)
    assert estimate.seconds_left(20.0) is None


@pytest.mark.parametrize(
    ("progress", "words"),
    [
        (Progress("load", 1_200_000_000, 4_700_000_000), "loading weights 1.2 GB of 4.7 GB"),
        (Progress("import", 0, 1), "starting the engine"),
        (Progress("prefill", 512, 2048), "reading the text 512 of 2,048 tokens"),
        (Progress("quantise", 1, 4), "quantising 25 %"),
    ],
)
def test_progress_in_words(progress: Progress, words: str) -> None:
    assert progress_words(progress) == words


def test_names_and_counts_as_the_status_line_has_room_for() -> None:
    assert short("Qwen/Qwen2.5-7B") == "Qwen2.5-7B"
    assert short("/models/tiny/") == "tiny"
    assert meter(StatusFacts(tokens=1204, context=131_072)) == "1,204 / 131,072"
    assert meter(StatusFacts(tokens=7, exact=False)) == "~7 tokens"
    assert meter(StatusFacts()) == ""


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b" the", "␣the"),
        (b"\n\n", "↵↵"),
        (b"\xe4\xbd", "⟨E4 BD⟩"),
        ("你".encode(), "你"),
        (b"", "⟨nothing⟩"),
        (b"a b ", "a b␣"),
    ],
)
def test_a_token_is_spelled_on_one_line(data: bytes, shown: str) -> None:
    assert spelled(data) == shown


def test_a_token_that_did_not_rank_stands_below_its_candidates() -> None:
    ranked = (Choice(1, b"a", -0.1), Choice(2, b"b", -2.0))
    assert [row.taken for row in candidates(Token(2, b"b", -2.0, ranked))] == [False, True]
    rows = candidates(Token(9, b"z", -9.0, ranked))
    assert [row.choice for row in rows] == [0, 1, -1]
    assert rows[-1].taken


def test_stop_strings_come_back_as_they_were() -> None:
    stops = ("\n\n", "a\\n", "\t<end>", "###")
    assert stops_read(stops_shown(stops)) == stops
    assert stops_read("") == ()


def test_the_rows_of_the_roads_put_forks_deeper_than_what_goes_on() -> None:
    session = Session.new()
    session.commit("Once upon a time")
    session.commit("Once upon a time there was")
    session.commit("Once upon a hill")
    rows = rows_of(session.tree)
    depths = {words_of(row.node): row.depth for row in rows}
    assert depths[words_of(rows[0].node)] == 0
    assert any(row.fork for row in rows)
    assert max(depths.values()) == 1
