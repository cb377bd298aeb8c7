"""Tar shards read by index: headers once, for where every member lies, then each member with one pread.

Any reader can read any sample by its number: there may be fewer shards than readers, and resuming re-reads nothing.
"""

from __future__ import annotations

import os
import tarfile
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from webdataset.tariterators import group_by_keys

from datamodules.shards.index_cache import IndexCache
from datamodules.shards.samples import BrokenSample

BLOCK = tarfile.BLOCKSIZE


@dataclass(slots=True)
class ShardIndex:
    """The samples of one tar: for sample i its key and, for each suffix, offset and size of the bytes."""

    keys: list[str] = field(default_factory=list)
    members: list[tuple[tuple[str, int, int], ...]] = field(default_factory=list)
    truncated: bool = False  # the file ends inside a member or without the tar's end mark
    faults: list[str] = field(default_factory=list)  # causes, one for each damage the headers show

    def __len__(self) -> int:
        return len(self.keys)


def index_shard(path: str | Path) -> ShardIndex:
    """Reads the headers of a tar, never its payload, and groups the members into samples as webdataset does.

    Damage does not raise but is listed in `faults`: zero or foreign bytes between members (a plain reader would stop
    there, silently), a truncated end, two files of one name. Raises BrokenSample for a file that is missing or no tar.
    """
    index = ShardIndex()

    def count_fault(error: Exception) -> bool:
        index.faults.append("two files of one name")
        return True  # go on

    try:
        with open(path, "rb") as file:
            for sample in group_by_keys(_headers(file, index), handler=count_fault):
                index.keys.append(sample["__key__"])
                index.members.append(
                    tuple((suffix, *place) for suffix, place in sample.items() if not suffix.startswith("__"))
                )
    except OSError as error:
        raise BrokenSample("missing shard" if isinstance(error, FileNotFoundError) else "unreadable shard") from None
    except tarfile.TarError:
        raise BrokenSample("unreadable shard") from None
    if not index.keys and index.faults:
        raise BrokenSample("unreadable shard")
    return index


def _headers(file, index: ShardIndex) -> Iterator[dict]:
    """Each regular file of the tar as webdataset's grouping wants it, with (offset, size) for data."""
    size = os.fstat(file.fileno()).st_size
    expected = 0  # where the next header belongs
    # without ignore_zeros the first zero block inside the tar would end it, and the samples behind it would be lost
    with tarfile.open(fileobj=file, mode="r:", ignore_zeros=True) as tar:
        while True:
            try:
                member = tar.next()
            except tarfile.ReadError:
                if not expected and not index.truncated:
                    raise
                index.truncated = True
                break
            if member is None:
                break
            tar.members = []  # type: ignore[attr-defined]  # it keeps every header; memory must not grow
            if member.offset != expected:
                index.faults.append("damaged bytes in the shard")
            expected = member.offset_data + (-(-member.size // BLOCK) * BLOCK if member.isreg() else 0)
            if member.isreg():
                index.truncated |= member.offset_data + member.size > size
                yield {"fname": member.name, "data": (member.offset_data, member.size), "__url__": ""}
    rest = size - expected
    if rest < BLOCK:
        index.truncated = True
    elif not _zeros(file, expected, rest) or (not expected and size > tarfile.RECORDSIZE):
        # (a tar of nothing is one record of zeros; a longer file of zeros was something else once)
        index.faults.append("damaged bytes in the shard")
    if index.truncated:
        index.faults.append("truncated shard")


def _zeros(file, start: int, length: int) -> bool:
    file.seek(start)
    while length > 0:
        chunk = file.read(min(length, 1 << 20))
        if not chunk or chunk.count(0) != len(chunk):
            return False
        length -= len(chunk)
    return True


class ShardReader:
    """Reads samples by (path, number), keeping the latest indexes and open files.

    Args:
        samples: Indexes are kept up to this many samples in total (some 200 bytes each).
        files: At most this many files stay open.
        cache: Where indexes are kept between runs; default: nowhere.
    """

    def __init__(self, samples: int = 200_000, files: int = 64, cache: IndexCache | None = None) -> None:
        self._most_samples, self._most_files, self._cache = samples, files, cache
        self._indexes: OrderedDict[str, ShardIndex] = OrderedDict()
        self._samples_indexed = 0
        self._files: OrderedDict[str, int] = OrderedDict()

    def index(self, path: str) -> ShardIndex:
        """The shard's index. Raises BrokenSample when the file is missing or no tar."""
        if path in self._indexes:
            self._indexes.move_to_end(path)
            return self._indexes[path]
        index = self._indexes[path] = self._index(path)
        self._samples_indexed += len(index)
        while self._samples_indexed > self._most_samples and len(self._indexes) > 1:
            self._samples_indexed -= len(self._indexes.popitem(last=False)[1])
        return index

    def _index(self, path: str) -> ShardIndex:
        if self._cache is None:
            return index_shard(path)
        fields = self._cache.found(path, "index", lambda: asdict(index_shard(path)))
        return ShardIndex(**fields | {"members": [tuple(map(tuple, sample)) for sample in fields["members"]]})

    def read(self, path: str, sample: int, suffixes: frozenset[str] | None = None) -> tuple[str, dict[str, bytes]]:
        """Key and files of a sample, all of them or those with the given suffixes.

        Raises BrokenSample when the sample is not there (any more) or its bytes end early.
        """
        index = self.index(path)
        if sample >= len(index):
            raise BrokenSample("missing from the shard")
        members = {}
        for suffix, offset, size in index.members[sample]:
            if suffixes is None or suffix in suffixes:
                content = self._bytes(path, offset, size)
                if len(content) != size:
                    raise BrokenSample("truncated shard")
                members[suffix] = content
        return index.keys[sample], members

    def cut(self, path: str, sample: int) -> bool:
        """Whether this is the last sample of a truncated shard, so that what it lacks was cut off."""
        index = self._indexes.get(path)
        return index is not None and index.truncated and sample == len(index) - 1

    def key(self, path: str, sample: int) -> str:
        """The key for the account of skips; the number where the shard cannot say."""
        index = self._indexes.get(path)
        return index.keys[sample] if index is not None and sample < len(index) else f"#{sample}"

    def close(self) -> None:
        while self._files:
            os.close(self._files.popitem()[1])
        self._indexes.clear()
        self._samples_indexed = 0

    def _bytes(self, path: str, offset: int, size: int) -> bytes:
        # pread leaves no position behind, so forked readers may share what was opened before the fork
        try:
            if path in self._files:
                self._files.move_to_end(path)
            else:
                self._files[path] = os.open(path, os.O_RDONLY)
                if len(self._files) > self._most_files:
                    os.close(self._files.popitem(last=False)[1])
            return os.pread(self._files[path], size, offset)
        except FileNotFoundError:
            raise BrokenSample("missing shard") from None
        except OSError:
            raise BrokenSample("unreadable shard") from None
