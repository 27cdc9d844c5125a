"""Text from models, files and servers made safe to show in a terminal, cluster by cluster.

Law: what `visible` returns has no control but `\\n` and `\\t`, no bidi control, lone surrogate or
invisible character that no emoji or script needs; printable text is returned as it came.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import cache
from typing import Final

CLUSTER_CUT: Final = 12
"""Most code points shown of one grapheme cluster; the rest is counted instead. The longest emoji
sequences in use have eleven."""

REPLACEMENT: Final = "\ufffd"
_CONTROL: Final = r"\x00-\x1f\x7f-\x9f"
_INVISIBLE: Final = (
    r"\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    r"\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U00013430-\U0001343f\U0001bca0-\U0001bca3"
    r"\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
"""Default ignorable characters and format controls (DerivedCoreProperties.txt), blank fillers."""

_SURROGATE: Final = r"\ud800-\udfff"
_HAZARD: Final = re.compile(rf"[{_CONTROL}{_INVISIBLE}{_SURROGATE}]")
_SUSPECT: Final = re.compile(rf"[\x00-\x08\x0b-\x1f\x7f-\x9f{_INVISIBLE}{_SURROGATE}]")
_CROWD: Final = re.compile(
    r"[^\x00-\u02ff\u0370-\u0482\u2000-\u200b\u2010-\u20cf\u2500-\u2bff\u3000-\u3029\u3030-\u3098"
    rf"\u309b-\ua4cf\uff01-\uff9d]{{{CLUSTER_CUT // 2},}}"
)
"""A run without characters that certainly begin a cluster: a cluster that is too long has such a
run before or after its base."""

_PICTOGRAPH: Final = (
    r"\xa9\xae\u203c\u2049\u2122\u2139\u2194-\u2199\u21a9\u21aa\u231a\u231b\u2328\u2388\u23cf"
    r"\u23e9-\u23f3\u23f8-\u23fa\u24c2\u25aa\u25ab\u25b6\u25c0\u25fb-\u25fe\u2600-\u2605"
    r"\u2607-\u2612\u2614-\u2685\u2690-\u2705\u2708-\u2712\u2714\u2716\u271d\u2721\u2728\u2733\u2734"
    r"\u2744\u2747\u274c\u274e\u2753-\u2755\u2757\u2763-\u2767\u2795-\u2797\u27a1\u27b0\u27bf\u2934"
    r"\u2935\u2b05-\u2b07\u2b1b\u2b1c\u2b50\u2b55\u3030\u303d\u3297\u3299\U0001f000-\U0001f0ff"
    r"\U0001f10d-\U0001f10f\U0001f12f\U0001f16c-\U0001f171\U0001f17e\U0001f17f\U0001f18e"
    r"\U0001f191-\U0001f19a\U0001f1ad-\U0001f1e5\U0001f201-\U0001f20f\U0001f21a\U0001f22f"
    r"\U0001f232-\U0001f23a\U0001f23c-\U0001f23f\U0001f249-\U0001f3fa\U0001f400-\U0001f53d"
    r"\U0001f546-\U0001f64f\U0001f680-\U0001f6ff\U0001f774-\U0001f77f\U0001f7d5-\U0001f7ff"
    r"\U0001f80c-\U0001f80f\U0001f848-\U0001f84f\U0001f85a-\U0001f85f\U0001f888-\U0001f88f"
    r"\U0001f8ae-\U0001f8ff\U0001f90c-\U0001f93a\U0001f93c-\U0001f945\U0001f947-\U0001faff"
    r"\U0001fc00-\U0001fffd"
)
"""Extended_Pictographic (emoji-data.txt)."""

_JOINING: Final = (
    r"\u0620-\u06ff\u0700-\u074f\u0750-\u077f\u07c0-\u07ff\u0840-\u08ff\u0900-\u0dff\u1000-\u109f"
    r"\u1780-\u17ff\u1b00-\u1bff\ua840-\ua87f\ua8e0-\ua8ff\ua980-\ua9ff\uaa60-\uaa7f\uabc0-\uabff"
    r"\ufb50-\ufdff\ufe70-\ufefc\U00011000-\U000114ff\U0001e900-\U0001e95f"
)
"""Blocks of the scripts in which ZWJ and ZWNJ choose a letter's form."""

