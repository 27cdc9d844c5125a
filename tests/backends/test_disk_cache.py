"""A long text's keys and values on disk: they come back exactly, or not at all."""

from __future__ import annotations

import json
import os
import random
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from fixtures.checkpoints import qwen2
from fixtures.opening import asked, end, ids, local, run
from qwen_tui import paths
from qwen_tui.backends.local.backend import Local
from qwen_tui.backends.local.kv import block_file
from qwen_tui.backends.local.kv.disk_cache import Thresholds
from qwen_tui.backends.local.kv.disk_writer import BlockWriter, QueuedBlock
from qwen_tui.cli import main
from qwen_tui.types import Finished, Prefilled, Progress, Sampling

SMALL = Thresholds(block=16, min_text=32, min_new=16, min_new_at_end=4, min_restored=16)
TEXT = random.Random(5).choices(range(300), k=200)
LONG_S = 30.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return qwen2(tmp_path / "m", hidden=64, intermediate=96, layers=2, context=4096)


def opened(folder: Path, **flags: object) -> Local:
    return local(folder, path="fast", thresholds=SMALL, **flags)


def told(folder: Path, prompt: list[int], **values: object) -> tuple[int, list[int]]:
    """How many positions a program that begins anew reuses, and what it says."""
    backend = opened(folder)
    events = run(backend, asked(prompt, **values))
    backend.close()
    return end(events).stats.reused, ids(events)


def fresh(folder: Path, prompt: list[int], **flags: object) -> list[int]:
    """What is said by one that neither reads nor writes anything."""
    backend = opened(folder, kv_disk=0, **flags)
    said = ids(run(backend, asked(prompt)))
    backend.close()
    return said


def files() -> list[Path]:
    return sorted(each.path for each in block_file.everything(paths.kv_dir()))


def everything() -> list[Path]:
    top = paths.kv_dir()
    return sorted(each for each in top.rglob("*") if not each.is_dir()) if top.exists() else []


def on_disk(backend: Local) -> list[Path]:
    """What is on disk once the writer has come to rest."""
    cache = backend._engine.disk_cache
    assert cache is not None
    assert cache._writer.wait(LONG_S)
    return files()


# -- it comes back ---------------------------------------------------------------------------------


def test_a_text_resumes_in_the_next_program(folder: Path) -> None:
    first = told(folder, TEXT)
    assert first == (0, fresh(folder, TEXT))
    assert told(folder, TEXT) == (len(TEXT) - 1, first[1])


def test_the_session_as_it_was_left_resumes_with_its_completion(folder: Path) -> None:
    _, said = told(folder, TEXT, max_tokens=24)
    longer = [*TEXT, *said, 7]
    reused, again = told(folder, longer)
    assert reused == len(TEXT) + len(said) - 1
    assert again == fresh(folder, longer)


def test_an_edited_tail_reuses_all_before_the_edit(folder: Path) -> None:
    told(folder, TEXT)
    for cut in (199, 171, 96, 40):
        edited = [*TEXT[:cut], 301, 302, *TEXT[cut:][:20]]
        reused, said = told(folder, edited)
        assert reused >= cut
        assert said == fresh(folder, edited)


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_what_comes_back_is_bit_for_bit_what_was_held(folder: Path, dtype: str) -> None:
    first = opened(folder, dtype=dtype)
    run(first, asked(TEXT, max_tokens=1))
    held = first._model.extract(0, 0, len(TEXT) - 1)
    first.close()
    second = opened(folder, dtype=dtype)
    assert end(run(second, asked(TEXT, max_tokens=1))).stats.reused == len(TEXT) - 1
    assert second._model.extract(0, 0, len(TEXT) - 1).equal(held)


