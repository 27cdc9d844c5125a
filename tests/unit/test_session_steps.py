"""What undo takes back, what a person's words stay, what an edit keeps, what is remembered."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures.tokenizers import build_tokenizer
from qwen_tui.journal import RecordReader, Scribe, record, seal
from qwen_tui.session.session import Session
from qwen_tui.types import (
    Choice,
    Emitted,
    Environment,
    Finished,
    Hidden,
    Moved,
    Sampling,
    Scored,
    Token,
    text_of,
)
from qwen_tui.vocab import Vocab

ENV = Environment("e1", "scripted", {"repo": "demo"})


@pytest.fixture(scope="module")
def vocab(tmp_path_factory: pytest.TempPathFactory) -> Vocab:
    return Vocab.load(build_tokenizer(tmp_path_factory.mktemp("tokenizer"), chat=True))


def begun(vocab: Vocab | None, text: str = "") -> Session:
    numbers = itertools.count()
    session = Session.new(vocab=vocab, ids=lambda: f"n{next(numbers)}", clock=lambda: 1.7e9)
    if text:
        session.commit(text)
    return session


def complete(session: Session, text: str, *, seed: int | None = None) -> str:
    """One generation that says `text`; the id of its node."""
    assert session.vocab is not None
    generation, nodes = session.start(session.request(Sampling(seed=seed)), ENV)
    session.happen(generation, Emitted(session.vocab.encode(text)))
    session.happen(generation, Finished("length"))
    return nodes[0]


def reread(session: Session) -> Session:
    """The session a file of its entries gives."""
    scribe, reader, other = Scribe(), RecordReader(), Session(vocab=session.vocab)
    for number, entry in enumerate(session.entries):
        found = reader.read(seal(scribe.record(entry), "w", number, 0))
        assert found.ok
        assert found.entry is not None
        other.apply(found.entry)
    return other


def undone(session: Session) -> list[str]:
    """The text after each undo."""
    out = []
    while session.undo():
        out.append(session.text)
    return out


# -- undo of typing ----------------------------------------------------------------------------


@pytest.mark.parametrize("known", [True, False])
def test_typing_is_taken_back_word_by_word_after_a_generation(vocab: Vocab, known: bool) -> None:
    session = begun(vocab if known else None)
    session.commit_typing("one two three")
    if known:
        complete(session, " four")
        session.accept()
    for each in (session, reread(session)):
        texts = undone(each)
        assert texts[-3:] == ["one two", "one", ""]
        assert each.redo()
        assert each.text == "one"
        assert each.redo()
        assert each.text == "one two"


def test_the_pauses_of_typing_are_the_steps_when_they_are_known(vocab: Vocab) -> None:
    session = begun(vocab, "A")
    steps = ["A cat", "A cat sat", "A dog sat", "A dog sat down on"]
    session.commit_typing("A dog sat down on it", steps)
    assert session.text == "A dog sat down on it"
    assert undone(session) == [*reversed(steps), "A", ""]


def test_deleting_before_typing_on_is_a_step_of_its_own(vocab: Vocab) -> None:
    session = begun(vocab, "A big cat")
    session.commit_typing("A big dog ran", ["A big", "A big dog"])
    assert undone(session) == ["A big dog", "A big", "A big cat", ""]


def test_a_step_inside_a_word_or_character_ends_before_it(vocab: Vocab) -> None:
    session = begun(vocab, "Say")
    session.commit_typing("Say 🙂 yes", ["Say 🙂", "Say 🙂 ye"])
    texts = undone(session)
    assert all("\ufffd" not in text and "Say 🙂 yes".startswith(text) for text in texts)
    assert texts[-2:] == ["Say", ""]


def test_very_much_typing_is_a_hundred_steps_at_most(vocab: Vocab) -> None:
    session = begun(vocab)
    session.commit_typing("word " * 5_000)
    moves = [entry for entry in session.entries if isinstance(entry, Moved)]
    assert 50 < len(moves) <= 101
    assert len(session.tree) == 1


@given(st.lists(st.text("ab \n é🙂漢", max_size=12), min_size=1, max_size=6), st.booleans())
def test_whatever_is_typed_is_the_document_and_comes_off_again(
    vocab: Vocab, texts: list[str], known: bool
) -> None:
    session = begun(vocab if known else None, "a b")
    *steps, text = texts
    session.commit_typing(text, steps)
    assert session.text == text
    assert reread(session).head == session.head
    if text != "a b":
        assert "a b" in undone(session)
    while session.redo():
        pass
    assert session.text == text


def test_text_that_only_shrank_is_one_step(vocab: Vocab) -> None:
    session = begun(vocab, "one two three")
    session.commit_typing("one")
    assert undone(session) == ["one two three", ""]


# -- a person's words stay a person's ----------------------------------------------------------


def test_ones_own_words_never_become_a_completion(vocab: Vocab) -> None:
    session = begun(vocab, "Once upon")
    session.commit_typing("Once upon a time there")
    assert session.undo()
    assert session.text == "Once upon a time"
    assert (session.tail, session.completion, session.completions()) == ([], None, [])
    assert not session.accept()
    node = complete(session, " he sang")
    assert session.completions() == [node]
    session.accept()
    session.commit_typing(session.text + " to her")
    while session.text != "Once upon a time":
        assert session.undo()
    assert text_of(session.tail) == " he sang"


def test_stepping_back_over_a_completion_leaves_what_was_typed_after_it_out(vocab: Vocab) -> None:
    session = begun(vocab, "Once")
    complete(session, " upon")
    session.accept()
    session.commit(session.text + " MINE")
    session.parent()
    session.parent()
    assert session.text == "Once"
    assert text_of(session.tail) == " upon"
    assert session.accept()
    assert session.text == "Once upon"
    assert session.child()
    assert session.text == "Once upon MINE"


def test_turning_to_another_completion_never_replaces_an_edit(vocab: Vocab) -> None:
    session = begun(vocab, "Once")
    complete(session, " one")
    session.regenerate(Sampling())
    complete(session, " two")
    session.accept()
    session.commit_typing("Once two and mine")
    before = session.head
    assert session.siblings() == []
    assert not session.next()
    assert not session.previous()
    assert session.head == before
    assert session.undo()
    assert session.redo()
    assert session.text == "Once two and mine"


def test_every_move_can_be_undone(vocab: Vocab) -> None:
    session = begun(vocab, "Once")
    complete(session, " one")
    session.request_siblings(Sampling())
    complete(session, " two")
    moves: list[Callable[[], object]] = [
        session.next, session.accept, session.next, session.parent, session.child,
        session.accept_word, lambda: session.go(None), lambda: session.hide("n1"),
    ]  # fmt: skip
    for move in moves:
        place, text, shown = session.head, session.text, text_of(session.tail)
        hidden = session.hidden()
        if move():
            assert session.undo()
            assert (session.text, session.hidden()) == (text, hidden)
            assert text_of(session.tail) == shown
            assert session.head == place
            assert session.redo()


# -- hiding ------------------------------------------------------------------------------------


def test_undo_after_hiding_shows_the_branch_again(vocab: Vocab) -> None:
    session = begun(vocab, "Once")
    node = complete(session, " upon")
    session.accept()
    session.hide(node)
    assert (session.text, session.hidden(), session.completions()) == ("Once", [node], [])
    for each in (session, reread(session)):
        assert each.undo()
        assert (each.text, each.hidden()) == ("Once upon", [])
        assert each.redo()
        assert (each.text, each.hidden()) == ("Once", [node])
        assert each.undo()
        assert each.hidden() == []


def test_a_branch_beside_is_hidden_and_shown_without_moving(vocab: Vocab) -> None:
    session = begun(vocab, "Once")
    first = complete(session, " one")
    session.request_siblings(Sampling())
    complete(session, " two")
    place = session.head
    session.hide(first)
    assert session.head == place
    session.unhide(first)
    assert session.hidden() == []
    assert session.undo()
    assert session.hidden() == [first]
    assert session.undo()
    assert (session.hidden(), session.head) == ([], place)


def test_a_file_that_hid_without_saying_how_is_undone_at_once(vocab: Vocab) -> None:
    session = begun(vocab, "Once")
    node = complete(session, " upon")
    session.accept()
    root = session.tree[node].parent
    session.apply(Hidden(node))
    session.apply(Moved(root, session.tree[node].at))
    assert session.undo()
    assert (session.text, session.hidden()) == ("Once upon", [])


# -- several completions of the text on the screen -----------------------------------------------


def test_several_after_accepting_go_on_from_the_text_on_the_screen(vocab: Vocab) -> None:
    session = begun(vocab, "Once")
    complete(session, " upon", seed=5)
    session.accept()
    request = session.request_siblings(Sampling(seed=5), branches=4)
    assert text_of(request.prompt) == session.text == "Once upon"
    assert request.sampling.seed == 5
    generation, nodes = session.start(request, ENV)
    for branch in range(4):
        session.happen(generation, Emitted((Token(branch, b" a"),), branch))
        session.happen(generation, Finished("length", branch))
    again = session.request_siblings(Sampling(seed=5))
    assert again.sampling.seed == 6
    assert session.completions() == list(nodes)


def test_several_of_a_partly_accepted_completion_keep_what_was_accepted(vocab: Vocab) -> None:
    session = begun(vocab, "Once")
    complete(session, " upon a time", seed=1)
    assert session.accept_word()
    request = session.request_siblings(Sampling(seed=1))
    assert text_of(request.prompt) == "Once upon"
    assert request.sampling.seed == 2


def test_a_completion_without_text_leaves_no_tab_behind(vocab: Vocab) -> None:
    session = begun(vocab, "The end.")
    eos = vocab.token(vocab.end_of_text or 0)
    for _ in range(3):
        generation, (node,) = session.start(session.request_siblings(Sampling()), ENV)
        assert session.completions() == [node]
        session.happen(generation, Emitted((eos,)))
        session.happen(generation, Finished("eos"))
        assert session.completions() == [node]
        assert session.is_empty(node)
    stopped, (node,) = session.start(session.request_siblings(Sampling()), ENV)
    assert not session.is_empty(node)
    session.happen(stopped, Finished("cancelled"))
    assert session.is_empty(node)
    kept = complete(session, " Or not.")
    assert session.completions() == [kept]
    assert reread(session).completions() == [kept]


# -- records of tokens ---------------------------------------------------------------------------


def scored(session: Session) -> None:
    """Give every token of the document a probability and an alternative."""
    request = session.request(Sampling(), score=True)
    generation, _ = session.start(request, ENV)
    tokens = tuple(
        Token(token.id, token.data, -0.5, (Choice(token.id, token.data, -0.5),))
        for token in request.prompt
    )
    session.happen(generation, Scored(0, tokens))
    session.happen(generation, Finished("length"))


def test_an_accepted_token_is_found_with_its_record(vocab: Vocab) -> None:
    session = begun(vocab, "Once")
    (token,) = vocab.encode(" upon")
    generation, (node,) = session.start(session.request(Sampling()), ENV)
    other = Choice(3, vocab.data(3), -2.0)
    session.happen(generation, Emitted((Token(token.id, token.data, -0.1, (other,)),)))
    session.accept()
    found = session.token_at(len("Once u"))
    assert found is not None
    position, seen = found
    assert (seen.logprob, seen.choices) == (-0.1, (other,))
    assert session.locate(position) == (node, 0)
    session.fork(*session.locate(position), seen.choices[0])
    assert session.text == "Once" + vocab.data(3).decode()
    assert session.token_at(10_000) is None


def test_one_changed_letter_keeps_the_records_of_what_follows(vocab: Vocab) -> None:
    session = begun(vocab, "The king went to the castle")
    scored(session)
    session.commit("The ring went to the castle")
    for each in (session, reread(session)):
        known = [token for token in each.tokens if token.logprob is not None]
        assert len(known) >= len(each.tokens) - 3
        assert each.tokens[-1].stale
        assert each.tokens[-1].choices[0].logprob == -0.5
        assert not each.tokens[0].stale
    scored(session)
    assert not any(token.stale for token in session.tokens)


# -- what the interface keeps ----------------------------------------------------------------------


def test_a_session_remembers_what_the_interface_gave_it(vocab: Vocab) -> None:
    session = begun(vocab, "Once")
    session.remember(theme="paper", model="Qwen/Qwen2.5-7B", sampling={"temperature": 0.7})
    count = len(session.entries)
    session.remember(theme="paper")
    assert len(session.entries) == count
    session.remember(theme="night", stop=["\n"])
    assert reread(session).remembered == {
        "theme": "night",
        "model": "Qwen/Qwen2.5-7B",
        "sampling": {"temperature": 0.7},
        "stop": ["\n"],
    }


def test_what_is_remembered_is_a_record_that_others_may_ignore(vocab: Vocab) -> None:
    session = begun(vocab, "Once")
    session.remember(layout="inline")
    assert record(session.entries[-1]) == {"k": "prefs", "values": {"layout": "inline"}}
    line: dict[str, Any] = {"k": "prefs", "values": "no map"}
    found = RecordReader().read(json.dumps(line).encode())
    assert found.entry is None
