"""Contrast of colours, and interpolation between colours.

Law: WCAG 2.2 arithmetic, nothing of our own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from textual.color import Color

READABLE: Final = 4.5
"""The least contrast of text on its background (WCAG 2.2, success criterion 1.4.3, level AA)."""


def spread(stops: Sequence[Color], levels: int) -> list[Color]:
    """`levels` colours evenly along a ramp of stops; the ends are the first and the last stop."""
    if levels == 1:
        return [stops[0]]
    colours = []
    for level in range(levels):
        place = level * (len(stops) - 1) / (levels - 1)
        left = min(int(place), len(stops) - 2)
        colours.append(stops[left].blend(stops[left + 1], place - left))
    return colours


def luminance(colour: Color) -> float:
    """Relative luminance 0..1 (WCAG 2.2)."""

    def linear(value: int) -> float:
        share = value / 255
        return share / 12.92 if share <= 0.04045 else float(((share + 0.055) / 1.055) ** 2.4)

    return 0.2126 * linear(colour.r) + 0.7152 * linear(colour.g) + 0.0722 * linear(colour.b)


def contrast(one: Color, other: Color) -> float:
    """Contrast ratio 1..21 of two opaque colours (WCAG 2.2)."""
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def readable_on(back: Color, own: Color) -> Color:
    """`own` if it is readable on `back`, else black or white, whichever is."""
    if contrast(own, back) >= READABLE:
        return own
    return max((Color(0, 0, 0), Color(255, 255, 255)), key=lambda ink: contrast(ink, back))