_CONSONANT: Final = (
    r"\u0915-\u0939\u0958-\u095f\u0978-\u097f\u0995-\u09a8\u09aa-\u09b0\u09b2\u09b6-\u09b9"
    r"\u09dc\u09dd\u09df\u09f0\u09f1\u0a95-\u0aa8\u0aaa-\u0ab0\u0ab2\u0ab3\u0ab5-\u0ab9\u0af9"
    r"\u0b15-\u0b28\u0b2a-\u0b30\u0b32\u0b33\u0b35-\u0b39\u0b5c\u0b5d\u0b5f\u0b71"
    r"\u0c15-\u0c28\u0c2a-\u0c39\u0c58-\u0c5a\u0d15-\u0d3a"
)
_VIRAMA: Final = r"\u094d\u09cd\u0acd\u0b4d\u0c4d\u0d4d"
_NUKTA: Final = r"\u093c\u09bc\u0abc\u0b3c\u0c3c"
"""Indic_Conjunct_Break Consonant and Linker: what rule GB9c of UAX 29 keeps together."""

_PREPEND: Final = (
    r"\u0600-\u0605\u06dd\u070f\u0890\u0891\u08e2\u0d4e\U000110bd\U000110cd\U000111c2\U000111c3"
)
_IDEOGRAPH: Final = r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003fffd"
_VARIANT_BASE: Final = (
    r"\u2200-\u22ff\u2a00-\u2aff\u1000-\u109f\ua840-\ua87f\u3001\u3002\uff01-\uff1f"
)
_MONGOLIAN: Final = r"\u1820-\u1842\u1843-\u1878\u1880-\u18aa"
_MARK_BLOCKS: Final = (
    range(0x300, 0x2000),
    range(0x20D0, 0x2100),
    range(0x2CE0, 0x2E00),
    range(0x3000, 0x3100),
    range(0xA600, 0xAC00),
    range(0xFB00, 0xFE30),
    range(0x101F0, 0x12000),
    range(0x16A00, 0x17000),
    range(0x1BC00, 0x1BD00),
    range(0x1CF00, 0x1CF50),
    range(0x1D100, 0x1D300),
    range(0x1DA00, 0x1DB00),
    range(0x1E000, 0x1E960),
)
"""Ranges with all of Unicode's combining marks, so that other characters need no lookup."""


def _classes(points: Iterable[int]) -> str:
    """Ascending code points as the inside of a regular expression's character class."""
    spans: list[list[int]] = []
    for point in points:
        if spans and spans[-1][1] == point - 1:
            spans[-1][1] = point
        else:
            spans.append([point, point])
    return "".join(rf"\U{first:08x}-\U{last:08x}" for first, last in spans)


@cache
def _marks() -> str:
    """Characters that attach to the one before: combining marks, skin tones, Thai and Lao am."""
    category = unicodedata.category
    points = (p for block in _MARK_BLOCKS for p in block if category(chr(p))[0] == "M")
    kept = (p for p in points if not _HAZARD.match(chr(p)))
    return _classes(kept) + r"\u0e33\u0eb3\uff9e\uff9f\U0001f3fb-\U0001f3ff"


@cache
def _grammar() -> re.Pattern[str]:
    """Extended grapheme clusters (UAX 29, revision 43), but an invisible character that nothing
    calls for stands alone, so that it can be shown. Possessive all through: linear in hostile text.
    """
    marks = f"[{_marks()}]"
    emoji = rf"[{_PICTOGRAPH}][\ufe0e\ufe0f]?+{marks}*+"
    syllable = _classes(range(0xAC00, 0xD7A4, 28))
    cores = (
        r"[\U0001f1e6-\U0001f1ff]{2}",
        rf"{emoji}(?:\u200d{emoji})*+",
        r"[0-9#*][\ufe0e\ufe0f]",
        rf"[{_CONSONANT}](?:[{_NUKTA}]*+[{_VIRAMA}][{_NUKTA}{_VIRAMA}\u200d]*+[{_CONSONANT}])*+",
        rf"[{_MONGOLIAN}][\u180b-\u180f]?+",
        rf"[\u1100-\u115e\ua960-\ua97c]*+(?:[{syllable}][\u1161-\u11a7\ud7b0-\ud7c6]*+"
        r"|[\uac00-\ud7a3]|[\u1161-\u11a7\ud7b0-\ud7c6]++)[\u11a8-\u11ff\ud7cb-\ud7fb]*+",
        r"[\u1100-\u115e\ua960-\ua97c]++|[\u11a8-\u11ff\ud7cb-\ud7fb]++",
        rf"[{_IDEOGRAPH}][\ufe00-\ufe0f\U000e0100-\U000e01ef]?+",
        rf"[{_VARIANT_BASE}][\ufe00\ufe01]",
        rf"[^{_CONTROL}{_INVISIBLE}{_SURROGATE}]",
    )
    joined = rf"(?<=[{_JOINING}])[\u200c\u200d]"
    core = rf"(?:{'|'.join(cores)}){marks}*+(?:{joined}{marks}++)*+(?:{joined})?+"
    return re.compile(rf"\r\n|[{_PREPEND}]*+{core}|[{_PREPEND}]++|.", re.DOTALL)


