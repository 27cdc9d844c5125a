"""What stands before a text and ends it: a BOS where the tokenizer asks for one, and the markers
of fill-in-the-middle.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fixtures.checkpoints import BOS, qwen2, special_ids, with_bos
from fixtures.opening import asked, end, ids, local, run, tokens
from qwen_tui.backends.replay import Replay, takes
from qwen_tui.cli import main
from qwen_tui.context_window import Window
from qwen_tui.session.session import Session
from qwen_tui.tui.studio import chat
from qwen_tui.types import Happened, Request, Sampling, Scored, Token
from qwen_tui.vocab import Vocab

GREEDY = Sampling(temperature=0.0, min_p=0.0, seed=7)


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return qwen2(tmp_path / "plain")


@pytest.fixture
def bos(tmp_path: Path) -> Path:
    return with_bos(qwen2(tmp_path / "bos"))


def configured(folder: Path, **values: Any) -> Path:
    """The checkpoint with these values in its tokenizer_config.json."""
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
    return folder


def dry(capsysbinary: pytest.CaptureFixture[bytes], folder: Path, *more: str) -> list[int]:
    """The ids that `complete --dry-run` shows."""
    assert main(["complete", "-m", str(folder), "--dry-run", "-q", *more]) == 0
    return [int(line.split()[1]) for line in capsysbinary.readouterr().out.splitlines()]


def session(folder: Path, text: str) -> Session:
    written = Session.new(vocab=Vocab.load(folder))
    written.commit(text)
    return written


# -- before the text -------------------------------------------------------------------------------


def test_the_bos_a_tokenizer_asks_for_is_shown_and_can_be_left_out(
    bos: Path, plain: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    first = special_ids(bos)[BOS]
    without = dry(capsysbinary, plain, "-p", "The quick")
    assert dry(capsysbinary, bos, "-p", "The quick") == [first, *without]
    assert dry(capsysbinary, bos, "-p", "The quick", "--no-bos") == without


def test_a_text_that_begins_with_the_bos_gets_no_second_one(
    bos: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    first = special_ids(bos)[BOS]
    once = dry(capsysbinary, bos, "-p", "The quick")
    assert dry(capsysbinary, bos, "-p", f"{BOS}The quick") == once
    spelled = dry(capsysbinary, bos, "-p", f"{BOS}The quick", "--no-special")
    assert spelled.count(first) == 1
    assert len(spelled) > len(once)


def test_the_configuration_overrules_the_post_processor(bos: Path, plain: Path) -> None:
    assert Vocab.load(bos).start_ids == (special_ids(bos)[BOS],)
    assert Vocab.load(configured(bos, add_bos_token=False)).start_ids == ()
    assert Vocab.load(plain).start_ids == ()
    asks = configured(plain, add_bos_token=True, bos_token="<|endoftext|>")
    assert Vocab.load(asks).start_ids == (special_ids(plain)["<|endoftext|>"],)


def test_what_a_tokenizer_puts_behind_a_text_is_not_sent_before_it(bos: Path) -> None:
    file = bos / "tokenizer.json"
    rules = json.loads(file.read_text())
    rules["post_processor"]["single"].append({"SpecialToken": {"id": BOS, "type_id": 0}})
    file.write_text(json.dumps(rules))
    assert Vocab.load(bos).start_ids == (special_ids(bos)[BOS],)


def test_the_model_reads_the_bos_and_the_text_stays_text(bos: Path, plain: Path) -> None:
    written = session(bos, "The quick brown fox")
    request = written.request(GREEDY, max_tokens=12)
    assert request.prompt[0].id == special_ids(bos)[BOS]
    assert written.text == "The quick brown fox"
    backend = local(bos, path="fast")
    said = ids(run(backend, request))
    sent = [special_ids(bos)[BOS], *(token.id for token in written.tokens)]
    assert said == ids(run(local(plain, path="fast"), asked(sent, max_tokens=12)))
    assert said != ids(run(backend, written.request(GREEDY, max_tokens=12, bos=False)))


def test_a_shortened_prompt_keeps_its_bos_and_counts_it(bos: Path) -> None:
    written = session(bos, "The quick brown fox jumps over the lazy dog. " * 20)
    notes: list[str] = []
    for side in ("left", "middle"):
        window = Window(40, side, explicit=True)
        request = written.request(GREEDY, max_tokens=8, window=window, note=notes.append)
        assert len(request.prompt) == 32
        assert request.prompt[0].id == special_ids(bos)[BOS]
        assert request.prompt[-1] == written.tokens[-1]
    assert f"of {len(written.tokens) + 1:,} tokens" in notes[0]


def generated(folder: Path, written: Session, **values: Any) -> Request:
    """One completion of the session's text, written into the session."""
    backend = local(folder, path="fast", dtype="fp32")
    request = written.request(GREEDY, max_tokens=8, choices=2, **values)
    generation, _ = written.start(request, backend.environment)
    for event in run(backend, request):
        written.happen(generation, event)
    written.accept()
    return request