def test_what_the_memory_holds_is_not_read_again(folder: Path) -> None:
    told(folder, TEXT)
    backend = opened(folder)
    run(backend, asked(TEXT[:100], max_tokens=1))
    events = run(backend, asked(TEXT, max_tokens=1))
    progress = [event.done for event in events if isinstance(event, Progress)]
    assert end(events).stats.reused == len(TEXT) - 1
    assert progress[0] > 100, "what was held was read again"


def test_a_little_is_run_rather_than_read(folder: Path) -> None:
    told(folder, TEXT)
    picky = Thresholds(block=16, min_text=32, min_new=16, min_restored=150)
    backend = local(folder, path="fast", thresholds=picky)
    assert end(run(backend, asked([*TEXT[:140], *TEXT[:60]]))).stats.reused == 0
    backend = local(folder, path="fast", thresholds=picky)
    assert end(run(backend, asked(TEXT))).stats.reused == len(TEXT) - 1


def test_siblings_and_scores_are_as_without(folder: Path) -> None:
    told(folder, TEXT)
    wanted = asked(TEXT, branches=3, max_tokens=12, sampling=Sampling(seed=4))
    backend, plain = opened(folder), opened(folder, kv_disk=0)
    events, other = run(backend, wanted), run(plain, wanted)
    assert end(events).stats.reused == len(TEXT) - 1
    assert [ids(events, row) for row in range(3)] == [ids(other, row) for row in range(3)]
    scored = run(opened(folder), asked(TEXT, score=True, max_tokens=1))
    assert end(scored).stats.reused == 0


def test_the_schedule_and_the_prefill_say_what_was_reused(folder: Path) -> None:
    told(folder, TEXT)
    events = run(opened(folder), asked(TEXT))
    (prefilled,) = [event for event in events if isinstance(event, Prefilled)]
    assert prefilled.reused == len(TEXT) - 1
    finished = next(event for event in events if isinstance(event, Finished))
    assert finished.schedule["reused"] == len(TEXT) - 1


def test_any_order_of_texts_gives_what_a_fresh_start_gives(folder: Path) -> None:
    dice = random.Random(8)
    texts, reused = [TEXT], 0
    plain = opened(folder, kv_disk=0)
    for _ in range(25):
        base = dice.choice(texts)
        cut = dice.randint(1, len(base))
        texts.append(base[:cut] + dice.choices(range(300), k=dice.randint(1, 60)))
        count, said = told(folder, texts[-1], max_tokens=3)
        reused += count
        assert said == ids(run(plain, asked(texts[-1], max_tokens=3, score=True)))
    assert reused > 1000, "hardly anything was reused: the test says nothing"


