"""Snapshots on disk: found by name, described from their own files, refused with the reason."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from fixtures import checkpoints
from qwen_tui import hub
from qwen_tui.hub import safetensors_header
from qwen_tui.hub.card import Card
from qwen_tui.types import NO_INPUT, USAGE, Progress, Trouble

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache and a home of our own."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("QWEN_TUI_HOME", str(tmp_path / "home"))
    return tmp_path / "hub"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete checkpoint in three shards; copied before it is broken."""
    return checkpoints.qwen2(tmp_path_factory.mktemp("whole"), shards=3)


def copied(whole: Path, to: Path) -> Path:
    to.mkdir(parents=True)
    for each in whole.iterdir():
        (to / each.name).write_bytes(each.read_bytes())
    return to


def cached(whole: Path, cache: Path, name: str, *, ref: bool = True, commit: str = COMMIT) -> Path:
    """The checkpoint as huggingface_hub lays it out: refs, blobs named by hash, links."""
    top = cache / ("models--" + name.replace("/", "--"))
    folder = top / "snapshots" / commit
    folder.mkdir(parents=True)
    (top / "blobs").mkdir(exist_ok=True)
    for each in whole.iterdir():
        raw = each.read_bytes()
        blob = hashlib.sha256(raw).hexdigest()
        if not each.name.endswith(".safetensors"):
            blob = hashlib.sha1(b"blob %d\0" % len(raw) + raw).hexdigest()
        (top / "blobs" / blob).write_bytes(raw)
        (folder / each.name).symlink_to(f"../../blobs/{blob}")
    if ref:
        (top / "refs").mkdir()
        (top / "refs" / "main").write_text(commit)
    return folder


# -- find ------------------------------------------------------------------------------------------


def test_a_folder_is_found_by_its_path(whole: Path, cache: Path) -> None:
    found = hub.find(str(whole))
    assert (found.path, found.complete, found.commit) == (whole, True, "")


def test_a_hub_id_is_found_in_the_cache_with_its_commit(whole: Path, cache: Path) -> None:
    folder = cached(whole, cache, "Qwen/Qwen2.5-0.5B")
    found = hub.find("Qwen/Qwen2.5-0.5B")
    assert (found.path, found.commit, found.place) == (folder, COMMIT, "hub cache")
    assert found.bytes == sum(each.stat().st_size for each in whole.iterdir())


def test_a_revision_picks_its_own_snapshot(whole: Path, cache: Path) -> None:
    cached(whole, cache, "a/b")
    other = cached(whole, cache, "a/b", ref=False, commit="f" * 40)
    assert hub.find("a/b").commit == COMMIT
    assert hub.find(f"a/b@{'f' * 40}").path == other
    with pytest.raises(Trouble, match="not on this disk"):
        hub.find("a/b@v2")


def test_our_own_models_folder_is_looked_into(whole: Path, cache: Path, tmp_path: Path) -> None:
    mine = copied(whole, tmp_path / "home/data/models/me/mine")
    assert hub.find("me/mine").path == mine


def test_the_variables_of_the_hub_are_honoured(whole: Path, tmp_path: Path) -> None:
    folder = cached(whole, tmp_path / "hf/hub", "a/b")
    assert hub.find("a/b", env={"HF_HOME": str(tmp_path / "hf")}).path == folder


def test_demo_is_reserved_and_dot_demo_is_a_folder(
    whole: Path, cache: Path, tmp_path: Path
) -> None:
    mine = copied(whole, tmp_path / "demo")
    assert hub.find("./demo", cwd=tmp_path).path == mine
    located = hub.locate("demo", cwd=tmp_path)
    assert located is not None
    assert located.path != mine


def test_a_missing_model_names_the_command_that_fetches_it(cache: Path) -> None:
    with pytest.raises(Trouble) as caught:
        hub.find("Qwen/Qwen2.5-7B")
    assert caught.value.code == NO_INPUT
    assert "qwen-tui models pull Qwen/Qwen2.5-7B" in caught.value.hint


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("Qwen/Qwen2.5-7b", "Qwen/Qwen2.5-7B"),
        ("Qwen2.5-0.5B", "Qwen/Qwen2.5-0.5B"),
        ("qwen/qwen-2.5-3B-instruct", "Qwen/Qwen2.5-3B-Instruct"),
    ],
)
def test_a_typing_mistake_gets_the_name_that_was_meant(cache: Path, typed: str, meant: str) -> None:
    with pytest.raises(Trouble, match=f"did you mean {meant}\\?"):
        hub.find(typed)