def graphemes(text: str) -> list[str]:
    """What a reader takes for single characters; joined they are the text, none is empty.

    Combining marks, Hangul syllables, Indic conjuncts, flags, keycaps, skin tones and emoji joined
    by ZWJ stay whole. A tag, bidi control or other invisible character that no script or emoji
    calls for is a cluster of its own.
    """
    if text.isascii() and "\r" not in text:
        return list(text)
    return _grammar().findall(text)


def _escape(character: str) -> str:
    point = ord(character)
    if character in "\n\t":
        return character
    if point < 0x20:
        return chr(0x2400 + point)
    if point == 0x7F:
        return "\u2421"
    return REPLACEMENT if 0xD800 <= point <= 0xDFFF else f"<U+{point:04X}>"


def _shown(cluster: str) -> str:
    if cluster == "\r\n":
        return _escape("\r") + "\n"
    if len(cluster) == 1:
        return _escape(cluster) if _SUSPECT.match(cluster) else cluster
    over = len(cluster) - CLUSTER_CUT
    return cluster if over <= 0 else f"{cluster[:CLUSTER_CUT]}<+{over}>"


def _plain(text: str) -> bool:
    """Whether the text can be shown as it is, without looking at its clusters."""
    if text.isascii() and text.isprintable():
        return True
    return not _SUSPECT.search(text) and (len(text) <= CLUSTER_CUT or not _CROWD.search(text))


def visible(text: str) -> str:
    """The text as it may be written to a terminal.

    C0 and DEL become Control Pictures, lone surrogates U+FFFD, and C1, bidi controls, separators
    and invisible characters `<U+202E>`; of a cluster of more than `CLUSTER_CUT` code points the
    rest is told as `<+9>`.
    """
    return text if _plain(text) else "".join(map(_shown, graphemes(text)))


class VisibleStream:
    """`visible` for a text in pieces: a cluster's code points are counted across them."""

    def __init__(self) -> None:
        self._last = ""
        """The last cluster so far."""
        self._over = 0
        """Code points of it that were omitted and not reported yet."""

    def feed(self, text: str) -> str:
        """The visible form of the next piece."""
        if not text:
            return ""
        seen = len(self._last)
        first, *others = graphemes(self._last + text)
        room = max(0, CLUSTER_CUT - seen)
        more = first[seen:]
        if not seen:
            shown = _shown(first[:CLUSTER_CUT])
        elif first == "\r\n" and more:
            shown = "\n"
        else:
            shown = more[:room]
        self._over += max(0, len(more) - room)
        self._last = first[: CLUSTER_CUT + 1]
        if others:
            shown += self.flush() + "".join(map(_shown, others[:-1]))
            shown += _shown(others[-1][:CLUSTER_CUT])
            self._last = others[-1][: CLUSTER_CUT + 1]
            self._over = max(0, len(others[-1]) - CLUSTER_CUT)
        return shown

    def flush(self) -> str:
        """The count of code points omitted from the last cluster, "" if there are none."""
        over, self._last, self._over = self._over, "", 0
        return f"<+{over}>" if over else ""


def strip_controls(text: str) -> tuple[str, int]:
    """The text without what `visible` would escape, for the clipboard, and how many code points
    were taken out. Long clusters stay whole.
    """
    if not _SUSPECT.search(text):
        return text, 0
    clusters = (c.replace("\r", "") for c in graphemes(text))
    kept = "".join(c for c in clusters if len(c) != 1 or not _SUSPECT.match(c))
    return kept, len(text) - len(kept)
