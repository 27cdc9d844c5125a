"""Chat in the studio: the same tree, turns through the tokenizer's own template."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fixtures.scripts import Say
from fixtures.tokenizers import build_tokenizer
from qwen_tui.tui.studio import chat
from qwen_tui.vocab import Vocab

Studio = Callable[..., Any]


@pytest.fixture(scope="module")
def chatty(tmp_path_factory: pytest.TempPathFactory) -> Vocab:
    """A tokenizer with Qwen2.5's template."""
    folder = tmp_path_factory.mktemp("chatty")
    return Vocab.load(build_tokenizer(Path(folder), chat=True))


async def test_a_model_without_a_template_says_what_to_expect(studio: Studio) -> None:
    async with studio(text="Once") as bench:
        await bench.ready()
        await bench.pilot.press("f3")
        assert not bench.workspace.text.chatting
        assert "goes on with a text" in bench.screen()
        assert "Instruct" in bench.screen()


async def test_a_message_is_a_turn_in_the_template_and_the_answer_streams(
    studio: Studio, chatty: Vocab
) -> None:
    script = (Say(" Very well."),)
    async with studio(script, vocab_of=lambda _settings: chatty) as bench:
        await bench.ready()
        await bench.pilot.press("f3")
        assert bench.workspace.text.chatting
        assert "not trained to answer" in bench.screen()
        await bench.type("How are you?")
        await bench.pilot.press("ctrl+j")
        await bench.settled()
        sent = b"".join(token.data for token in bench.made[0].requests[0].prompt).decode()
        assert sent.endswith("<|im_start|>user\nHow are you?<|im_end|>\n<|im_start|>assistant\n")
        assert bench.document == ""
        assert "How are you?" in bench.screen()
        assert "Very well." in bench.screen()
        assert "<|im_start|>" not in bench.screen()


async def test_the_next_message_follows_the_answer(studio: Studio, chatty: Vocab) -> None:
    async with studio((Say(" Yes."),), vocab_of=lambda _settings: chatty) as bench:
        await bench.ready()
        await bench.pilot.press("f3")
        for message in ("One", "Two"):
            await bench.type(message)
            await bench.pilot.press("ctrl+j")
            await bench.settled()
        sent = b"".join(token.data for token in bench.made[0].requests[1].prompt).decode()
        assert "One<|im_end|>\n<|im_start|>assistant\n Yes." in sent
        assert sent.endswith("<|im_start|>user\nTwo<|im_end|>\n<|im_start|>assistant\n")
        assert [role for role, _ in bench.session.turns()] == ["user", "assistant", "user"]


async def test_an_answer_can_be_asked_for_again(studio: Studio, chatty: Vocab) -> None:
    async with studio((Say(" Yes."),), vocab_of=lambda _settings: chatty) as bench:
        await bench.ready()
        await bench.pilot.press("f3")
        await bench.type("One")
        await bench.pilot.press("ctrl+j")
        await bench.settled()
        await bench.pilot.press("ctrl+r")
        await bench.settled()
        assert "2 of 2" in bench.screen()
        first, second = bench.made[0].requests
        assert first.prompt == second.prompt


async def test_each_side_remembers_where_it_stood(studio: Studio, chatty: Vocab) -> None:
    async with studio((Say(" Yes."),), vocab_of=lambda _settings: chatty, text="A book") as bench:
        await bench.ready()
        await bench.type(" of mine")
        await bench.pilot.press("f3")
        assert bench.document == ""
        await bench.type("half a mess")
        await bench.pilot.press("f3")
        assert bench.document == "A book of mine"
        await bench.pilot.press("f3")
        assert bench.document == "half a mess"


async def test_what_a_person_types_is_never_the_templates(studio: Studio, chatty: Vocab) -> None:
    async with studio((Say(" Yes."),), vocab_of=lambda _settings: chatty) as bench:
        await bench.ready()
        await bench.pilot.press("f3")
        bench.editor.paste_more("<|im_end|>")
        await bench.pilot.press("ctrl+j")
        await bench.settled()
        end = chatty.id_of("<|im_end|>")
        prompt = bench.made[0].requests[0].prompt
        spelled_out = b"<|im_end|>\n"
        ids = [token.id for token in prompt]
        assert ids.count(end) == 2  # the system turn's and this one's own
        assert spelled_out in b"".join(token.data for token in prompt)


async def test_an_answer_that_another_token_cut_stays_under_one_heading(
    studio: Studio, chatty: Vocab
) -> None:
    async with studio((Say(" Very well."),), vocab_of=lambda _settings: chatty) as bench:
        await bench.ready()
        await bench.pilot.press("f3")
        await bench.type("How?")
        await bench.pilot.press("ctrl+j")
        await bench.settled()
        bench.session.accept(upto=1)
        assert chat.transcript(bench.session).count("── Model ──") == 1
        bench.session.accept()
        assert chat.transcript(bench.session).count("── Model ──") == 1
        while bench.session.turns()[-1:] != [("user", "How?")]:
            bench.session.undo()
        bench.session.reject()
        assert "── Model ──" not in chat.transcript(bench.session)
