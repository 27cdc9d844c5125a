"""Chat in the studio: the same tree, turns through the tokenizer's own template."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fixtures.scripts import Say
from fixtures.tokenizers import build_tokenizer
from qwen_tui.session.session import Session
from qwen_tui.tui.studio import chat, conversation
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


async def test_the_box_of_a_chat_asks_for_a_message(studio: Studio, chatty: Vocab) -> None:
    async with studio((Say(" Yes."),), vocab_of=lambda _settings: chatty) as bench:
        await bench.ready()
        assert "Write the beginning of a text" in bench.screen()
        await bench.pilot.press("f3")
        await bench.pilot.pause()
        assert "Write a message." in bench.screen()
        assert "Write the beginning" not in bench.screen()
        await bench.pilot.press("f3")
        await bench.pilot.pause()
        assert "Write the beginning of a text" in bench.screen()


async def chat_of(bench: Any, *messages: str) -> None:
    """Turn to the chat and send messages, each after the answer to the last."""
    await bench.ready()
    await bench.pilot.press("f3")
    for message in messages:
        await bench.type(message)
        await bench.pilot.press("ctrl+j")
        await bench.settled()


def sent(bench: Any) -> str:
    """The prompt of the newest request."""
    return b"".join(token.data for token in bench.made[-1].requests[-1].prompt).decode()


async def test_a_conversation_begins_with_the_system_message_and_the_session_keeps_it(
    studio: Studio, chatty: Vocab
) -> None:
    async with studio((Say(" Aye."),), vocab_of=lambda _settings: chatty) as bench:
        await chat_of(bench)
        bench.studio.action_system_message()
        await bench.until(lambda: "System message" in bench.screen(), "it is asked for")
        await bench.type("Be a pirate.")
        await bench.pilot.press("ctrl+s")
        await bench.type("Hi")
        await bench.pilot.press("ctrl+j")
        await bench.settled()
        assert sent(bench) == (
            "<|im_start|>system\nBe a pirate.<|im_end|>\n"
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
        )
        assert "── System ──" in bench.screen()
        await bench.type("Ho")
        await bench.pilot.press("ctrl+j")
        await bench.settled()
        assert sent(bench).count("Be a pirate.") == 1
        again = Session(vocab=chatty)
        for entry in bench.session.entries:
            again.apply(entry)
        assert chat.system_message(again) == "Be a pirate."


async def test_another_system_message_begins_another_conversation_and_the_old_one_stays(
    studio: Studio, chatty: Vocab
) -> None:
    async with studio((Say(" Aye."),), vocab_of=lambda _settings: chatty) as bench:
        await chat_of(bench, "One")
        old = bench.session.head
        bench.studio.do(conversation.set_system_message, bench.workspace, "Be brief.")
        await bench.type("Two")
        await bench.pilot.press("ctrl+j")
        await bench.settled()
        assert sent(bench).startswith(
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nTwo"
        )
        bench.session.go(*old)
        assert [role for role, _ in bench.session.turns()] == ["user"]


async def test_an_earlier_message_is_changed_and_a_branch_grows_from_there(
    studio: Studio, chatty: Vocab
) -> None:
    async with studio((Say(" Yes."),), vocab_of=lambda _settings: chatty) as bench:
        await chat_of(bench, "One", "Two", "Three")
        whole = chat.transcript(bench.session)
        await bench.pilot.press("alt+m")
        assert bench.document == "Three"
        await bench.pilot.press("alt+m")
        await bench.pilot.pause()
        assert bench.document == "Two"
        assert "Three" not in bench.screen()
        await bench.type("!")
        await bench.pilot.press("ctrl+j")
        await bench.settled()
        turns = [(role, text.strip()) for role, text in bench.session.turns()]
        assert turns == [("user", "One"), ("assistant", "Yes."), ("user", "Two!")]
        assert (
            "One<|im_end|>\n<|im_start|>assistant\n Yes.<|im_end|>\n<|im_start|>user\nTwo!"
            in sent(bench)
        )
        for _ in range(30):
            if chat.transcript(bench.session) != whole:
                await bench.pilot.press("ctrl+z")
        assert chat.transcript(bench.session) == whole


async def test_the_first_message_is_changed_before_which_nothing_stands(
    studio: Studio, chatty: Vocab
) -> None:
    async with studio((Say(" Yes."),), vocab_of=lambda _settings: chatty) as bench:
        await chat_of(bench, "One")
        first = sent(bench)
        await bench.pilot.press("alt+m")
        assert bench.document == "One"
        await bench.pilot.press("alt+m")
        assert bench.document == "One"
        await bench.pilot.press("ctrl+j")
        await bench.settled()
        assert sent(bench) == first


async def test_a_message_not_yet_sent_is_never_replaced_by_an_earlier_one(
    studio: Studio, chatty: Vocab
) -> None:
    async with studio((Say(" Yes."),), vocab_of=lambda _settings: chatty) as bench:
        await bench.ready()
        await bench.pilot.press("f3")
        assert "The conversation appears here." in bench.screen()
        await bench.pilot.press("f3")
        await chat_of(bench, "One")
        await bench.type("Two and more")
        await bench.pilot.press("alt+m")
        assert bench.document == "Two and more"
        assert " Yes." in bench.screen()
        assert "Send or clear the message in the box first." in bench.screen()


async def test_undo_leaves_no_heading_without_words(studio: Studio, chatty: Vocab) -> None:
    async with studio(
        lambda _request, _branch: (Say(" Very well. Yes."),), vocab_of=lambda _settings: chatty
    ) as bench:
        await chat_of(bench, "How?")
        await bench.pilot.press("ctrl+t", "right", "down", "enter")
        await bench.settled()
        assert (chat.transcript(bench.session) + bench.output).count("── Model ──") == 1
        for _ in range(12):
            shown = chat.transcript(bench.session) + bench.output
            assert shown.count("── Model ──") <= 1
            assert not shown.rstrip().endswith("──"), shown
            await bench.pilot.press("ctrl+z")
            await bench.settled()


async def test_an_answer_stopped_before_its_first_word_has_no_heading(
    studio: Studio, chatty: Vocab
) -> None:
    async with studio(gated=True, vocab_of=lambda _settings: chatty) as bench:
        await bench.ready()
        await bench.pilot.press("f3")
        await bench.type("How?")
        await bench.pilot.press("ctrl+j")
        await bench.until(lambda: "── Model ──" in bench.screen(), "it begins")
        await bench.pilot.press("escape")
        await bench.settled()
        assert "How?" in bench.screen()
        assert "── Model ──" not in bench.screen()
