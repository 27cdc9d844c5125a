"""The table of actions: stable ids, keys that arrive, names for people, a person's own keys."""

from __future__ import annotations

from qwen_tui.tui.action_table import ACTIONS, OLD_IDS
from qwen_tui.tui.actions import (
    BY_ID,
    bindings,
    groups,
    key_name,
    key_names,
    key_table,
    keymap,
)

NEVER_ARRIVE = {"ctrl+h", "ctrl+i", "ctrl+m", *(f"alt+{digit}" for digit in range(10))} | {
    "alt+b",  # these two arrive as word movements
    "alt+f",
}
TEXT_AREA = {"ctrl+a", "ctrl+e", "ctrl+w", "ctrl+u", "ctrl+k", "ctrl+d", "ctrl+x", "ctrl+v"} | {
    "f6",
    "f7",
}


def test_ids_are_unique_and_every_action_says_what_it_does() -> None:
    assert len(BY_ID) == len(ACTIONS)
    for action in ACTIONS:
        assert action.keys or action.where == "studio", action.id
        assert action.help.endswith("."), action.id
        assert action.group, action.id


def test_no_key_is_one_that_never_arrives_or_that_the_editor_needs() -> None:
    for action in ACTIONS:
        assert not NEVER_ARRIVE & set(action.keys), action.id
        if action.priority:
            assert not TEXT_AREA & set(action.keys), action.id


def test_no_two_actions_of_one_place_share_a_key() -> None:
    assert keymap({})[1] == []


def test_continuing_has_the_keys_that_terminals_send() -> None:
    keys = {key for binding in bindings("studio") for key in binding.key.split(",")}
    assert {"ctrl+j", "f5", "ctrl+enter", "ctrl+@"} <= keys


def test_keys_are_named_as_people_write_them() -> None:
    assert key_name("ctrl+j") == "Ctrl+J"
    assert key_name("alt+down") == "Alt+↓"
    assert key_name("escape") == "Esc"
    assert key_name("shift+f4") == "Shift+F4"
    assert key_names(("ctrl+@", "ctrl+space")) == ["Ctrl+Space"]


def test_a_persons_keys_are_checked_and_named_when_wrong() -> None:
    kept, complaints = keymap({"generate": "ctrl+k, f12", "genrate": "f3", "stop": " "})
    assert kept == {"generate": "ctrl+k,f12"}
    assert any("genrate" in line for line in complaints)
    assert any("stop" in line for line in complaints)


def test_a_key_bound_by_an_id_of_before_goes_on_working() -> None:
    kept, complaints = keymap({"road_hide": "ctrl+x", "road_go": "space"})
    assert kept == {"branch_hide": "ctrl+x", "branch_go": "space"}
    assert complaints == []
    assert set(OLD_IDS.values()) <= BY_ID.keys()
    assert not OLD_IDS.keys() & BY_ID.keys()


def test_a_persons_keys_that_clash_are_reported() -> None:
    _, complaints = keymap({"generate": "ctrl+r"})
    assert complaints == ["keys: Ctrl+R is both generate and regenerate"]


def test_the_readme_table_has_every_action_once() -> None:
    table = key_table()
    for action in ACTIONS:
        assert table.count(f"`{action.id}`") == 1
    assert sum(len(members) for members in groups().values()) == len(ACTIONS)
