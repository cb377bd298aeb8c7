"""How many captions of a frequent entry stay: MetaCLIP's balance (Xu et al. 2024, section 3.3), for each language by
its own threshold (Chuang et al. 2025, section 3.2).

Letters: E entries of a language, c their counts, t its threshold.
"""

from __future__ import annotations

import hashlib
from fractions import Fraction

import numpy as np


def tail_share(counts: np.ndarray, t: int) -> Fraction:
    """Share of the matches that entries with fewer than `t` have; `counts` are int64 [E], not all 0."""
    return Fraction(int(counts[counts < t].sum()), int(counts.sum()))


def threshold(counts: np.ndarray, share: Fraction, floor: int) -> int:
    """t: the count c of an entry such that entries with at most c have nearest to `share` of the matches, but at least
    `floor`. Of two that are as near the larger one.

    Args:
        counts: int64 [E], for each entry the captions that match it.
        share: Of the tail, 0 to 1.
        floor: The lowest t. Where counts are coarse, the nearest share alone can leave nothing in the tail.
    """
    occurring, times = np.unique(counts[counts > 0], return_counts=True)
    if not len(occurring):
        return floor
    matches = np.cumsum(occurring * times)
    # the nearest one is beside the place where the share would stand; exact, for two may be as near
    total = int(matches[-1])
    place = int(np.searchsorted(matches, float(share) * total))
    near = range(max(place - 2, 0), min(place + 3, len(matches)))
    best = min(near, key=lambda i: (abs(Fraction(int(matches[i]), total) - share), -i))
    return max(int(occurring[best]), floor)


def entry_probabilities(counts: np.ndarray, t: int) -> np.ndarray:
    """min(1, t / c) float64 [E]."""
    return np.minimum(1.0, t / np.maximum(counts, 1))


def caption_probabilities(of_entries: np.ndarray, matched: np.ndarray) -> np.ndarray:
    """1 - prod(1 - p) over the entries that each caption matches, float64 [captions]; 0 for one without.

    Args:
        of_entries: The p of the entries of all captions, one after the other.
        matched: int64 [captions], how many entries each has.
    """
    missed = np.ones(len(matched))
    starts = np.cumsum(matched) - matched
    having = np.flatnonzero(matched)
    if len(having):
        missed[having] = np.multiply.reduceat(1.0 - of_entries, starts[having])
    return 1.0 - missed


def number_of(*parts: object) -> float:
    """A number in [0, 1) that depends on these parts alone, whatever the machine."""
    content = "\0".join(map(str, parts)).encode(errors="surrogatepass")
    return (int.from_bytes(hashlib.blake2b(content, digest_size=8).digest()) >> 11) / 2**53
