"""Settings: who wins, where each value came from, and how a mistake is named."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_tui import paths, settings
from qwen_tui.settings import Settings
from qwen_tui.types import BAD_CONFIG, DEFAULT_MODEL, USAGE, Sampling, Trouble


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return {"QWEN_TUI_HOME": str(tmp_path / "home")}


class Machine:
    """A home and a working directory to write configuration into."""

    def __init__(self, env: dict[str, str], cwd: Path) -> None:
        self.env, self.cwd = env, cwd
        cwd.mkdir()

    def user(self, text: str) -> Path:
        file = paths.config_file(self.env)
        paths.ensure_folder(file.parent)
        file.write_text(text)
        return file

    def project(self, text: str) -> Path:
        file = self.cwd / "qwen-tui.toml"
        file.write_text(text)
        return file

    def load(self, **flags: Any) -> Settings:
        return settings.load(flags, env=self.env, cwd=self.cwd)


@pytest.fixture
def machine(env: dict[str, str], tmp_path: Path) -> Machine:
    return Machine(env, tmp_path / "project")


def test_with_nothing_set_everything_is_the_default(machine: Machine) -> None:
    found = machine.load()
    assert found.model == DEFAULT_MODEL
    assert found.sampling == Sampling()
    assert found.warnings == ()
    assert {str(found.origin[name]) for name in settings.setting_names()} == {"default"}
    assert not found.explicit("max_tokens")


def test_room_on_disk_is_a_number_and_never_a_projects_to_give(machine: Machine) -> None:
    machine.project("kv_disk = 100")
    assert machine.load().kv_disk == 4
    assert "may not set this" in machine.load().warnings[0]
    machine.user("kv_disk = 2.5")
    assert machine.load().kv_disk == 2.5
    assert machine.load(kv_disk=0).kv_disk == 0
    for bad in ("x", "nan", "inf", "-1", ""):
        machine.env["QWEN_TUI_KV_DISK"] = bad
        assert machine.load().kv_disk == 2.5
        assert len(machine.load().warnings) == (2 if bad else 1)
    for wrong in (-1.0, float("nan"), 1e9, True):
        with pytest.raises(Trouble, match="--kv-disk"):
            machine.load(kv_disk=wrong)


def test_each_layer_wins_over_the_one_below(machine: Machine) -> None:
    layers = [
        ("user file", lambda: machine.user("max_tokens = 1")),
        ("project file", lambda: machine.project("max-tokens = 2")),
        ("environment", lambda: machine.env.update(QWEN_TUI_MAX_TOKENS="3")),
    ]
    for number, (source, write) in enumerate(layers, 1):
        write()
        found = machine.load()
        assert found.max_tokens == number
        assert found.origin["max_tokens"].source == source
    found = machine.load(max_tokens=4)
    assert (found.max_tokens, str(found.origin["max_tokens"])) == (4, "flag --max-tokens")
    assert found.explicit("max_tokens")


def test_an_origin_names_file_and_line(machine: Machine) -> None:
    file = machine.user("# mine\ntheme = 'light'\n\n[sampling]\n# less\ntop_p = 0.9\n")
    found = machine.load()
    assert found.origin["theme"].where == f"{file}:2"
    assert found.origin["sampling.top_p"].where == f"{file}:6"
    assert found.sampling.top_p == 0.9


def test_a_preset_above_starts_afresh_and_values_beside_it_stay(machine: Machine) -> None:
    machine.user("[sampling]\ntop_p = 0.5\ntemperature = 0.1\nseed = 3\n")
    found = machine.load(preset="hf", temperature=0.7)
    assert (found.sampling.temperature, found.sampling.top_k, found.sampling.top_p) == (0.7, 50, 1)
    assert found.sampling.seed == 3
    assert str(found.origin["sampling.top_k"]) == "preset hf"
    assert str(found.origin["sampling.temperature"]) == "flag --temperature"
    below = machine.load()
    assert (below.preset, below.sampling.top_p) == ("balanced", 0.5)


def test_a_persons_own_preset_is_found_by_name(machine: Machine) -> None:
    machine.user("[presets.tale]\nhelp = 'long'\ntemperature = 1.3\nmin_p = 0.02\n")
    found = machine.load(preset="tale")
    assert (found.sampling.temperature, found.sampling.min_p) == (1.3, 0.02)
    assert found.presets["tale"].help == "long"


def test_keys_are_rebound_by_action(machine: Machine) -> None:
    machine.user("[keys]\ngenerate = 'ctrl+j, f5'\nstop = ['escape']\nodd = 7\n")
    found = machine.load()
    assert found.keys == {"generate": "ctrl+j,f5", "stop": "escape"}
    assert len(found.warnings) == 1
    assert "keys.odd" in found.warnings[0]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("modle = 'x'", "did you mean model?"),
        ("max_tokens = 'many'", "whole number"),
        ("max_tokens = 1.5", "whole number"),
        ("save = 'perhaps'", "true or false"),
        ("dtype = 'bf61'", "did you mean bf16?"),
        ("device = 'gpu'", "cuda"),
        ("quant = 'q4'", "nf4"),
        ("temperature = 0.5", "belongs under [sampling]"),
        ("sampling = 3", "a table is wanted"),
        ("branches = 0", "not from 1"),
        ("stop = ['']", "empty stop"),
        ("preset = 'creativ'", "did you mean creative?"),
        ("[sampling]\ntop_o = 0.5", "did you mean top_p?"),
        ("[sampling]\ntop_p = 1.5", "0 to 1"),
        ("[sampling]\nmin_p = true", "0 to 1"),
        ("[presets.x]\ntemprature = 1", "did you mean temperature?"),
    ],
)
def test_a_mistake_falls_back_and_is_named_with_its_line(
    machine: Machine, line: str, told: str
) -> None:
    file = machine.user("theme = 'kept'\n" + line + "\n")
    found = machine.load()
    assert found.theme == "kept"
    assert found.sampling == Sampling()
    assert found.max_tokens == 256
    assert len(found.warnings) == 1
    assert told in found.warnings[0]
    where = 2 + line.count("\n")
    assert f"{file}, line {where}" in found.warnings[0] or f"{file}:{where}" in found.warnings[0]


@pytest.mark.parametrize(
    "line",
    [
        "model = 'evil/model'",
        "backend = 'remote'",
        "device = 'cpu'",
        "save = false",
        "special = false",
        "[keys]\nquit = 'a'",
        "[presets.x]\ntop_k = 1",
        "[servers.x]\nurl = 'http://x'",
        "api_key = 'x'",
    ],
)
def test_a_project_may_not_set_what_is_not_its_business(machine: Machine, line: str) -> None:
    file = machine.project(line)
    found = machine.load()
    assert found == Settings()
    assert len(found.warnings) == 1
    assert str(file) in found.warnings[0]
    assert "may not set" in found.warnings[0] or "no such setting" in found.warnings[0]


def test_a_project_may_set_sampling_preset_theme_and_limits(machine: Machine) -> None:
    machine.project(
        "preset = 'precise'\ntheme = 'light'\nmax_tokens = 9\ncontext = 512\nstop = '###'\n"
        "[sampling]\ntop_k = 3\n"
    )
    found = machine.load()
    assert found.warnings == ()
    assert (found.theme, found.max_tokens, found.context, found.stop) == ("light", 9, 512, ("###",))
    assert (found.sampling.temperature, found.sampling.top_k) == (0.2, 3)


def test_a_newer_version_is_read_as_far_as_known(machine: Machine) -> None:
    machine.user("version = 99\ntheme = 'light'\n")
    found = machine.load()
    assert found.theme == "light"
    assert len(found.warnings) == 1
    assert "version 99" in found.warnings[0]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"a = 1\nb = = 2\n", "line 2, column 5"),
        (b"a = 1\nb = '\xff'\n", "line 2"),
        (b"a = " + b"[" * 9000, "not TOML"),
        (b"#" * (settings.MAX_FILE + 1), "larger"),
    ],
)
def test_a_file_that_is_no_toml_is_refused_with_line_and_column(
    machine: Machine, text: bytes, told: str
) -> None:
    file = machine.project("")
    file.write_bytes(text)
    with pytest.raises(Trouble, match=told) as caught:
        machine.load()
    assert caught.value.code == BAD_CONFIG
    assert str(file) in caught.value.message


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
def test_a_file_that_may_not_be_read_is_named(machine: Machine) -> None:
    machine.user("").chmod(0)
    with pytest.raises(Trouble, match="cannot be read") as caught:
        machine.load()
    assert caught.value.code == BAD_CONFIG


def test_a_bad_variable_is_a_warning_that_names_it(machine: Machine) -> None:
    machine.env |= {"QWEN_TUI_TOP_P": "2", "QWEN_TUI_SAVE": "maybe", "QWEN_TUI_THEME": "light"}
    found = machine.load()
    assert (found.sampling.top_p, found.save, found.theme) == (1.0, True, "light")
    assert [each.partition(":")[0] for each in found.warnings] == [
        "QWEN_TUI_SAVE",
        "QWEN_TUI_TOP_P",
    ]


def test_outside_the_command_line_a_setting_goes_by_its_own_name(machine: Machine) -> None:
    file = machine.user("branches = 0\n[sampling]\norder = 'foo'\n")
    machine.env["QWEN_TUI_CHOICES"] = "9999"
    written, stage, variable = machine.load().warnings
    assert written.startswith(f"{file}, line 1: branches: 0 is not")
    assert stage.startswith(f"{file}, line 3: sampling.order: there is no sampler 'foo'")
    assert variable.startswith("QWEN_TUI_CHOICES: 9999 is not")


def test_a_misspelled_variable_is_named_and_a_strangers_is_not(machine: Machine) -> None:
    machine.env |= {"QWEN_TUI_TEMPRATURE": "1", "QWEN_TUI_FOR_SOMEONE_ELSE": "1"}
    assert machine.load().warnings == (
        "QWEN_TUI_TEMPRATURE is no setting; did you mean QWEN_TUI_TEMPERATURE?",
    )


def test_variables_are_read_as_text(machine: Machine) -> None:
    machine.env |= {
        "QWEN_TUI_MODEL": "demo",
        "QWEN_TUI_TEMPERATURE": "0.25",
        "QWEN_TUI_ORDER": "top_k;temperature",
        "QWEN_TUI_SEED": "7",
        "QWEN_TUI_HEAT": "off",
        "QWEN_TUI_STOP": "\n\n",
    }
    found = machine.load()
    assert (found.model, found.heat, found.stop) == ("demo", False, ("\n\n",))
    assert found.sampling == Sampling(temperature=0.25, order=("top_k", "temperature"), seed=7)
    assert str(found.origin["sampling.seed"]) == "environment QWEN_TUI_SEED"


@pytest.mark.parametrize(
    ("flag", "value", "told"),
    [
        ("top_p", 2.0, "--top-p: top-p goes from 0 to 1, not 2"),
        ("dtype", "f8", "--dtype"),
        ("branches", 0, "--num: 0 is not from 1 to 64"),
        ("preset", "craetive", "did you mean creative"),
        ("order", "top_k;nope", "no sampler"),
        ("logit_bias", ["x"], "ID=VALUE"),
        ("seed", -5, "seed"),
    ],
)
def test_a_bad_flag_is_refused(machine: Machine, flag: str, value: object, told: str) -> None:
    with pytest.raises(Trouble, match=told) as caught:
        machine.load(**{flag: value})
    assert caught.value.code == USAGE


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("bfloat16", "bf16"),
        ("float16", "fp16"),
        ("half", "fp16"),
        ("FP32", "fp32"),
        ("auto", "auto"),
    ],
)
def test_dtypes_go_by_our_names_and_torchs(machine: Machine, typed: str, kept: str) -> None:
    assert machine.load(dtype=typed).dtype == kept


def test_a_prompt_that_does_not_fit_is_refused_unless_asked_otherwise(machine: Machine) -> None:
    assert machine.load().truncate is None
    assert machine.load(truncate="left").truncate == "left"
    machine.project("truncate = 'middle'")
    assert machine.load().truncate == "middle"
    assert machine.load(truncate="refuse").truncate is None


def test_the_checkpoints_preset_is_filled_in_beside_what_was_set(
    machine: Machine, tmp_path: Path
) -> None:
    (tmp_path / "generation_config.json").write_text(
        '{"do_sample": true, "temperature": 0.7, "top_p": 0.8, "top_k": 20}'
    )
    chosen = machine.load(preset="checkpoint", top_k=5, seed=1)
    filled = settings.for_checkpoint(chosen, tmp_path)
    assert (filled.sampling.temperature, filled.sampling.top_p) == (0.7, 0.8)
    assert (filled.sampling.top_k, filled.sampling.seed) == (5, 1)
    other = machine.load(preset="raw")
    assert settings.for_checkpoint(other, tmp_path) is other


LETTERS = "ab.\"'\n\x1b\u202eé"


@hypothesis.settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from([*settings.FIELD, "sampling", "keys", "presets", "version", "x", "a b"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(LETTERS, max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.text(LETTERS, max_size=4), inner, max_size=3)
            ),
            max_leaves=6,
        ),
        max_size=5,
    )
)
def test_no_table_of_any_shape_breaks_the_loader(
    tmp_path_factory: pytest.TempPathFactory, tables: dict[str, Any]
) -> None:
    folder = tmp_path_factory.mktemp("any")
    (folder / "config").mkdir()
    text = "\n".join(f'"{key}" = {_toml(value)}' for key, value in tables.items())
    (folder / "config/config.toml").write_text(text, encoding="utf-8")
    found = settings.load({}, env={"QWEN_TUI_HOME": str(folder)}, cwd=folder)
    assert 1 <= found.branches <= 64


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, list):
        return "[" + ", ".join(_toml(each) for each in value) + "]"
    if isinstance(value, dict):
        pairs = (f"{_toml(key)} = {_toml(each)}" for key, each in value.items())
        return "{" + ", ".join(pairs) + "}"
    text = "".join(f"\\U{ord(letter):08x}" for letter in str(value))
    return f'"{text}"'