def test_a_file_is_no_model(whole: Path, cache: Path) -> None:
    with pytest.raises(Trouble, match="is a file") as caught:
        hub.find(str(whole / "config.json"))
    assert str(whole) in caught.value.hint


@pytest.mark.parametrize("hostile", ["../../etc", "a/b/c", "-x/y", "a/..", "a\0b", "x" * 5000])
def test_a_hostile_name_is_refused_in_words(cache: Path, hostile: str) -> None:
    with pytest.raises(Trouble):
        hub.find(hostile)


def test_half_a_download_says_what_is_missing_and_how_far_it_got(whole: Path, cache: Path) -> None:
    folder = cached(whole, cache, "a/b", ref=False)
    shard = folder / "model-00002-of-00003.safetensors"
    blob = shard.resolve()
    part = blob.with_name(blob.name + ".incomplete")
    part.write_bytes(blob.read_bytes()[:100])
    blob.unlink()
    shard.unlink()
    with pytest.raises(Trouble) as caught:
        hub.find("a/b")
    assert "model-00002-of-00003.safetensors is missing" in caught.value.message
    assert "is here" in caught.value.message
    assert caught.value.code == NO_INPUT
    assert "models pull a/b" in caught.value.hint


def test_a_newer_snapshot_that_is_not_whole_does_not_hide_an_older_one(
    whole: Path, cache: Path
) -> None:
    older = cached(whole, cache, "a/b", ref=False)
    newer = cached(whole, cache, "a/b", commit="f" * 40)
    (newer / "model-00002-of-00003.safetensors").unlink()
    found = hub.find("a/b")
    assert found.path == older
    assert "f" * 12 in found.notes[0]
    assert "models pull a/b" in found.notes[0]
    with pytest.raises(Trouble, match="is missing"):
        hub.find(f"a/b@{'f' * 40}")
    (older / "config.json").unlink()
    with pytest.raises(Trouble, match=r"00002-of-00003.safetensors is missing"):
        hub.find("a/b")


# -- what is broken --------------------------------------------------------------------------------


def _shard(folder: Path) -> Path:
    return folder / "model-00001-of-00003.safetensors"


def _cut(folder: Path) -> None:
    os.truncate(_shard(folder), _shard(folder).stat().st_size - 7)


def _cut_header(folder: Path) -> None:
    os.truncate(_shard(folder), 40)


def _grown(folder: Path) -> None:
    with _shard(folder).open("ab") as stream:
        stream.write(b"\0\0")


def _pointer(folder: Path) -> None:
    _shard(folder).write_bytes(
        b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n"
    )


def _web_page(folder: Path) -> None:
    (folder / "config.json").write_text("<!DOCTYPE html><title>Sign in</title>")


def _zeros(folder: Path) -> None:
    _shard(folder).write_bytes(b"\0" * 4096)


def _bad_entry(folder: Path) -> None:
    raw = json.dumps({"t": {"dtype": "F32", "shape": [4], "data_offsets": [0, 99]}}).encode()
    _shard(folder).write_bytes(len(raw).to_bytes(8, "little") + raw + b"\0" * 99)


def _pickle(folder: Path) -> None:
    for each in folder.glob("*.safetensors*"):
        each.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02")


def _escape(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"t": "../../secret.safetensors"}}))


