"""The endless training stream as arithmetic: position -> sample, without replaying what came before.

A source of N samples is read pass after pass. In each pass its shards are permuted, and samples are permuted within
windows of whole shards, so that each sample comes once a pass and files are read near in time. A pass depends only on
(seed, pass); a place in it is looked up, so a run resumes anywhere at once and batches do not depend on the number of
readers.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache

import numpy as np


class PassOrder:
    """The stream over one source.

    Args:
        counts: Samples in each shard; their sum N must be at least 1.
        seed: Two seeds give two orders.
        window: Samples are permuted within runs of whole shards of at least this many samples (the last run may be
            smaller). Memory grows with the window and the number of shards, not with N.
        salt: Distinguishes the sources of a mixture.
    """

    def __init__(self, counts: Sequence[int], seed: int, window: int, salt: int = 0) -> None:
        self.counts = np.asarray(counts, np.int64)
        self.total = int(self.counts.sum())
        assert self.total >= 1 and window >= 1
        self._seed, self._window, self._salt = seed, window, salt
        # at the border of two passes or windows both are in use
        self._pass = lru_cache(maxsize=2)(self._draw_pass)
        self._permutation = lru_cache(maxsize=2)(self._draw_permutation)

    def __call__(self, position: int) -> tuple[int, int]:
        """(shard, sample within the shard) at a position >= 0 of the stream."""
        number, place = divmod(position, self.total)
        shards, starts, firsts = self._pass(number)
        window = bisect_right(firsts, int(np.searchsorted(starts, place, side="right")) - 1) - 1
        start = int(starts[firsts[window]])
        place = start + int(self._permutation(number, window)[place - start])
        shard = int(np.searchsorted(starts, place, side="right")) - 1
        return int(shards[shard]), place - int(starts[shard])

    def ahead(self, position: int) -> tuple[list[int], list[int]]:
        """The shards of the window at a position, which are read in any order, and those of the next window."""
        number, place = divmod(position, self.total)
        _, starts, firsts = self._pass(number)
        window = bisect_right(firsts, int(np.searchsorted(starts, place, side="right")) - 1) - 1
        last = window + 1 == len(firsts)
        return self._shards_of(number, window), self._shards_of(number + last, 0 if last else window + 1)

    def _shards_of(self, number: int, window: int) -> list[int]:
        shards, _, firsts = self._pass(number)
        return shards[firsts[window] : [*firsts, len(shards)][window + 1]].tolist()

    def _draw_pass(self, number: int) -> tuple[np.ndarray, np.ndarray, list[int]]:
        """Permuted shards, where each starts in the pass, and which shards open a window."""
        full = np.flatnonzero(self.counts)  # an empty shard has no place in the stream
        shards = full[self._random(number).permutation(len(full))]
        starts = np.concatenate(([0], np.cumsum(self.counts[shards])[:-1]))
        firsts = [0]
        for shard in range(1, len(shards)):
            if starts[shard] - starts[firsts[-1]] >= self._window:
                firsts.append(shard)
        return shards, starts, firsts

    def _draw_permutation(self, number: int, window: int) -> np.ndarray:
        _, starts, firsts = self._pass(number)
        end = int(starts[firsts[window + 1]]) if window + 1 < len(firsts) else self.total
        return self._random(number, window + 1).permutation(end - int(starts[firsts[window]]))

    def _random(self, number: int, window: int = 0) -> np.random.RandomState:
        # RandomState's streams are frozen by numpy's policy: a checkpoint resumes the same order on a later numpy
        parts = (self._seed & 0xFFFFFFFF, (self._seed >> 32) & 0xFFFFFFFF, self._salt, number & 0xFFFFFFFF, window)
        return np.random.RandomState(np.array(parts, np.uint32))


class Interleave:
    """A mixture of sources by exact quotas: position -> (source, position in that source's own stream).

    The shares are rounded to ten-thousandths by largest remainder, none to 0, and each block of ten thousand positions
    takes every source in that number, evenly spread. So every stretch of the stream has these shares. More sources than
    that have blocks of ten positions a source.

    Args:
        weights: One positive number a source; they are divided by their sum.
    """

    BLOCK = 10_000

    def __init__(self, weights: Sequence[float]) -> None:
        self.block = self.BLOCK if len(weights) <= self.BLOCK else 10 * len(weights)
        shares = np.asarray(weights, np.float64) / np.sum(weights) * self.block
        quotas = np.floor(shares).astype(np.int64)
        most_missing = np.argsort(quotas - shares, kind="stable")
        quotas[most_missing[: self.block - int(quotas.sum())]] += 1
        for source in np.flatnonzero(quotas == 0):
            quotas[quotas.argmax()] -= 1
            quotas[source] = 1
        self.quotas = quotas
        sources = np.repeat(np.arange(len(quotas)), quotas)
        ranks = np.concatenate([np.arange(quota) for quota in quotas])
        order = np.argsort((ranks + 0.5) / np.repeat(quotas, quotas), kind="stable")
        self._sources, self._ranks = sources[order], ranks[order]

    def __call__(self, position: int) -> tuple[int, int]:
        """(source, position in the source's own stream)."""
        block, place = divmod(position, self.block)
        source = int(self._sources[place])
        return source, block * int(self.quotas[source]) + int(self._ranks[place])

    def places(self, position: int) -> np.ndarray:
        """How far each source's own stream was read before this position."""
        block, place = divmod(position, self.block)
        return block * self.quotas + np.bincount(self._sources[:place], minlength=len(self.quotas))


def epoch_of(position: int, group: int, length: int) -> int:
    """The epoch that the batch of `group` samples starting at `position` belongs to: the one its last sample is in.

    An epoch is `length` samples of the stream; a tail smaller than one batch is thereby carried into the next.
    """
    return (position + group - 1) // length


def batches_left(position: int, group: int, length: int) -> int:
    """How many batches of `group` samples the epoch of the batch at `position` still has, that one included."""
    return ((epoch_of(position, group, length) + 1) * length - position) // group
