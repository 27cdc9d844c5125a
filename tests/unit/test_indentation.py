"""Indentation goes on with what a text does."""

from __future__ import annotations

import pytest

from qwen_tui.tui.text.indentation import indent, outdent, step_of


@pytest.mark.parametrize(
    ("text", "step"),
    [
        ("", "    "),
        ("no indentation\nat all\n", "    "),
        ("def f():\n    if x:\n        return\n", "    "),
        ("a:\n  b:\n    c: 1\n  d: 2\n", "  "),
        ("all:\n\tcc a.c\n\tcc b.c\n", "\t"),
        ("{\n   x\n      y\n}", "   "),
        ("call(a,\n     b)\ndef f():\n  x\ndef g():\n  y\n", "  "),
    ],
)
def test_a_step_is_what_the_text_uses(text: str, step: str) -> None:
    assert step_of(text) == step


def test_the_next_step_is_a_column_and_not_a_number_of_spaces() -> None:
    assert indent("", "    ") == "    "
    assert indent("ab", "    ") == "  "
    assert indent("abcd", "    ") == "    "
    assert indent("ab", "\t") == "\t"


def test_a_line_stands_one_step_less_deep() -> None:
    assert outdent("      x", "    ") == 4
    assert outdent("  x", "    ") == 2
    assert outdent("\t\tx", "\t") == 1
    assert outdent("x", "    ") == 0