def _lost_tensor(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    listing = json.loads(index.read_text())
    listing["weight_map"]["model.extra"] = "model-00001-of-00003.safetensors"
    index.write_text(json.dumps(listing))


def _no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_cut, "00001-of-00003.safetensors is cut off"),
        (_cut_header, "cut off inside its header"),
        (_grown, "longer than it says"),
        (_pointer, "Git LFS pointer"),
        (_web_page, "config.json is a web page"),
        (_zeros, "not a safetensors file"),
        (_bad_entry, "bad entry for tensor 't'"),
        (_pickle, "only as pytorch_model.bin; only safetensors"),
        (_escape, "outside the folder"),
        (_lost_tensor, "lacks tensor 'model.extra'"),
        (_no_tokenizer, "tokenizer.json is missing"),
    ],
)
def test_what_is_broken_is_named(
    whole: Path, cache: Path, tmp_path: Path, damage: Callable[[Path], None], said: str
) -> None:
    folder = copied(whole, tmp_path / "broken")
    damage(folder)
    with pytest.raises(Trouble) as caught:
        hub.find(str(folder))
    assert said in caught.value.message
    assert caught.value.code == NO_INPUT


def test_deeply_nested_json_is_refused_and_does_not_crash(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text("[" * 200_000)
    with pytest.raises(safetensors_header.Broken, match="not JSON"):
        safetensors_header.read_json(file)


# -- card ------------------------------------------------------------------------------------------


def test_a_card_counts_what_the_files_hold(whole: Path) -> None:
    card = hub.card(whole, "tiny")
    _, tensors = hub.contents(whole)
    assert card.parameters == sum(each.elements for each in tensors)
    assert card.bytes == 4 * card.parameters
    assert (card.layers, card.hidden, card.heads, card.kv_heads, card.head_dim) == (2, 32, 4, 2, 8)
    assert (card.context, card.vocab_rows, card.dtype, card.tied) == (2048, 333, "fp32", False)
    assert not card.instruct
    assert "continues text and does not chat" in card.kind
    assert card.infill


def test_an_instruct_checkpoint_is_known_by_what_ends_its_turns(tmp_path: Path) -> None:
    card = hub.card(checkpoints.qwen2(tmp_path, chat=True), "tiny")
    assert card.template.startswith("ChatML")
    assert card.instruct


def test_a_model_card_states_licence_and_citation(whole: Path, tmp_path: Path) -> None:
    folder = copied(whole, tmp_path / "m")
    (folder / "README.md").write_text(
        "---\nlicense: other\nlicense_name: qwen-research\n---\n\n"
        "```\n@misc{a,\n title={B {C}}\n}\n```\n"
    )
    card = hub.card(folder)
    assert card.licence == "qwen-research"
    assert card.citation == "@misc{a,\n title={B {C}}\n}"


def test_yarn_stretches_the_context(tmp_path: Path) -> None:
    scaling = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}
    card = hub.card(checkpoints.qwen2(tmp_path, extra={"rope_scaling": scaling}))
    assert (card.context, card.rope) == (8192, "yarn ×4")


@pytest.mark.parametrize("value", ["seven", -1, 1e308, True, None, [], 2**80])
def test_a_hostile_number_in_a_config_counts_as_unknown(
    whole: Path, tmp_path: Path, value: object
) -> None:
    folder = copied(whole, tmp_path / "m")
    config = json.loads((folder / "config.json").read_text()) | {"num_hidden_layers": value}
    (folder / "config.json").write_text(json.dumps(config))
    assert hub.card(folder).layers == 0


@pytest.mark.parametrize(
    ("size", "parameters"),
    [
        ("0.5B", 494_032_768),
        ("1.5B", 1_543_714_304),
        ("3B", 3_085_938_688),
        ("7B", 7_615_616_512),
    ],
)
def test_the_published_shapes_give_the_published_counts(size: str, parameters: int) -> None:
    for name in (f"Qwen/Qwen2.5-{size}", f"Qwen/Qwen2.5-{size}-Instruct"):
        assert hub.KNOWN[name].parameters == parameters


def test_memory_needs_of_the_7b_are_its_arithmetic() -> None:
    known = hub.KNOWN["Qwen/Qwen2.5-7B"]
    assert hub.needs(known).kv_per_token == 57_344
    assert hub.needs(known, "bf16").weights == 2 * known.parameters
    assert hub.needs(known, "fp32").weights == 4 * known.parameters
    packed = hub.needs(known, "bf16", "nf4")
    assert 5.7e9 < packed.weights < 6.0e9
    assert packed.total(1000) - packed.total(0) == 57_344_000