def test_a_shell_loop_reads_a_long_prompt_once(
    folder: Path, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("".join(random.Random(4).choices("abcdefgh ", k=900)))
    said = []
    for extra in (["--kv-disk", "1"], ["--kv-disk", "1"], []):
        command = ["complete", str(prompt), "-m", str(folder), "--temp", "0", "-n", "9", *extra]
        assert main([*command, "--threads", "1"]) == 0
        said.append(capfdbinary.readouterr())
    assert said[0].out == said[1].out == said[2].out
    assert [b" reused)" in each.err for each in said] == [False, True, False]


# -- what is written -------------------------------------------------------------------------------


def test_a_longer_text_takes_the_place_of_its_beginning(folder: Path) -> None:
    backend = opened(folder)
    run(backend, asked(TEXT[:100], max_tokens=1))
    before = on_disk(backend)
    run(backend, asked(TEXT[:108], max_tokens=1))
    assert on_disk(backend) == before, "eight new positions are not worth a file"
    run(backend, asked(TEXT, max_tokens=1))
    after = on_disk(backend)
    assert sum(len(block_file.ids_in(_place(), each)) for each in after) == len(TEXT)
    assert len(after) == -(-len(TEXT) // SMALL.block)


def test_texts_that_begin_alike_share_their_beginning(folder: Path) -> None:
    told(folder, TEXT)
    other = [*TEXT[:160], *random.Random(1).choices(range(300), k=40)]
    told(folder, other)
    assert len(files()) < 2 * len(TEXT) // SMALL.block
    for text in (TEXT, other):
        assert told(folder, text)[0] == len(text) - 1


def test_a_rejected_completion_is_not_kept(folder: Path) -> None:
    backend = opened(folder)
    run(backend, asked(TEXT, max_tokens=30))
    assert sum(len(block_file.ids_in(_place(), each)) for each in on_disk(backend)) == len(TEXT)


def test_a_short_text_and_one_beyond_the_budget_leave_nothing(folder: Path) -> None:
    told(folder, TEXT[:20], max_tokens=2)
    assert everything() == []
    backend = opened(folder, kv_disk=1e-5)
    run(backend, asked(TEXT))
    backend.close()
    assert everything() == []


@pytest.mark.parametrize("flags", [{"save": False}, {"kv_disk": 0}])
def test_nothing_is_written_nor_touched_where_nothing_may_be(
    folder: Path, flags: dict[str, object]
) -> None:
    backend = opened(folder, **flags)
    run(backend, asked(TEXT))
    backend.close()
    assert everything() == []
    told(folder, TEXT)
    before = [(each, each.stat().st_mtime_ns) for each in everything()]
    backend = opened(folder, **flags)
    assert end(run(backend, asked([*TEXT, 5]))).stats.reused == 0
    backend.close()
    assert [(each, each.stat().st_mtime_ns) for each in everything()] == before


def test_only_its_owner_can_read_it(folder: Path) -> None:
    before = os.umask(0)
    try:
        told(folder, TEXT)
    finally:
        os.umask(before)
    assert {stat.S_IMODE(each.stat().st_mode) for each in files()} == {0o600}
    for place in (files()[0].parent, paths.kv_dir()):
        assert stat.S_IMODE(place.stat().st_mode) == 0o700


def test_what_was_unused_the_longest_goes_first(folder: Path) -> None:
    texts = [random.Random(seed).choices(range(300), k=96) for seed in range(4)]
    told(folder, texts[0], max_tokens=1)
    size = sum(each.bytes for each in block_file.everything(paths.kv_dir()))
    room = 2.5 * size / 2**30
    backend = opened(folder, kv_disk=room)
    for text in (texts[1], texts[0], texts[2], texts[3]):
        run(backend, asked(text, max_tokens=1))
        on_disk(backend)
        backend._engine.cache.reset()
        assert sum(each.bytes for each in block_file.everything(paths.kv_dir())) <= room * 2**30
    backend.close()
    assert [told(folder, text, max_tokens=1)[0] for text in (texts[3], texts[2])] == [95, 95]
    assert told(folder, texts[1], max_tokens=1)[0] == 0


def test_using_a_text_saves_it(folder: Path) -> None:
    texts = [random.Random(seed).choices(range(300), k=96) for seed in range(3)]
    for text in texts[:2]:
        told(folder, text, max_tokens=1)
    held = sum(each.bytes for each in block_file.everything(paths.kv_dir()))
    assert told(folder, texts[0], max_tokens=1)[0] == 95
    backend = opened(folder, kv_disk=1.2 * held / 2**30)
    run(backend, asked(texts[2], max_tokens=1))
    on_disk(backend)
    backend.close()
    assert told(folder, texts[0], max_tokens=1)[0] == 95


def _place() -> block_file.BlockFolder:
    (place,) = paths.kv_dir().iterdir()
    return block_file.BlockFolder(place, place.name[-24:], 2 * 2 * 2 * 16 * 4)


# -- what is not used ------------------------------------------------------------------------------


def test_another_model_another_dtype_or_other_weights_use_nothing(folder: Path) -> None:
    told(folder, TEXT)
    other = qwen2(folder.parent / "n", hidden=64, intermediate=96, context=4096, seed=1)
    for place, flags in ((other, {}), (folder, {"dtype": "bf16"}), (folder, {"quant": "int8"})):
        assert end(run(opened(place, **flags), asked(TEXT))).stats.reused == 0
    os.utime(folder / "model.safetensors", (1, 1))
    assert told(folder, TEXT)[0] == 0
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 0x40
    weights.write_bytes(data)
    assert told(folder, TEXT)[0] == 0


def test_a_changed_configuration_uses_nothing(folder: Path) -> None:
    told(folder, TEXT)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"rope_theta": 5000.0}))
    assert told(folder, TEXT) == (0, fresh(folder, TEXT))


