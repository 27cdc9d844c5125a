"""What a person sees of sampling: values of the completion on the screen, a chat's own values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fixtures.scripts import Say
from fixtures.tokenizers import build_tokenizer
from qwen_tui.settings import Settings
from qwen_tui.settings.fields import Origin
from qwen_tui.tui.studio.model_loading import VocabRead
from qwen_tui.types import Sampling
from qwen_tui.vocab import Vocab

Studio = Callable[..., Any]
BEGINNING = "Once upon a time"
MAKERS = Sampling(temperature=0.7, top_k=20, top_p=0.8, repetition_penalty=1.1)


@pytest.fixture(scope="module")
def chatty(tmp_path_factory: pytest.TempPathFactory) -> Vocab:
    """A tokenizer with Qwen2.5's template."""
    return Vocab.load(build_tokenizer(Path(tmp_path_factory.mktemp("chatty")), chat=True))


def rows(bench: Any) -> list[str]:
    """The sampling controls as they are shown."""
    sampling = bench.sampling
    return [sampling.render_line(y).text for y in range(len(sampling.controls.rows))]


def row(bench: Any, name: str) -> str:
    return next(line for line in rows(bench) if name in line)


async def test_a_control_that_was_moved_since_shows_what_the_completion_was_made_with(
    studio: Studio,
) -> None:
    async with studio(lambda _request, _branch: (Say(" a king"),), text=BEGINNING) as bench:
        await bench.ready()
        await bench.pilot.press("ctrl+j")
        await bench.settled()
        assert not any(line.startswith("≠") for line in rows(bench))
        await bench.pilot.press("ctrl+o", *"0.5", "enter")
        await bench.until(lambda: "made with 1" in bench.screen(), "what it was is said at once")
        await bench.pilot.press("up")
        await bench.until(lambda: row(bench, "temperature").startswith("≠"), "it is marked")
        await bench.pilot.press("down")
        await bench.until(lambda: "made with 1" in bench.screen(), "and its value said")
        await bench.pilot.press("ctrl+r")  # a sibling with the new value
        await bench.settled()
        assert not any(line.startswith("≠") for line in rows(bench))
        await bench.pilot.press("alt+up", "up")
        await bench.until(lambda: row(bench, "temperature").startswith("≠"), "the first one's")


async def test_the_control_of_completions_says_how_many_its_key_makes(studio: Studio) -> None:
    async with studio(lambda _request, _branch: (Say(" a king"),), text=BEGINNING) as bench:
        await bench.ready()
        assert "^G 4" in row(bench, "completions")
        await bench.pilot.press("ctrl+g")
        await bench.settled()
        assert "1 of 4" in bench.screen()
        bench.sampling.step("branches", 1)
        await bench.pilot.pause()
        assert "^G" not in row(bench, "completions")
        assert " 2 " in row(bench, "completions")
        await bench.pilot.press("ctrl+z", "ctrl+g")
        await bench.settled()
        assert len(bench.session.generations) == 2
        assert bench.made[0].requests[-1].branches == 2


async def turn_to_chat(bench: Any, vocab: Vocab) -> None:
    await bench.ready()
    bench.workspace.model_reported(VocabRead(vocab, MAKERS, True, frozenset()))
    await bench.pilot.press("f3")
    await bench.pilot.pause()


async def test_a_chat_samples_as_the_checkpoint_asks_and_the_document_as_before(
    studio: Studio, chatty: Vocab
) -> None:
    async with studio((Say(" Yes."),), vocab_of=lambda _settings: chatty) as bench:
        before = bench.sampling.controls
        await turn_to_chat(bench, chatty)
        assert "Checkpoint's" in row(bench, "preset")
        await bench.type("Hi")
        await bench.pilot.press("ctrl+j")
        await bench.settled()
        asked = bench.made[0].requests[0].sampling
        assert replace(asked, seed=None) == MAKERS
        await bench.pilot.press("f3")
        await bench.pilot.pause()
        assert bench.sampling.controls == before


async def test_values_that_a_person_chose_stay_in_a_chat(studio: Studio, chatty: Vocab) -> None:
    async with studio((Say(" Yes."),), vocab_of=lambda _settings: chatty) as bench:
        bench.sampling.step("temperature", 1)
        chosen = bench.sampling.controls
        await bench.pilot.pause()
        await turn_to_chat(bench, chatty)
        assert bench.sampling.controls == chosen
    settings = replace(Settings(), origin={"sampling.temperature": Origin("flag", "--temp")})
    async with studio(
        (Say(" Yes."),), vocab_of=lambda _settings: chatty, settings=settings
    ) as bench:
        await turn_to_chat(bench, chatty)
        assert bench.sampling.controls.sampling == settings.sampling