def test_needs_of_a_card_and_of_its_published_shape_agree(tmp_path: Path) -> None:
    card = hub.card(checkpoints.qwen2(tmp_path))
    assert isinstance(card, Card)
    assert hub.needs(card, "fp32").weights == card.bytes
    assert card.table_parameters == 2 * 333 * 32


# -- hashes ----------------------------------------------------------------------------------------


def test_hashes_are_the_files_and_weights_are_hashed_only_when_asked(
    whole: Path, cache: Path, tmp_path: Path
) -> None:
    folder = copied(whole, tmp_path / "m")
    light = hub.fingerprint(folder)
    assert light.config_sha256 == hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()
    assert not light.whole
    assert light.weights == ""
    seen: list[Progress] = []
    full = hub.fingerprint(folder, hash_weights=True, report=seen.append)
    assert full.whole
    assert seen
    for name, digest in full.files.items():
        assert digest == hashlib.sha256((folder / name).read_bytes()).hexdigest()
    assert hub.fingerprint(folder) == full, "remembered"


def test_a_changed_file_is_hashed_again(whole: Path, cache: Path, tmp_path: Path) -> None:
    folder = copied(whole, tmp_path / "m")
    before = hub.fingerprint(folder, hash_weights=True)
    raw = bytearray(_shard(folder).read_bytes())
    raw[-1] ^= 1
    _shard(folder).write_bytes(raw)
    assert hub.fingerprint(folder, hash_weights=True).weights != before.weights


def test_in_the_hubs_cache_the_blobs_name_is_the_hash(whole: Path, cache: Path) -> None:
    folder = cached(whole, cache, "a/b")
    found = hub.fingerprint(folder)
    assert found.whole
    shard = _shard(folder)
    assert found.files[shard.name] == hashlib.sha256(shard.read_bytes()).hexdigest()


def test_verification_finds_a_flipped_bit(whole: Path, cache: Path, tmp_path: Path) -> None:
    folder = cached(whole, cache, "a/b")
    assert all(each.ok and each.source == "hub" for each in hub.verify(folder))
    blob = _shard(folder).resolve()
    raw = bytearray(blob.read_bytes())
    raw[-1] ^= 1
    blob.write_bytes(raw)
    assert [each.name for each in hub.verify(folder) if not each.ok] == [_shard(folder).name]
    mine = copied(whole, tmp_path / "m")
    assert all(each.expected == "" for each in hub.verify(mine)), "nothing was on record"
    _shard(mine).write_bytes(raw)
    assert [each.name for each in hub.verify(mine) if not each.ok] == [_shard(mine).name]


def test_hashing_can_be_stopped(whole: Path, cache: Path) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(hub.Stopped):
        hub.fingerprint(whole, hash_weights=True, cancel=stop)


# -- list and remove -------------------------------------------------------------------------------


def test_installed_lists_what_is_here_and_remove_deletes_only_it(
    whole: Path, cache: Path, tmp_path: Path
) -> None:
    cached(whole, cache, "a/b")
    cached(whole, cache, "a/c")
    copied(whole, tmp_path / "home/data/models/mine")
    names = {each.name: each.place for each in hub.installed()}
    assert names == {
        "demo": "ships with qwen-tui",
        "a/b": "hub cache",
        "a/c": "hub cache",
        "mine": "models folder",
    }
    assert hub.remove("a/b") > 0
    assert {each.name for each in hub.installed()} == {"demo", "a/c", "mine"}
    for refused in ("demo", str(whole), ".", "../x"):
        with pytest.raises(Trouble) as caught:
            hub.remove(refused)
        assert caught.value.code == USAGE
    with pytest.raises(Trouble) as caught:
        hub.remove("a/b")
    assert caught.value.code == NO_INPUT
    assert whole.is_dir()


def test_a_name_that_is_only_an_owner_removes_nothing(
    whole: Path, cache: Path, tmp_path: Path
) -> None:
    mine = copied(whole, tmp_path / "home/data/models/me/mine")
    with pytest.raises(Trouble):
        hub.remove("me")
    assert mine.is_dir()