def _damages(data: bytes) -> dict[str, bytes]:
    dice = random.Random(3)
    cuts = {0, 1, 8, 76, 77, len(data) - 1, *(dice.randrange(len(data)) for _ in range(12))}
    made = {f"cut at {cut}": data[:cut] for cut in cuts}
    for at in (*range(160), *(dice.randrange(len(data)) for _ in range(60))):
        made[f"flip at {at}"] = data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :]
    made["longer"] = data + b"\0"
    made["garbage"] = dice.randbytes(len(data))
    made["zeros"] = bytes(len(data))
    made["huge count"] = data[:56] + b"\xff" * 12 + data[68:]
    return made


def test_a_damaged_file_is_never_used_and_goes(folder: Path) -> None:
    wanted = fresh(folder, TEXT)
    told(folder, TEXT)
    place = _place()
    first, last = (
        next(each for each in files() if each.name.startswith(block_file.ROOT)),
        max(files(), key=lambda each: each.stat().st_mtime_ns * -1),
    )
    whole = {file: file.read_bytes() for file in (first, last)}
    for file, data in whole.items():
        for name, bad in _damages(data).items():
            file.write_bytes(bad)
            with pytest.raises(block_file.DamagedBlock):
                block_file.read(place, file)
            if name.startswith(("cut at 0", "garbage", "flip at 70", "flip at 90", "longer")):
                backend = opened(folder)
                events = run(backend, asked(TEXT))
                assert ids(events) == wanted, name
                assert end(events).stats.reused < len(TEXT) - 1
                assert not file.exists() or file.read_bytes() != bad
                backend.close()
        file.write_bytes(data)
    assert told(folder, TEXT) == (len(TEXT) - 1, wanted)


def _as_link(file: Path) -> None:
    target = file.with_suffix(".target")
    file.rename(target)
    file.symlink_to(target)


def _as_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def _as_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def _as_another_blocks_file(file: Path) -> None:
    other = next(each for each in files() if each != file)
    file.write_bytes(other.read_bytes())


def _unreadable(file: Path) -> None:
    file.chmod(0)


@pytest.mark.parametrize(
    "spoil", [_as_link, _as_pipe, _as_folder, _as_another_blocks_file, _unreadable]
)
def test_what_is_no_block_is_not_taken_for_one(folder: Path, spoil: Callable[[Path], None]) -> None:
    wanted = fresh(folder, TEXT)
    told(folder, TEXT)
    spoil(next(each for each in files() if each.name.startswith(block_file.ROOT)))
    reused, said = told(folder, TEXT)
    assert said == wanted
    assert reused in (0, len(TEXT) - 1 if spoil is _unreadable and os.getuid() == 0 else 0)


def test_a_block_of_another_text_under_a_good_name_is_not_used(folder: Path) -> None:
    """Whole and with the right sums, but it stands after other ids than its own."""
    told(folder, TEXT)
    other = random.Random(2).choices(range(300), k=200)
    told(folder, other)
    place = _place()
    mine, theirs = (
        block_file.chained(block_file.ROOT, TEXT[:16]),
        block_file.chained(block_file.ROOT, other[:16]),
    )
    mine, theirs = place.file(block_file.ROOT, mine), place.file(block_file.ROOT, theirs)
    mine.write_bytes(theirs.read_bytes())
    assert told(folder, TEXT) == (0, fresh(folder, TEXT))


