"""Downloading from a hub that stands on the loopback: resumed, verified, and every refusal in
words.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from fixtures import checkpoints
from qwen_tui import hub
from qwen_tui.cli import main
from qwen_tui.types import (
    IO_ERROR,
    NO_INPUT,
    NO_PERMISSION,
    TEMPORARY,
    UNAVAILABLE,
    USAGE,
    Progress,
    Trouble,
)

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NEVER = threading.Event()


class StubHub:
    """A hub with one repository. `refuse` answers (status, headers) instead; `break_after` cuts
    bodies once.
    """

    def __init__(self, folder: Path) -> None:
        self.files = {each.name: each.read_bytes() for each in folder.iterdir()}
        self.files["pytorch_model.bin"] = b"\x80\x02never"
        self.files["modeling_evil.py"] = b"raise SystemExit"
        self.files["nested/config.json"] = b"{}"
        self.refuse: tuple[int, dict[str, str]] | None = None
        self.break_after = 0
        self.damage = b""
        self.ranges = True
        self.asked: list[str] = []
        self.keys: dict[str, str | None] = {}
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                stub.answer(self)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.elsewhere = self.url.replace("127.0.0.1", "localhost")
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, to: BaseHTTPRequestHandler) -> None:
        self.asked.append(to.path)
        self.keys[to.path] = to.headers.get("Authorization")
        if self.refuse:
            status, headers = self.refuse
            self.send(to, status, b"", headers)
        elif re.fullmatch(r"/api/models/a/b/revision/\w+\?.*", to.path):
            self.send(to, 200, json.dumps(self.listing()).encode())
        elif to.path.startswith(f"/a/b/resolve/{COMMIT}/"):
            place = to.path.removeprefix(f"/a/b/resolve/{COMMIT}/")
            self.send(to, 302, b"", {"Location": f"{self.elsewhere}/cdn/{place}"})
        else:
            self.body(to, self.files[to.path.removeprefix("/cdn/")])

    def body(self, to: BaseHTTPRequestHandler, raw: bytes) -> None:
        start = 0
        if self.ranges and (asked := to.headers.get("Range")):
            start = int(asked.removeprefix("bytes=").rstrip("-"))
        part = raw[start:]
        if self.damage and len(part) > 1000:
            part = self.damage + part[len(self.damage) :]
        to.send_response(206 if start else 200)
        to.send_header("Content-Length", str(len(part)))
        to.end_headers()
        if self.break_after and len(part) > self.break_after:
            cut, self.break_after = self.break_after, 0
            to.wfile.write(part[:cut])
            to.wfile.flush()
            to.close_connection = True
        else:
            to.wfile.write(part)

    def send(
        self,
        to: BaseHTTPRequestHandler,
        status: int,
        raw: bytes,
        headers: dict[str, str] | None = None,
    ) -> None:
        to.send_response(status)
        for name, value in {"Content-Length": str(len(raw)), **(headers or {})}.items():
            to.send_header(name, value)
        to.end_headers()
        to.wfile.write(raw)

    def listing(self) -> dict[str, Any]:
        siblings = []
        for name, raw in self.files.items():
            entry: dict[str, Any] = {"rfilename": name, "size": len(raw)}
            entry["blobId"] = hashlib.sha1(b"blob %d\0" % len(raw) + raw).hexdigest()
            if name.endswith(".safetensors"):
                digest = hashlib.sha256(raw).hexdigest()
                entry["lfs"] = {"sha256": digest, "size": len(raw), "pointerSize": 130}
            siblings.append(entry)
        return {"id": "a/b", "modelId": "a/b", "sha": COMMIT, "siblings": siblings, "tags": []}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.qwen2(tmp_path_factory.mktemp("source"), shards=2, layers=1)


@pytest.fixture
def stub(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StubHub]:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    made = StubHub(source)
    monkeypatch.setenv("HF_ENDPOINT", made.url)
    yield made
    made.server.shutdown()
    made.server.server_close()


def pull(
    model: str = "a/b", cancel: threading.Event = NEVER
) -> tuple[hub.Snapshot, list[Progress]]:
    seen: list[Progress] = []
    return hub.pull(model, seen.append, cancel, pause=lambda _: None), seen


def test_a_pulled_model_is_found_afterwards_and_holds_no_code(stub: StubHub, source: Path) -> None:
    pulled, seen = pull()
    found = hub.find("a/b")
    assert found.path == pulled.path
    assert found.commit == COMMIT
    got = {each.name: each.read_bytes() for each in found.path.iterdir()}
    assert got == {each.name: each.read_bytes() for each in source.iterdir()}
    assert (seen[-1].stage, seen[-1].done) == ("download", seen[-1].total)
    assert seen[-1].total == sum(len(raw) for raw in got.values())
    assert [each.done for each in seen] == sorted(each.done for each in seen)
    assert all(each.ok and each.source == "hub" for each in hub.verify(found.path))


def test_the_command_prints_the_folder_for_a_script(
    stub: StubHub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", "pull", "a/b"]) == 0
    said = capsys.readouterr()
    assert said.out == f"{hub.find('a/b').path}\n"
    assert COMMIT[:12] in said.err
    assert main(["models", "pull", "a/b", "--quiet"]) == 0
    assert capsys.readouterr().err == ""


def test_what_is_here_already_is_not_fetched_again(stub: StubHub) -> None:
    pull()
    stub.asked.clear()
    pull()
    assert [path for path in stub.asked if "/resolve/" in path] == []


def test_a_broken_connection_goes_on_where_it_broke(stub: StubHub) -> None:
    stub.break_after = 20_000
    _, seen = pull()
    assert hub.find("a/b").complete
    assert seen[-1].done == seen[-1].total


def test_a_server_without_ranges_is_resumed_too(stub: StubHub) -> None:
    stub.ranges = False
    stub.break_after = 20_000
    pull()
    assert hub.find("a/b").complete


def test_a_stopped_download_keeps_its_bytes_and_the_next_run_uses_them(stub: StubHub) -> None:
    cancel = threading.Event()
    last: list[Progress] = []

    def stop_at_half(progress: Progress) -> None:
        last.append(progress)
        if progress.done > progress.total / 2:
            cancel.set()

    with pytest.raises(hub.Stopped):
        hub.pull("a/b", stop_at_half, cancel)
    with pytest.raises(Trouble, match="is here") as caught:
        hub.find("a/b")
    assert caught.value.code == NO_INPUT
    _, seen = pull()
    assert hub.find("a/b").complete
    assert seen[0].total == last[-1].total


def test_an_unfinished_file_is_taken_up_by_a_later_run(stub: StubHub, tmp_path: Path) -> None:
    name = "model-00001-of-00002.safetensors"
    raw = stub.files[name]
    blobs = tmp_path / "hub/models--a--b/blobs"
    blobs.mkdir(parents=True)
    part = blobs / f"{hashlib.sha256(raw).hexdigest()}.incomplete"
    part.write_bytes(raw[:9000])
    pulled, seen = pull()
    assert (pulled.path / name).read_bytes() == raw
    assert seen[-1].done == seen[-1].total
    assert not part.exists()


def test_damaged_bytes_never_get_the_files_name(stub: StubHub) -> None:
    stub.damage = b"XXXX"
    with pytest.raises(Trouble, match="arrived damaged") as caught:
        pull()
    assert caught.value.code == UNAVAILABLE
    stub.damage = b""
    pull()
    assert hub.find("a/b").complete


@pytest.mark.parametrize(
    ("status", "headers", "code", "said"),
    [
        (401, {"X-Error-Code": "GatedRepo"}, NO_PERMISSION, "gated or private"),
        (403, {}, NO_PERMISSION, "gated or private"),
        (401, {"X-Error-Code": "RepoNotFound"}, NO_INPUT, "the hub has no model a/b"),
        (404, {}, NO_INPUT, "the hub has no model a/b"),
        (404, {"X-Error-Code": "RevisionNotFound"}, NO_INPUT, "no such revision"),
        (429, {"Retry-After": "33"}, TEMPORARY, "no more requests"),
        (500, {}, UNAVAILABLE, "HTTP 500"),
    ],
)
def test_every_refusal_is_one_line_with_its_code(
    stub: StubHub, status: int, headers: dict[str, str], code: int, said: str
) -> None:
    stub.refuse = (status, headers)
    with pytest.raises(Trouble) as caught:
        pull()
    assert caught.value.code == code
    assert said in caught.value.message
    assert "\n" not in caught.value.message + caught.value.hint
    assert caught.value.hint or code == NO_INPUT


def test_no_network_says_so(stub: StubHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(Trouble, match="cannot be reached") as caught:
        pull()
    assert caught.value.code == UNAVAILABLE


def test_the_token_goes_to_the_hub_and_to_nobody_else(
    stub: StubHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret\n")
    pull()
    told = {path.split("/")[1]: key for path, key in stub.keys.items()}
    assert told == {"api": "Bearer hf_secret", "a": "Bearer hf_secret", "cdn": None}


def test_offline_makes_no_request(stub: StubHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(Trouble, match="HF_HUB_OFFLINE") as caught:
        pull()
    assert caught.value.code == UNAVAILABLE
    assert stub.asked == []


def test_pickles_alone_are_refused_before_a_byte_is_fetched(stub: StubHub) -> None:
    for name in [name for name in stub.files if "safetensors" in name]:
        del stub.files[name]
    with pytest.raises(Trouble, match=r"no safetensors weights \(only pytorch_model.bin\)"):
        pull()
    assert not [path for path in stub.asked if "/resolve/" in path]


def test_a_disk_without_room_is_said_before_the_first_byte(
    stub: StubHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    listing = stub.listing()
    for each in listing["siblings"]:
        if each["rfilename"].endswith("00001-of-00002.safetensors"):
            each["size"] = each["lfs"]["size"] = 10**18
    monkeypatch.setattr(stub, "listing", lambda: listing)
    with pytest.raises(Trouble, match="free") as caught:
        pull()
    assert caught.value.code == IO_ERROR


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_that_may_not_be_written_is_named(stub: StubHub, tmp_path: Path) -> None:
    (tmp_path / "hub").mkdir(mode=0o500)
    with pytest.raises(Trouble) as caught:
        pull()
    assert caught.value.code == NO_PERMISSION


def test_two_downloads_at_once_do_not_mix(stub: StubHub, tmp_path: Path) -> None:
    import fcntl

    raw = stub.files["config.json"]
    blobs = tmp_path / "hub/models--a--b/blobs"
    blobs.mkdir(parents=True)
    digest = hashlib.sha1(b"blob %d\0" % len(raw) + raw).hexdigest()
    with (blobs / f"{digest}.incomplete").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(Trouble, match="by another program") as caught:
            pull()
    assert caught.value.code == TEMPORARY


def test_a_file_system_without_locks_takes_a_download(
    stub: StubHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    def lockless(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", lockless)
    assert pull()[0].complete


def test_a_token_that_has_expired_is_called_so(
    stub: StubHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a public model the hub refuses a wrong token, and no longer the model."""
    stub.refuse = (401, {"X-Error-Message": "Invalid credentials in Authorization header"})
    monkeypatch.setenv("HF_TOKEN", "hf_stale")
    with pytest.raises(Trouble, match="does not accept HF_TOKEN") as caught:
        pull()
    assert "unset it" in caught.value.hint
    assert "gated" not in caught.value.message + caught.value.hint
    assert caught.value.code == NO_PERMISSION


def test_only_the_weights_that_will_be_loaded_are_fetched(
    stub: StubHub, source: Path, tmp_path: Path
) -> None:
    for name in ("model.safetensors", "adapter_model.safetensors", "consolidated.safetensors"):
        stub.files[name] = (source / "model-00001-of-00002.safetensors").read_bytes()
    fetched = {each.name for each in pull()[0].path.glob("*.safetensors")}
    assert fetched == {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"}
    del stub.files["model.safetensors.index.json"]
    stub.files["model_backup.safetensors"] = stub.files["model.safetensors"]
    shutil.rmtree(tmp_path / "hub")
    assert {each.name for each in pull()[0].path.glob("*.safetensors")} == {"model.safetensors"}


@pytest.mark.parametrize("name", ["demo", "../x", "a/b/c", "--flag", ""])
def test_what_is_no_hub_id_is_a_usage_error(stub: StubHub, name: str) -> None:
    with pytest.raises(Trouble) as caught:
        pull(name)
    assert caught.value.code == USAGE
    assert stub.asked == []
