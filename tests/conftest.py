"""Tripwires for every test: no socket beyond loopback, no hub, a temporary home."""

from __future__ import annotations

import ipaddress
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("house", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("again", settings.get_profile("house"), derandomize=True)
settings.load_profile("again" if os.environ.get("CI") else "house")

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "2")
for name in [name for name in os.environ if name.startswith("QWEN_TUI_")]:
    if not name.startswith("QWEN_TUI_TEST_"):
        del os.environ[name]


def _is_loopback(address: Any) -> bool:
    if not isinstance(address, tuple):
        return True  # a Unix socket's path
    try:
        return ipaddress.ip_address(address[0]).is_loopback
    except ValueError:
        return address[0] in ("localhost", "")


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if not _is_loopback(address):
            pytest.fail(f"a test tried to reach {address!r}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh home for config, sessions, drafts and caches; child processes inherit it."""
    place = tmp_path / "qwen-tui-home"
    monkeypatch.setenv("QWEN_TUI_HOME", str(place))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    return place