# -- trouble ---------------------------------------------------------------------------------------


def test_stopped_while_it_is_read_the_cache_is_whole(folder: Path) -> None:
    told(folder, TEXT)
    backend, cancel, seen = opened(folder), threading.Event(), 0
    for event in backend.stream(asked(TEXT), cancel):
        if isinstance(event, Progress) and event.done >= 64:
            seen = event.done
            cancel.set()
    assert 64 <= seen < len(TEXT) - 1
    assert backend._model.length == len(backend._engine.cache.ids) == seen
    again = run(backend, asked(TEXT))
    assert end(again).stats.reused == len(TEXT) - 1
    assert ids(again) == fresh(folder, TEXT)


def test_stopped_while_the_prompt_is_read_what_was_read_is_kept(folder: Path) -> None:
    backend, cancel = opened(folder, chunk=50), threading.Event()
    for event in backend.stream(asked(TEXT), cancel):
        if isinstance(event, Progress) and event.done >= 100:
            cancel.set()
    assert on_disk(backend)
    backend.close()
    assert told(folder, TEXT)[0] >= 100


FULL = """
import resource, signal, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from fixtures.opening import asked, end, ids, local, run
from qwen_tui.backends.local.kv.disk_cache import Thresholds
small = Thresholds(block=16, min_text=32, min_new=16, min_new_at_end=4, min_restored=16)
backend = local(Path({folder!r}), path="fast", thresholds=small)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
for _ in range(3):
    print(ids(run(backend, asked({text!r}))))
    backend._engine.disk_cache._writer.wait(30)
    backend._engine.cache.reset()
backend.close()
"""


def test_a_disk_that_takes_no_more_costs_one_line_and_nothing_else(folder: Path) -> None:
    tests = str(Path(__file__).parent.parent)
    program = FULL.format(tests=tests, folder=str(folder), text=TEXT)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [str(fresh(folder, TEXT))] * 3
    assert done.stderr.count("no longer kept on disk: File too large") == 1
    assert everything() == []


