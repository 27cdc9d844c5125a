"""The random number that decides a token: Philox4x32-10, a counter-based generator.

Law: the same (seed, branch, position) gives the same numbers, whatever ran before. Counter
(position lo, position hi, branch, which), key (seed lo, seed hi); a session records that name.
"""

from __future__ import annotations

from typing import Final

_WORD: Final = 0xFFFFFFFF


def philox(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Four 32-bit words for a counter and a key (Salmon et al., SC 2011)."""
    a, b, c, d = counter
    left, right = key
    for _ in range(10):
        first, second = a * 0xD2511F53, c * 0xCD9E8D57
        a, b, c, d = (
            (second >> 32) ^ b ^ left,
            second & _WORD,
            (first >> 32) ^ d ^ right,
            first & _WORD,
        )
        left, right = (left + 0x9E3779B9) & _WORD, (right + 0xBB67AE85) & _WORD
    return a, b, c, d


def uniform(seed: int, branch: int, position: int, which: int = 0) -> float:
    """The number in [0, 1), of 53 bits, that decides the token at `position` of the context;
    `which` 1 is another, independent one of that place.
    """
    counter = (position & _WORD, position >> 32 & _WORD, branch & _WORD, which)
    high, low, _, _ = philox(counter, (seed & _WORD, seed >> 32 & _WORD))
    return ((high << 32 | low) >> 11) * 2.0**-53
