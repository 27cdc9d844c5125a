"""The faithful document against a plain string, through any edits."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.style import Style

from qwen_tui.safe_text import CLUSTER_CUT, visible
from qwen_tui.tui.text.editor_document import ROW_MOST, FaithfulDocument, Span, shown
from qwen_tui.tui.text.wrapped_rows import WrappedRows

HOSTILE = "a\x0bb\x0cc\x1cd\x85e\u2028f\u2029\r\ng\rh\x00i\x1b[31m\u202ej\u200b\n\nend\r\n"
TEXT = st.text(st.sampled_from("ab \n\t\r\x0b\x1b\x85\u2028é日\u0301\u200d👩"), max_size=40)
LONG = st.sampled_from(["", "x" * (ROW_MOST + 10), "word " * 900, "日" * 5000, "a\n" * 30])
EDITS = st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 10_000), TEXT | LONG), max_size=8)


@given(TEXT | LONG, EDITS, st.integers(1, 60))
def test_any_edits_keep_text_offsets_and_wrapping_true(
    text: str, edits: list[tuple[int, int, str]], width: int
) -> None:
    document = FaithfulDocument(text)
    wrapped = WrappedRows(document.shown, width)
    for one, other, insert in edits:
        low, high = sorted((one % (len(text) + 1), other % (len(text) + 1)))
        start, end = map(document.get_location_from_index, (low, high))
        assert document.get_text_range(start, end) == text[low:high]
        result = document.replace_range(start, end, insert)
        assert result.replaced_text == text[low:high]
        text = text[:low] + insert + text[high:]
        assert document.text == text
        assert document.get_index_from_location(result.end_location) == low + len(insert)
        wrapped.wrap_range(start, end, result.end_location)
        fresh = WrappedRows(document.shown, width)
        assert wrapped._wrap_offsets == fresh._wrap_offsets
        assert wrapped._offset_to_line_info == fresh._offset_to_line_info
        assert len(document.soft) == len(document.marks) == document.line_count
    assert max(map(len, document.lines)) <= 2 * ROW_MOST


@given(TEXT)
def test_what_is_shown_is_harmless_and_as_long(text: str) -> None:
    for line in text.split("\n"):
        safe = shown(line)
        assert len(safe) == len(line)
        assert visible(safe) == safe


def test_a_tower_of_marks_becomes_cells_and_the_length_stays() -> None:
    for count in (300, 2009):
        line = "a" + "\u0335" * count + " end"
        safe = shown(line)
        assert len(safe) == len(line)
        assert safe.count("\u0335") < CLUSTER_CUT
        assert safe.endswith("▯ end")


def test_only_a_line_feed_ends_a_line() -> None:
    document = FaithfulDocument(HOSTILE)
    assert document.text == HOSTILE
    assert document.line_count == HOSTILE.count("\n") + 1


@given(st.text(st.sampled_from("ab 日👩é\u0301"), min_size=1, max_size=80), st.integers(4, 30))
def test_wrapped_rows_fit_and_keep_all(text: str, width: int) -> None:
    wrapped = WrappedRows(FaithfulDocument(text).shown, width)
    sections = wrapped.get_sections(0)
    assert "".join(sections) == shown(text)
    assert all(cell_len(section) <= width + 1 for section in sections)


def test_a_click_inside_a_wide_character_is_on_it() -> None:
    wrapped = WrappedRows(FaithfulDocument("a日b").shown, 20)
    columns = [wrapped.get_target_document_column(0, x, 0) for x in range(6)]
    assert columns == [0, 1, 1, 2, 3, 3]


def test_styles_move_with_edits_and_go_where_one_edits_inside() -> None:
    bold, dim = Style(bold=True), Style(dim=True)
    document = FaithfulDocument("one two\nthree four")
    document.paint([Span(0, 3, bold), Span(4, 7, dim), Span(8, 13, bold), Span(13, 18, dim)])
    document.replace_range((0, 3), (0, 3), " and\na")
    assert document.marks == [[(0, 3, bold)], [(2, 5, dim)], [(0, 5, bold), (5, 10, dim)]]
    document.replace_range((2, 2), (2, 3), "")
    assert document.marks[2] == [(4, 9, dim)]


def test_a_style_over_a_very_long_line_is_whole() -> None:
    bold = Style(bold=True)
    document = FaithfulDocument("x" * 5000)
    document.paint([Span(0, 5000, bold)])
    assert sum(end - start for row in document.marks for start, end, _ in row) == 5000


@given(TEXT | LONG, st.integers(0, 10_000))
def test_a_place_is_told_by_the_texts_own_lines(text: str, at: int) -> None:
    document = FaithfulDocument(text)
    at %= len(text) + 1
    before = text[:at].split("\n")
    told = document.line_and_column(document.get_location_from_index(at))
    assert told == (len(before) - 1, len(before[-1]))
