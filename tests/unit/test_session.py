"""What a person does to a session, and that a file's entries lead to the very same place."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest

from fixtures.tokenizers import build_tokenizer
from qwen_tui.context_window import Window
from qwen_tui.journal import MAX_LINE, RecordReader, Scribe, ids_sha256, seal
from qwen_tui.session.generations import sampling_of
from qwen_tui.session.identity import ulid
from qwen_tui.session.session import Session
from qwen_tui.types import (
    Choice,
    Emitted,
    Entry,
    Environment,
    Finished,
    Happened,
    Moved,
    Prefilled,
    Progress,
    Request,
    Sampling,
    Scored,
    Started,
    Token,
    Trouble,
    joined,
    text_of,
)
from qwen_tui.vocab import Vocab

ENV = Environment("e1", "scripted", {"repo": "demo"})
FACE = "🙂".encode()


@pytest.fixture(scope="module")
def vocab(tmp_path_factory: pytest.TempPathFactory) -> Vocab:
    return Vocab.load(build_tokenizer(tmp_path_factory.mktemp("tokenizer"), chat=True))


def counting() -> Callable[[], str]:
    numbers = itertools.count()
    return lambda: f"n{next(numbers)}"


def begun(vocab: Vocab | None = None, text: str = "") -> Session:
    seeds = itertools.count(1000)
    session = Session.new(
        vocab=vocab,
        ids=counting(),
        seeds=lambda: next(seeds),
        clock=lambda: 1.7e9,
        bits=lambda n: 7,
    )
    if text:
        session.commit(text)
    return session


def said(text: str | bytes, id: int = 1) -> Token:
    return Token(id, text.encode() if isinstance(text, str) else text, -0.5)


def complete(
    session: Session, *words: str | bytes, reason: str | None = "length", **values: object
) -> str:
    """One generation that says `words`; the id of its node."""
    request = session.request(Sampling(), **values)  # type: ignore[arg-type]
    generation, nodes = session.start(request, ENV)
    speak(session, generation, *words, reason=reason)
    return nodes[0]


def speak(
    session: Session,
    generation: str,
    *words: str | bytes,
    reason: str | None = "length",
    branch: int = 0,
) -> None:
    for index, word in enumerate(words):
        session.happen(generation, Emitted((said(word),), branch, 10 * index, index))
    if reason is not None:
        session.happen(generation, Finished(reason, branch))  # type: ignore[arg-type]


def lines_of(session: Session) -> list[bytes]:
    scribe = Scribe()
    return [
        seal(scribe.record(entry), "w", number, 0) for number, entry in enumerate(session.entries)
    ]


def reread(session: Session) -> Session:
    """The session a file of its entries gives."""
    reader = RecordReader()
    other = Session(vocab=session.vocab)
    for line in lines_of(session):
        found = reader.read(line)
        assert found.ok
        assert found.entry is not None
        other.apply(found.entry)
    return other


def same(a: Session, b: Session) -> None:
    assert (a.id, a.title, a.tags, a.head, a.text) == (b.id, b.title, b.tags, b.head, b.text)
    assert a.tokens == b.tokens
    assert a.tail == b.tail
    assert a.completion == b.completion
    assert list(a.tree.nodes) == list(b.tree.nodes)
    for id, node in a.tree.nodes.items():
        other = b.tree[id]
        assert (node.parent, node.at, node.source, node.role, node.tokens, node.reason) == (
            *(other.parent, other.at, other.source, other.role, other.tokens, other.reason),
        )


# -- typing ----------------------------------------------------------------------------------------


def test_typing_commits_what_changed_and_nothing_else(vocab: Vocab) -> None:
    session = begun(vocab, "Once upon a time")
    assert session.commit("Once upon a time") is None
    first = len(session.tree)

    grown = session.commit("Once upon a time there was")
    assert grown is not None
    assert session.tree[grown].source == "user"
    assert len(session.tree) == first + 1
    edited = session.commit("Once upon a house")
    assert edited is not None
    assert session.tree[edited].source == "edit"
    assert session.text == "Once upon a house"
    assert joined(session.tokens) == b"Once upon a house"


@pytest.mark.parametrize("known", [True, False], ids=["vocabulary", "text only"])
def test_thousands_of_random_edits_agree_with_a_plain_string(vocab: Vocab, known: bool) -> None:
    draw = random.Random(11)
    session = begun(vocab if known else None)
    alphabet = [
        "a",
        "the ",
        " dog",
        "\n",
        "é",
        "人",
        "🙂",
        "  ",
        "house",
        ".",
        "'s",
        "<|endoftext|>",
    ]
    plain = ""
    states: list[str] = [plain]
    for _ in range(500 if known else 4_500):
        at = draw.randint(max(0, len(plain) - 30), len(plain))
        cut = draw.choice([0, 0, 0, 1, 5]) if len(plain) < 300 else draw.randint(0, 40)
        put = "".join(draw.choices(alphabet, k=draw.randint(0, 3)))
        text = plain[:at] + put + plain[at + cut :]
        before = [token.data for token in session.tokens]
        shared = len(text[: len(plain)]) if text.startswith(plain) else 0
        session.commit(text)
        assert session.text == text
        assert joined(session.tokens) == text.encode()
        assert not session.tail
        if text != plain:
            states.append(text)
        if shared and len(before) > 4 and known:
            # Typing at the end costs the last word, never the whole context.
            assert [token.data for token in session.tokens][: len(before) // 4] == before[
                : len(before) // 4
            ]
        plain = text
    same(session, reread(session))
    for text in reversed(states[-40:-1]):
        while session.text != text:
            assert session.undo()


def test_the_kept_prefix_is_the_trees_own(vocab: Vocab) -> None:
    session = begun(vocab, "The quick brown fox jumps over the lazy dog.")
    first = session.tokens
    session.commit("The quick brown fox sleeps.")
    second = session.tokens

    pairs = zip(first, second, strict=False)
    shared = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
    assert text_of(first[:shared]).startswith("The quick brown")
    node = session.tree[session.head.node or ""]
    assert node.at <= shared


def test_an_emptied_document_is_empty_and_can_be_undone(vocab: Vocab) -> None:
    session = begun(vocab, "words")
    session.commit("")
    assert session.text == ""
    assert session.undo()
    assert session.text == "words"
    assert session.redo()
    assert session.text == ""


def test_deleting_leaves_no_completion_behind(vocab: Vocab) -> None:
    session = begun(vocab, "one two three")
    session.commit("one two")
    assert session.text == "one two"
    assert session.tail == []
    assert session.completion is None


def test_an_opened_file_is_a_node_of_its_own(vocab: Vocab) -> None:
    session = begun(vocab)
    node = session.commit("from a file\n", "file")
    assert session.tree[node or ""].source == "file"


def test_measuring_changes_nothing(vocab: Vocab) -> None:
    session = begun(vocab, "one two")
    count = len(session.entries)
    for text in ("one two three", "one", "", "zwei 🙂"):
        measured = session.measure(text)
        other = begun(vocab, "one two")
        other.commit(text)
        assert measured == len(other.tokens)
    assert len(session.entries) == count


# -- generating ------------------------------------------------------------------------------------


def test_a_completion_is_the_tail_until_it_is_accepted(vocab: Vocab) -> None:
    session = begun(vocab, "Once upon")
    node = complete(session, " a", " time", ".")

    assert session.text == "Once upon"
    assert text_of(session.tail) == " a time."
    assert session.completion == node
    assert session.tentative
    assert session.accept()
    assert session.text == "Once upon a time."
    assert not session.tentative
    assert not session.accept()
    assert session.undo()
    assert text_of(session.tail) == " a time."
    assert session.undo()
    assert session.text == "Once upon"
    assert session.tail == []
    same(session, reread(session))


def test_accepting_leaves_out_the_token_that_ended_it(vocab: Vocab) -> None:
    session = begun(vocab, "Once upon")
    complete(session, " a", "<|endoftext|>", reason="eos")
    session.accept()
    assert session.text == "Once upon a"


def test_accepting_a_part_and_then_words(vocab: Vocab) -> None:
    session = begun(vocab, "It")
    node = complete(session, " is", " what", " it", " is")
    session.accept(upto=1)
    assert session.text == "It is"
    assert session.tail[0] == session.tree[node].tokens[1]
    assert session.tail[0].data == b" what"
    assert session.accept_word()
    assert session.text == "It is what"
    assert session.accept_word()
    assert session.accept_word()
    assert not session.accept_word()
    assert session.text == "It is what it is"


def test_a_word_never_splits_a_character_and_needs_no_spaces(vocab: Vocab) -> None:
    session = begun(vocab, "x")
    complete(session, b" a" + FACE[:1], FACE[1:], " 人工", "知能", "は")
    seen = []
    while session.accept_word():
        seen.append(session.text)
    assert seen[-1] == "x a🙂 人工知能は"
    assert len(seen) >= 4
    assert not any("\ufffd" in text for text in seen)


def test_accepting_while_it_streams_takes_what_is_there(vocab: Vocab) -> None:
    session = begun(vocab, "Once")
    generation, _ = session.start(session.request(Sampling()), ENV)
    assert session.tentative
    assert not session.accept()
    session.happen(generation, Emitted((said(" upon"),), index=0))
    assert session.accept()
    session.happen(generation, Emitted((said(" a"),), index=1))
    assert session.text == "Once upon"
    assert text_of(session.tail) == " a"
    session.commit("Once upon now")
    session.happen(generation, Emitted((said(" time"),), index=2))
    session.happen(generation, Finished("length"))
    assert session.text == "Once upon now"
    same(session, reread(session))


def test_rejecting_keeps_the_text_and_the_sibling(vocab: Vocab) -> None:
    session = begun(vocab, "Once upon")
    node = complete(session, " a")
    assert session.reject()
    assert session.text == "Once upon"
    assert session.tail == []
    assert session.completions() == [node]
    assert not session.reject()
    assert session.next()
    assert text_of(session.tail) == " a"
    assert session.undo()
    assert session.tail == []


def test_rejecting_in_the_middle_of_older_text_shows_none_of_it(vocab: Vocab) -> None:
    session = begun(vocab, "one two three four")
    session.parent()
    root = next(iter(session.tree.nodes))
    session.go(root, 2)
    complete(session, " X")
    session.reject()
    assert session.tail == []
    session.commit(session.text + "!")
    assert session.tail == []


def test_siblings_are_turned_through_round_the_end(vocab: Vocab) -> None:
    session = begun(vocab, "Once")
    generation, nodes = session.start(session.request(Sampling(), branches=3), ENV)
    for branch, word in enumerate((" a", " b", " c")):
        speak(session, generation, word, branch=branch)

    assert session.completions() == list(nodes)
    seen = []
    for _ in range(4):
        seen.append(text_of(session.tail))
        assert session.next()
    assert seen == [" a", " b", " c", " a"]
    assert session.previous()
    assert text_of(session.tail) == " a"
    session.accept()
    assert session.next()
    assert session.text == "Once b"
    assert session.parent()
    assert text_of(session.tail) == " b"
    assert session.child()
    assert session.text == "Once b"


def test_regenerating_keeps_the_old_one_and_asks_for_another_seed(vocab: Vocab) -> None:
    session = begun(vocab, "Once")
    fixed = Sampling(seed=2**64 - 2)
    seeds = []
    request = session.request(fixed)
    for _ in range(3):
        generation, _ = session.start(request, ENV)
        speak(session, generation, f" {len(seeds)}")
        seeds.append(request.sampling.seed)
        request = session.regenerate(fixed)
        assert session.text == "Once"
        assert text_of(request.prompt) == "Once"

    assert seeds == [2**64 - 2, 2**64 - 1, 0]
    assert len(session.completions()) == 3
    session.accept()
    assert text_of(session.regenerate(Sampling()).prompt) == "Once"


def test_without_a_seed_each_generation_has_a_fresh_one_on_record(vocab: Vocab) -> None:
    session = begun(vocab, "Once")
    first = session.request(Sampling())
    second = session.request(Sampling())
    assert first.sampling.seed != second.sampling.seed
    with pytest.raises(ValueError, match="seed"):
        session.start(Request(first.prompt), ENV)
    generation, _ = session.start(first, ENV, rng="philox")
    run = session.generations[generation]
    assert run.seed == first.sampling.seed
    assert run.params["rng"] == "philox"
    assert sampling_of(run.params) == first.sampling
    assert run.started.prompt == {"n": len(first.prompt), "sha256": ids_sha256(first.prompt)}


def test_an_empty_document_is_seeded_and_stays_empty_to_the_eye(vocab: Vocab) -> None:
    session = begun(vocab)
    request = session.request(Sampling())
    assert [token.id for token in request.prompt] == [vocab.end_of_text]
    assert session.text == ""
    generation, _ = session.start(request, ENV)
    speak(session, generation, "Hello", " world")
    session.accept()
    assert session.text == "Hello world"
    assert session.request(Sampling()).prompt[0].id == vocab.end_of_text
    session.commit("Hello house")
    assert session.tokens[0].id == vocab.end_of_text
    session.commit("Fresh start")
    assert session.tokens[0].id != vocab.end_of_text
    assert session.text == "Fresh start"
    same(session, reread(session))


def test_without_a_vocabulary_text_alone_is_requested() -> None:
    session = begun(None, "one two")
    request = session.request(Sampling())
    assert text_of(request.prompt) == "one two"
    assert {token.id for token in request.prompt} == {-1}


def test_text_without_ids_is_encoded_when_a_vocabulary_comes(vocab: Vocab) -> None:
    session = begun(None, "The quick brown fox")
    complete(session, " jumps")
    session.accept()
    session.vocab = vocab
    request = session.request(Sampling())

    assert request.prompt == vocab.encode("The quick brown fox jumps")
    assert session.text == "The quick brown fox jumps"
    count = len(session.entries)
    session.request(Sampling())
    assert len(session.entries) == count


def test_a_token_cut_by_a_stop_string_is_not_sent_whole(vocab: Vocab) -> None:
    session = begun(vocab, "The")
    word = next(vocab.token(id) for id in range(300, vocab.size) if len(vocab.data(id)) > 3)
    generation, _ = session.start(session.request(Sampling()), ENV)
    session.happen(generation, Emitted((Token(word.id, word.data[:2]),)))
    session.happen(generation, Finished("stop", stop="x"))
    session.accept()
    request = session.request(Sampling())

    assert joined(request.prompt) == joined(session.tokens) == b"The" + word.data[:2]
    assert all(vocab.data(token.id) == token.data for token in request.prompt)


def test_healing_forks_before_the_last_word(vocab: Vocab) -> None:
    session = begun(vocab, "The quick bro")
    request = session.request(Sampling(), heal=True)
    assert request.prefix
    generation, _ = session.start(request, ENV)
    speak(session, generation, request.prefix + b"wn")
    session.accept()
    assert session.text == "The quick brown"


def test_what_happened_is_known_while_it_runs(vocab: Vocab) -> None:
    session = begun(vocab, "Once")
    generation, (node,) = session.start(session.request(Sampling()), ENV)
    run = session.generations[generation]
    assert session.running == [run]
    session.happen(generation, Progress("prefill", 1, 2))
    assert run.progress == Progress("prefill", 1, 2)
    session.happen(generation, Prefilled(1, 0, 0.1))
    for index in range(11):
        session.happen(generation, Emitted((said("x"),), ms=100 + 50 * index, index=index))
    assert run.progress is None
    assert (run.count, run.ttft_ms) == (11, 100)
    assert run.tok_s == pytest.approx(20)
    assert not session.is_interrupted(node)
    session.happen(generation, Finished("cancelled"))
    assert session.running == []
    session.happen(generation, Emitted((said("late"),), index=11))
    assert len(session.tree[node].tokens) == 11
    assert not any(isinstance(entry, Progress) for entry in session.entries)


def test_a_generation_without_an_end_was_interrupted_and_can_go_on(vocab: Vocab) -> None:
    session = begun(vocab, "Once")
    node = complete(session, " upon", " a", reason=None)
    again = reread(session)

    assert again.interrupted() == [node]
    assert again.generations[again.tree[node].generation or ""].interrupted
    assert again.accept(node)
    assert len(again.tree[node].tokens) == 2
    assert text_of(again.request(Sampling()).prompt) == "Once upon a"


def test_scores_land_on_the_nodes_that_hold_the_prompt(vocab: Vocab) -> None:
    session = begun(vocab, "The quick")
    session.commit("The quick brown fox jumps")
    request = session.request(Sampling(), score=True)
    generation, _ = session.start(request, ENV)
    scored = tuple(
        Token(token.id, token.data, -float(place), (Choice(1, b"x", -0.5),))
        for place, token in enumerate(request.prompt)
    )
    session.happen(generation, Scored(1, scored[1:]))

    assert [token.logprob for token in session.tokens] == [None] + [
        -float(place) for place in range(1, len(scored))
    ]
    assert session.text == "The quick brown fox jumps"
    again = reread(session)
    assert [token.logprob for token in again.tokens] == [token.logprob for token in session.tokens]


# -- other roads -----------------------------------------------------------------------------------


def test_taking_an_alternative_forks_at_that_token(vocab: Vocab) -> None:
    session = begun(vocab, "Once")
    node = complete(session, " upon", " a", " time")
    made = session.fork(node, 1, Choice(9, b" the", -2.0))

    assert session.text == "Once upon the"
    assert session.tree[made].source == "choice"
    assert session.tokens[-1].logprob == -2.0
    assert text_of(session.tree.path(node)) == "Once upon a time"
    first = session.fork(node, 0, Choice(9, b" the", -2.0))
    assert session.text == "Once the"
    assert node in session.tree.siblings(first)
    with pytest.raises(Trouble, match="not known"):
        session.fork(node, 0, Choice(10**6, b"", -2.0))
    again = reread(session)
    same(session, again)


def test_alternatives_are_known_without_the_model_that_made_them() -> None:
    session = begun(None, "Once")
    generation, (node,) = session.start(session.request(Sampling()), ENV)
    row = (Choice(5, b" upon", -0.25), Choice(9, b" the", -2.0))
    session.happen(generation, Emitted((Token(5, b" upon", -0.25, row),)))
    session.happen(generation, Finished("length"))
    session.fork(node, 0, row[1])
    again = reread(session)
    again.fork(node, 0, Choice(9, b"", -2.0))
    assert again.text == session.text == "Once the"
    assert again.tokens[-1].choices == row


def test_half_a_character_can_be_chosen(vocab: Vocab) -> None:
    session = begun(vocab, "x")
    node = complete(session, FACE[:2], FACE[2:])
    session.fork(node, 1, Choice(7, FACE[2:3], -1.0))
    assert session.text == "x\ufffd"
    same(session, reread(session))
    complete(session, FACE[3:])
    session.accept()
    assert session.text == "x🙂"
    same(session, reread(session))


def test_tokens_of_the_path_are_found_in_their_nodes(vocab: Vocab) -> None:
    session = begun(vocab, "one two")
    node = complete(session, " a", " b")
    session.accept(upto=1)
    for position, token in enumerate(session.tokens + session.tail):
        id, index = session.locate(position)
        assert session.tree[id].tokens[index] == token
    assert session.locate(len(session.tokens)) == (node, 1)
    with pytest.raises(IndexError):
        session.locate(len(session.tokens) + 1)


def test_hiding_a_node_steps_off_it(vocab: Vocab) -> None:
    session = begun(vocab, "Once")
    node = complete(session, " upon")
    session.accept()
    session.hide(node)
    assert session.text == "Once"
    assert session.completions() == []
    session.hide(node, on=False)
    assert session.completions() == [node]


def test_titles_tags_and_marks_are_entries(vocab: Vocab) -> None:
    session = begun(vocab, "Once")
    node = session.head.node or ""
    session.rename("A tale")
    session.tag("draft", "tale")
    session.mark(node, label="start")
    again = reread(session)
    assert (again.title, again.tags) == ("A tale", ("draft", "tale"))
    assert again.tree[node].marked
    assert again.tree[node].label == "start"


def test_chat_turns_are_nodes_and_their_template_is_folded(vocab: Vocab) -> None:
    session = begun(vocab)
    opening = vocab.encode("<|im_start|>user\n")
    closing = vocab.encode("<|im_end|>\n<|im_start|>assistant\n")
    session.add_turn(
        "user", vocab.encode("Hi <|im_end|>", special=False), before=opening, after=closing
    )
    request = session.request(Sampling())
    generation, nodes = session.start(request, ENV, "chat")
    speak(session, generation, "Hello", "<|im_end|>", reason="eos")
    session.accept()

    assert session.text == "Hi <|im_end|>Hello"
    assert text_of(session.tokens).startswith("<|im_start|>user\nHi <|im_end|><|im_end|>\n")
    assert session.turns() == [("user", "Hi <|im_end|>"), ("assistant", "Hello")]
    assert session.tree[nodes[0]].role == "assistant"
    layout = session.layout()
    assert layout.text == session.text
    same(session, reread(session))


# -- the law ---------------------------------------------------------------------------------------


def test_anything_a_person_does_reads_back_the_same(vocab: Vocab) -> None:
    draw = random.Random(3)
    session = begun(vocab)
    heard: list[Entry] = []
    session.sink = heard.append
    kept: list[Entry] = []
    live: list[tuple[str, int]] = []
    for _ in range(400):
        nodes = list(session.tree.nodes)
        action = draw.randrange(14)
        if action <= 2:
            session.commit(
                session.text[: draw.randrange(60)] + draw.choice([" a", "b", "\n", " é🙂"])
            )
        elif action == 3:
            request = session.request(Sampling(), branches=draw.randint(1, 2))
            live.append((session.start(request, ENV)[0], 0))
        elif action <= 6 and live:
            generation, count = live.pop(draw.randrange(len(live)))
            run = session.generations[generation]
            for branch in range(len(run.branches)):
                word = draw.choice([" x", " wo", FACE[:2], FACE[2:], "rd"])
                session.happen(generation, Emitted((said(word),), branch, count, count))
                if count > 4:
                    session.happen(generation, Finished("length", branch))
            if count <= 4:
                live.append((generation, count + 1))
        elif action == 7:
            draw.choice([session.accept, session.accept_word, session.reject])()
        elif action == 8:
            draw.choice([session.undo, session.undo, session.redo])()
        elif action == 9:
            draw.choice([session.next, session.previous, session.parent, session.child])()
        elif action == 10 and nodes:
            node = session.tree[draw.choice(nodes)]
            if node.tokens and not node.folded:
                session.fork(node.id, draw.randrange(len(node.tokens)), Choice(5, b"!", -1.0))
        elif action == 11 and nodes:
            session.hide(draw.choice(nodes), draw.random() < 0.3)
        elif action == 12 and nodes:
            session.go(draw.choice(nodes))
        elif action == 13:
            session.regenerate(Sampling(seed=5))
        assert session.entries[: len(kept)] == kept
        assert session.layout().text == session.text
        assert len(session.layout()) == len(session.tokens)
        kept = list(session.entries)
    assert heard == session.entries[1:]
    same(session, reread(session))
    while session.undo():
        pass
    assert session.text == ""


def test_entries_of_a_damaged_file_are_taken_without_raising() -> None:
    session = Session()
    odd: list[Entry] = [
        Moved("nobody", 5),
        Happened("g0", Emitted((said("orphan"),), branch=1, index=3)),
        Happened("g0", Prefilled(1, 0, 0.0)),
        Happened("g0", Finished("eos", branch=1)),
        Started("g1", ("m1", "m1"), "none", {}, {}),
        Happened("g1", Emitted((said("x"),), branch=0)),
        Moved("m1", 10**9),
    ]
    for entry in odd:
        session.apply(entry)
    assert session.text == "x"
    assert session.warnings
    assert session.is_interrupted("m1")


def test_a_text_too_long_for_one_line_is_kept_whole() -> None:
    session = begun(None, "start ")
    text = "start " + "é🙂人" * 120_000
    session.commit(text)
    assert session.text == text
    assert len(session.tree) > 2
    assert all(len(line) < MAX_LINE // 2 for line in lines_of(session))
    again = reread(session)
    assert again.text == text
    assert again.tokens == session.tokens
    again.undo()
    assert again.text == "start "


def test_a_ulid_sorts_by_time() -> None:
    assert ulid(0, 0) == "0" * 26
    assert ulid(1_700_000_000_000, 2**80 - 1) < ulid(1_700_000_000_001, 0)
    assert len(Session.new().id) == 26


def test_long_documents_stay_cheap_to_append_to(vocab: Vocab) -> None:
    session = begun(None)
    session.commit("word " * 20_000)
    generation, (node,) = session.start(session.request(Sampling()), ENV)
    for index in range(20_000):
        session.happen(generation, Emitted((said(" x"),), ms=index, index=index))
        if index % 100 == 0:
            assert session.text
            assert session.completion == node
    assert len(session.tail) == 20_000


# -- the context window ----------------------------------------------------------------------------


def test_a_long_document_is_refused_or_shortened_as_the_person_chose(vocab: Vocab) -> None:
    session = begun(vocab, "word " * 40)
    whole = len(session.request(Sampling(seed=1)).prompt)
    with pytest.raises(Trouble, match="tokens"):
        session.request(Sampling(seed=1), window=Window(16))
    said: list[str] = []
    window = Window(16, "left")
    request = session.request(Sampling(seed=1), max_tokens=6, window=window, note=said.append)
    assert len(request.prompt) + request.max_tokens <= 16
    assert request.prompt == tuple(session.tokens[-len(request.prompt) :])
    assert said == [
        f"prompt truncated: {whole - len(request.prompt)} of {whole} tokens dropped from the "
        "beginning"
    ]
    assert len(session.tokens) == whole


def test_another_completion_is_fitted_as_the_first_was(vocab: Vocab) -> None:
    session = begun(vocab, "word " * 40)
    values: dict[str, Any] = {"max_tokens": 6, "window": Window(16, "middle")}
    first = session.request(Sampling(seed=1), **values)
    generation, _ = session.start(first, ENV)
    session.happen(generation, Finished("length"))
    again = session.regenerate(Sampling(seed=1), **values)
    assert (again.prompt, again.max_tokens) == (first.prompt, first.max_tokens)
