"""Servers in the settings: `engine`, and `[engines.NAME]`."""

from __future__ import annotations

from pathlib import Path

import pytest

from qwen_tui import paths, settings
from qwen_tui.settings import Settings
from qwen_tui.settings.endpoints import Endpoint, checked_url
from qwen_tui.types import BAD_CONFIG, USAGE, Trouble

LAB = "[engines.lab]\nurl = 'https://lab.example:8443/v1/'\nmodel = 'coder'\nkey_env = 'LAB_KEY'\n"


def load(text: str, tmp_path: Path, **flags: object) -> Settings:
    file = paths.config_file()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return settings.load(flags, cwd=tmp_path)


def test_models_of_this_machine_are_the_default(tmp_path: Path) -> None:
    assert settings.load({}, cwd=tmp_path).endpoint() is None
    assert settings.load({"engine": "torch"}, cwd=tmp_path).endpoint() is None


def test_a_named_server_is_found_by_its_name(tmp_path: Path) -> None:
    found = load(LAB, tmp_path, engine="lab").endpoint()
    url = "https://lab.example:8443"
    assert found == Endpoint(url, name="lab", model="coder", key_env="LAB_KEY")
    assert not settings.load({}, cwd=tmp_path).warnings


def test_an_address_stands_for_a_server_without_a_name(tmp_path: Path) -> None:
    found = load(LAB, tmp_path, engine="http://127.0.0.1:18080/v1").endpoint()
    assert found == Endpoint("http://127.0.0.1:18080")
    assert found.label == "127.0.0.1:18080"


def test_the_variable_names_an_engine_too(tmp_path: Path) -> None:
    env = {"QWEN_TUI_ENGINE": "http://[::1]:9"}
    found = settings.load({}, env=env, cwd=tmp_path).endpoint()
    assert found is not None
    assert found.origin == ("http", "::1", 9)
    assert found.private


@pytest.mark.parametrize(
    ("address", "key_env", "name"),
    [
        ("https://lab.example:8443", "LAB_KEY", "lab"),
        ("https://lab.example:8443/other", "LAB_KEY", ""),
        ("http://lab.example:8443", "", ""),
        ("https://lab.example", "", ""),
        ("https://lab.example.evil:8443", "", ""),
    ],
)
def test_a_key_is_bound_to_scheme_host_and_port(
    address: str, key_env: str, name: str, tmp_path: Path
) -> None:
    found = load(LAB, tmp_path, engine=address).endpoint()
    assert found is not None
    assert (found.key_env, found.name) == (key_env, name)


@pytest.mark.parametrize(
    "address",
    [
        "ftp://host",
        "http://",
        "http://me:secret@host",
        "http://host?key=1",
        "http://host:99999",
        "http://host:x",
    ],
)
def test_an_address_that_cannot_be_one_is_refused(address: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"address|host"):
        checked_url(address)
    with pytest.raises(Trouble) as caught:
        settings.load({"engine": address}, cwd=tmp_path)
    assert caught.value.code == USAGE
    assert "secret" not in caught.value.message


def test_a_name_that_is_not_there_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(Trouble) as caught:
        load(LAB, tmp_path, engine="lap").endpoint()
    assert caught.value.code == BAD_CONFIG
    assert "did you mean lab?" in caught.value.message


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ("[engines.x]\nmodel = 'a'", "url is missing"),
        ("[engines.x]\nurl = 'nowhere'", "http://"),
        ("[engines.x]\nurl = 'http://h'\nkey = 'secret'", "there is no 'key'"),
        ("[engines.x]\nurl = 'http://h'\npriority = 'high'", "whole number"),
        ("[engines.local]\nurl = 'http://h'", "not `local`"),
        ("[engines]\nx = 1", "a table is wanted"),
    ],
)
def test_a_broken_table_is_a_warning_that_names_the_place(
    table: str, told: str, tmp_path: Path
) -> None:
    found = load(table, tmp_path)
    assert found.engines == {}
    assert len(found.warnings) == 1
    assert told in found.warnings[0]
    assert "line" in found.warnings[0]
    assert "secret" not in found.warnings[0]


def test_a_project_can_name_no_server(tmp_path: Path) -> None:
    (tmp_path / paths.PROJECT_NAME).write_text("engine = 'http://evil'\n" + LAB, encoding="utf-8")
    found = settings.load({}, cwd=tmp_path)
    assert found.endpoint() is None
    assert found.engines == {}
    assert len(found.warnings) == 2