def test_a_place_that_cannot_be_made_is_no_trouble(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths.ensure_folder(paths.cache_dir())
    paths.kv_dir().write_text("in the way")
    wanted = fresh(folder, TEXT)
    assert told(folder, TEXT) == (0, wanted)
    assert told(folder, TEXT) == (0, wanted)
    assert caplog.text.count("no longer kept") == 2
    assert paths.kv_dir().read_text() == "in the way"


def test_the_disk_keeps_what_it_must(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from qwen_tui.backends.local.kv import disk_writer

    class Usage:
        total, used, free = 100 << 30, 99 << 30, (1 << 30) + 4000

    monkeypatch.setattr(disk_writer.shutil, "disk_usage", lambda place: Usage)
    place = block_file.BlockFolder.of(tmp_path / "kv", "m", "0" * 24, 8)
    writer = BlockWriter(tmp_path / "kv", place, 1 << 40)
    writer.put(_block(range(100)))
    assert writer.wait(LONG_S)
    assert not writer.broken
    writer.put(_block(range(1000, 2000)))
    assert writer.wait(LONG_S)
    assert writer.broken
    assert len(list(block_file.everything(tmp_path / "kv"))) == 1
    writer.close(LONG_S)


def _block(ids: range) -> QueuedBlock:
    data = memoryview(bytes(8 * len(ids)))
    return QueuedBlock(
        block_file.ROOT, block_file.chained(block_file.ROOT, ids), list(ids), data, 1
    )


def test_closing_leaves_no_partial_file_and_takes_no_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk so slow that the write is under way when the program is left."""
    from qwen_tui.backends.local.kv import disk_writer

    writing, go = threading.Event(), threading.Event()
    pour = BlockWriter._pour

    def slow(self: BlockWriter, write: Callable[..., int], data: bytes | memoryview) -> None:
        if isinstance(data, memoryview):
            writing.set()
            go.wait(LONG_S)
        pour(self, write, data)

    monkeypatch.setattr(disk_writer.BlockWriter, "_pour", slow)
    top = tmp_path / "kv"
    writer = BlockWriter(top, block_file.BlockFolder.of(top, "m", "0" * 24, 8), 1 << 40)
    writer.put(_block(range(100)))
    assert writing.wait(LONG_S)
    began = time.monotonic()
    writer.close(0.1)
    assert time.monotonic() - began < 1
    go.set()
    assert writer._thread is not None
    writer._thread.join(LONG_S)
    assert [each for each in top.rglob("*") if each.is_file()] == []


def test_what_a_killed_program_left_half_written_goes_at_the_next_start(folder: Path) -> None:
    told(folder, TEXT)
    stem = str(files()[0]).removesuffix(".kv")
    dead, own = Path(f"{stem}.{2**22 + 1}.7.partial"), Path(f"{stem}.{os.getpid()}.7.partial")
    for each in (dead, own):
        each.write_bytes(b"x")
    opened(folder).close()
    assert not dead.exists()
    assert own.exists(), "somebody may be writing it"


def test_files_of_other_names_are_left_alone(folder: Path) -> None:
    told(folder, TEXT)
    strange = files()[0].with_name("notes.txt")
    strange.write_text("mine")
    block_file.trimmed(paths.kv_dir(), 0)
    assert everything() == [strange]


class Usage(NamedTuple):
    """What a disk says of itself."""

    total: int
    used: int
    free: int


def test_a_text_for_which_the_disk_has_no_room_is_kept_as_far_as_it_goes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qwen_tui.backends.local.kv import disk_writer

    backend = opened(folder)
    assert backend._engine.disk_cache is not None
    room = 5 * SMALL.block * backend._engine.disk_cache._shape.nbytes

    def usage(top: Path) -> Usage:
        used = sum(each.stat().st_size for each in Path(top).rglob("*") if each.is_file())
        return Usage(100 << 30, 0, (1 << 30) + room - used)

    writes: list[QueuedBlock] = []
    write = BlockWriter._write

    def writing(self: BlockWriter, block: QueuedBlock) -> None:
        writes.append(block)
        write(self, block)

    with monkeypatch.context() as patch:
        patch.setattr(disk_writer.shutil, "disk_usage", usage)
        patch.setattr(BlockWriter, "_write", writing)
        run(backend, asked(TEXT))
        backend.finish(LONG_S, lambda: False)
        assert 0 < len(writes) <= 5
        assert len(files()) == len(writes)
        run(backend, asked([*TEXT, 5]))
        backend.close()
        assert len(writes) <= 5
    assert told(folder, TEXT)[0] == len(writes) * SMALL.block


def test_a_folder_that_another_program_deletes_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = block_file.BlockFolder.of(tmp_path / "kv", "m", "0" * 24, 8)
    writer, made, left = BlockWriter(tmp_path / "kv", place, 1 << 40), paths.ensure_folder, [1]

    def making(folder: Path) -> Path:
        found = made(folder)
        if folder != tmp_path / "kv" and left:
            left.pop()
            folder.rmdir()
        return found

    monkeypatch.setattr(paths, "ensure_folder", making)
    writer.put(_block(range(100)))
    assert writer.wait(LONG_S)
    assert (writer.broken, left) == (False, [])
    assert len(list(block_file.everything(tmp_path / "kv"))) == 1
    writer.close(LONG_S)


def test_a_thread_that_cannot_start_costs_one_line_and_nothing_else(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = fresh(folder, TEXT)
    backend = opened(folder)

    def refused(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refused)
        assert ids(run(backend, asked(TEXT))) == wanted
    backend.close()
    assert caplog.text.count("no longer kept on disk: can't start new thread") == 1
    assert files() == []