@pytest.mark.parametrize("bos_on", [True, False])
def test_a_session_records_what_was_sent_and_plays_it_back(bos: Path, bos_on: bool) -> None:
    entries: list[Any] = []
    written = Session.new(vocab=Vocab.load(bos), sink=entries.append)
    written.commit("The quick brown fox")
    request = generated(bos, written, bos=bos_on)
    (state,) = written.generations.values()
    assert state.start_ids == ((special_ids(bos)[BOS],) if bos_on else ())
    again = Session.new()
    for entry in entries[1:]:
        again.apply(entry)
    (state,) = again.generations.values()
    prompt = state.prompt(tuple(again.tree.path(*state.place)))
    assert prompt is not None
    assert [token.id for token in prompt] == [token.id for token in request.prompt]
    take = takes(entries)
    events = run(Replay(take, speed=float("inf")), Request(prompt, max_tokens=-1))  # type: ignore[arg-type]
    assert end(events).reason == "length"
    assert ids(events) == [
        token.id
        for entry in entries
        if isinstance(entry, Happened)
        for token in getattr(entry.event, "tokens", ())
    ]


def test_a_shortened_prompt_with_a_bos_is_found_again(bos: Path) -> None:
    for side in ("left", "middle"):
        written = session(bos, "The quick brown fox jumps over the lazy dog. " * 20)
        request = generated(bos, written, window=Window(64, side, explicit=True))
        (state,) = written.generations.values()
        prompt = state.prompt(tuple(written.tree.path(*state.place)))
        assert prompt is not None
        assert [token.id for token in prompt] == [token.id for token in request.prompt]


def test_verify_reads_the_same_prompt(
    bos: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    common = ["-m", str(bos), "--dtype", "fp32", "--threads", "1"]
    assert main(["complete", "-p", "The quick", "-n", "12", "--save", "it", *common]) == 0
    capsysbinary.readouterr()
    assert main(["replay", "it", "--verify", *common]) == 0
    assert b"same: tolerance" in capsysbinary.readouterr().out


def test_scores_of_the_text_stand_on_the_text(bos: Path) -> None:
    """The first token of the text has a probability too, after the BOS."""
    written = session(bos, "The quick brown fox")
    backend = local(bos, path="fast")
    request = written.request(GREEDY, max_tokens=1, score=True)
    generation, _ = written.start(request, backend.environment)
    events = run(backend, request)
    for event in events:
        written.happen(generation, event)
    scored = [token for event in events if isinstance(event, Scored) for token in event.tokens]
    place = written.generations[generation].place
    noted: list[Token] = list(written.tree.path(*place))
    assert [token.logprob for token in noted] == [token.logprob for token in scored[1:]]
    assert noted[0].logprob is not None


# -- the end of a middle ---------------------------------------------------------------------------

MARKERS = (
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
    "<|endoftext|>",
)


@pytest.mark.parametrize("marker", MARKERS)
def test_markers_end_what_is_filled_into_the_middle_and_nothing_else(
    plain: Path, marker: str, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    added = special_ids(plain)
    bias = ((added[marker], 1000.0),)
    backend = local(plain, path="fast")
    vocab = Vocab.load(plain)
    middle = vocab.encode("<|fim_prefix|>def f():<|fim_suffix|>\n<|fim_middle|>")
    sampling = Sampling(temperature=0.0, logit_bias=bias)
    events = run(backend, Request(middle, sampling, 6))
    assert end(events).reason == "eos"
    assert [token.data for token in tokens(events)] == [marker.encode()]
    assert len(ids(run(backend, Request(middle, sampling, 6, ignore_eos=True)))) == 6
    text = vocab.encode("def f():")
    wanted = "eos" if marker == "<|endoftext|>" else "length"
    assert end(run(backend, Request(text, sampling, 6))).reason == wanted
    arguments = ["-m", str(plain), "-n", "6", "-q", "--logit-bias", f"{added[marker]}=1000"]
    prompt = "<|fim_prefix|>def f():<|fim_suffix|>\n<|fim_middle|>"
    assert main(["complete", "-p", prompt, "--temp", "0", "--threads", "1", *arguments]) == 0
    assert capsysbinary.readouterr().out.strip() == b""


def test_a_chat_template_writes_its_own_start(tmp_path: Path) -> None:
    """The studio asks for no BOS there, and a template that begins with it is not given another."""
    folder = with_bos(qwen2(tmp_path / "chat", chat=True))
    written = Session.new(vocab=Vocab.load(folder))
    chat.say(written, Vocab.load(folder), "Hello")
    first = special_ids(folder)[BOS]
    for bos in (True, False):
        prompt = written.request(GREEDY, bos=bos).prompt
        assert [token.id for token in prompt[:2]].count(first) == 1
