"""Samples of shards by number, whatever kind of file they lie in.

Any reader can read any sample by its number: there may be fewer shards than readers, and resuming re-reads nothing.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, repeat
from typing import Protocol

from datamodules.shards.index_cache import IndexCache
from datamodules.shards.locations import Reading, is_table
from datamodules.shards.samples import BrokenSample, further_name
from datamodules.shards.tars import TarShard


class Shard(Protocol):
    """A file of samples.

    Attributes:
        faults: Causes, once for each damage or loss that is seen without reading samples.
        truncated: Whether its end was cut off.
        described: For a line: which of its columns is what; "" for a tar.
    """

    faults: Sequence[str]
    truncated: bool
    described: str

    def __len__(self) -> int: ...

    def key(self, sample: int) -> str:
        """What the sample is called in the account of skips, and in shards that are made of it."""

    def suffixes(self, sample: int) -> list[str]:
        """What follows the key in the names of the sample's files."""

    def read(self, sample: int, wanted: Callable[[str], bool]) -> dict[str, bytes]:
        """The wanted files of a sample by suffix. Raises BrokenSample."""

    def texts(self, samples: Sequence[int]) -> Iterator[dict[str, bytes] | BrokenSample]:
        """JSON and text of each of these samples, in rising order, or what is wrong with it."""

    def close(self) -> None:
        """Gives back what it has open; it is opened again when something is read."""


def open_shard(path: str, cache: IndexCache | None = None, copies: Reading | None = None) -> Shard:
    """The shard that `local_path` names. Raises BrokenSample when it is missing or no shard."""
    if is_table(path):
        from datamodules.shards.tables import TableShard

        return TableShard(path, copies)
    return TarShard(path, cache)


class ShardReader:
    """Reads samples by (path, number), keeping the latest indexes and open files.

    Args:
        samples: Indexes are kept up to this many samples in total (some 70 bytes each).
        files: At most this many files stay open.
        cache: Where indexes are kept between runs; default: nowhere.
        copies: Where row groups may be copied that are decoded again and again, for reading in any order; default:
            nowhere.
    """

    def __init__(
        self,
        samples: int = 200_000,
        files: int = 64,
        cache: IndexCache | None = None,
        copies: Reading | None = None,
    ) -> None:
        self._most_samples, self._most_files, self._cache, self._copies = samples, files, cache, copies
        self._shards: OrderedDict[str, Shard] = OrderedDict()
        self._samples_indexed = 0
        self._open: OrderedDict[str, Shard] = OrderedDict()

    def index(self, path: str) -> Shard:
        """The shard. Raises BrokenSample when the file is missing or no shard."""
        path = str(path)
        if path in self._shards:
            self._shards.move_to_end(path)
            return self._shards[path]
        shard = self._shards[path] = open_shard(path, self._cache, self._copies)
        self._samples_indexed += len(shard)
        while self._samples_indexed > self._most_samples and len(self._shards) > 1:
            oldest, other = self._shards.popitem(last=False)
            self._samples_indexed -= len(other)
            self._open.pop(oldest, other).close()
        return shard

    def read(
        self, path: str, sample: int, suffixes: frozenset[str] | None = None, names: frozenset[str] = frozenset()
    ) -> tuple[str, dict[str, bytes]]:
        """Key and files of a sample: all of them, or those with the given suffixes and the further ones of these names
        (of "photo" all of photo.jpg, photo1.jpg and photo.npy).

        Raises BrokenSample when the sample is not there (any more) or its bytes end early.
        """
        shard = self._opened(path)
        if sample >= len(shard):
            raise BrokenSample("missing from the shard")

        def wanted(suffix: str) -> bool:
            return suffixes is None or suffix in suffixes or (bool(names) and further_name(suffix) in names)

        return shard.key(sample), shard.read(sample, wanted)

    def texts(self, path: str, samples: Sequence[int] | None = None) -> Iterator[dict[str, bytes] | BrokenSample]:
        """JSON and text of all samples in order, or of these in rising order; what is wrong with one in its place.

        Raises BrokenSample when the file is missing or no shard.
        """
        shard = self._opened(path)
        samples = range(len(shard)) if samples is None else samples
        there = bisect_left(samples, len(shard))
        return chain(shard.texts(samples[:there]), repeat(BrokenSample("missing from the shard"), len(samples) - there))

    def suffixes(self, path: str, sample: int) -> list[str]:
        """What follows the key in the names of a sample's files. The sample must be there."""
        return self.index(path).suffixes(sample)

    def cut(self, path: str, sample: int) -> bool:
        """Whether this is the last sample of a truncated shard, so that what it lacks was cut off."""
        shard = self._shards.get(path)
        return shard is not None and shard.truncated and sample == len(shard) - 1

    def key(self, path: str, sample: int) -> str:
        """The key for the account of skips; the number where the shard cannot say."""
        shard = self._shards.get(path)
        return shard.key(sample) if shard is not None and sample < len(shard) else f"#{sample}"

    def close(self) -> None:
        for shard in self._shards.values():
            shard.close()
        self._open.clear()
        self._shards.clear()
        self._samples_indexed = 0

    def _opened(self, path: str) -> Shard:
        shard = self._open[str(path)] = self.index(path)
        self._open.move_to_end(str(path))
        if len(self._open) > self._most_files:
            self._open.popitem(last=False)[1].close()
        return shard
