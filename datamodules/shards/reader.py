"""Tar shards read by index: headers once, for where every member lies, then each member with one pread.

Any reader can read any sample by its number: there may be fewer shards than readers, and resuming re-reads nothing.
"""

from __future__ import annotations

import os
import re
from collections import OrderedDict
from collections.abc import Iterator, Set
from dataclasses import asdict, dataclass, field
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from webdataset.tariterators import base_plus_ext

from datamodules.shards.headers import LINK, TRUNCATED, packed_by, tar_members
from datamodules.shards.index_cache import IndexCache
from datamodules.shards.samples import IMAGES, SUFFIXES, BrokenSample, further_name

# what file managers leave beside files
COMPANION = re.compile(r"(^|/)(__MACOSX/|(\.[^/]*|Thumbs\.db|desktop\.ini)$)", re.IGNORECASE)
APART = "files of one key lie apart; tar --sort=name"
DOTTED = "file names with further dots, a key ends at the first; rename them"


@dataclass(slots=True)
class ShardIndex:
    """The samples of one tar: for sample i its key and, for each suffix, offset and size of the bytes."""

    keys: list[str] = field(default_factory=list)
    members: list[tuple[tuple[str, int, int], ...]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)  # causes, once for each damage or loss that the headers show

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def truncated(self) -> bool:
        """Whether the file ends inside a member or without the tar's end mark."""
        return TRUNCATED in self.faults


def index_shard(path: str | Path) -> ShardIndex:
    """Reads the headers of a tar, never its payload, and groups the files into samples by webdataset's keys.

    What file managers leave beside files is passed over. What is lost does not raise but is listed in `faults`: damage
    and a truncated end, two files of one name, symbolic links, files of one sample that others stand between, names
    that make many samples one. Raises BrokenSample for a file that is missing or no tar.
    """
    index = ShardIndex()
    linked: set[str] = set()
    halves: dict[str, set[str]] = {}  # suffixes of samples without an image, or with nothing else
    try:
        with open(path, "rb") as file:
            for key, group in groupby(_files(file.fileno(), index.faults, linked), itemgetter(0)):
                files: dict[str, tuple[int, int]] = {}
                for _, suffix, offset, size in group:
                    if suffix in files:
                        index.faults.append("two files of one name")
                    else:
                        files[suffix] = offset, size
                index.keys.append(key)
                index.members.append(tuple((suffix, *place) for suffix, place in files.items()))
                index.faults += _misnamed(key, files.keys(), halves)
            packed = None if index.keys else packed_by(file.fileno())
    except OSError as error:
        raise BrokenSample("missing shard" if isinstance(error, FileNotFoundError) else "unreadable shard") from None
    if not index.keys and index.faults:
        raise BrokenSample(f"{packed} file; unpack it" if packed else "unreadable shard")
    index.faults += [f"{len(linked)} links, not files; tar with -h"] * len(linked)
    return index


def _files(descriptor: int, faults: list[str], linked: set[str]) -> Iterator[tuple[str, str, int, int]]:
    """Key, suffix, offset and size of each file that has a key; keys of symbolic links are added to `linked`."""
    for name, offset, size in tar_members(descriptor, faults):
        key, suffix = base_plus_ext(name)
        if key is None or COMPANION.search(name):
            continue
        if size == LINK:
            linked.add(key)
        else:
            yield key, suffix.lower(), offset, size


def _misnamed(key: str, suffixes: Set[str], halves: dict[str, set[str]]) -> list[str]:
    """The faults of names that a sample without an image, or with nothing else, shows."""
    if suffixes & IMAGES and suffixes - IMAGES:
        return []
    apart = suffixes.isdisjoint(halves.get(key, suffixes))
    halves[key] = halves.get(key, set()) | suffixes
    named = not suffixes.isdisjoint(SUFFIXES)  # the files of my.cat.jpg are none of a sample "my"
    inner = [suffix for suffix in suffixes if "." in suffix and suffix.rpartition(".")[2] in IMAGES]
    wrong = sum(not (named and further_name(suffix)) for suffix in inner)
    return [APART] * apart + [DOTTED] * (0 if suffixes & IMAGES else wrong)


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

    def read(
        self, path: str, sample: int, suffixes: frozenset[str] | None = None, names: frozenset[str] = frozenset()
    ) -> tuple[str, dict[str, bytes]]:
        """Key and files of a sample: all of them, or those with the given suffixes and the further ones of these names
        (of "photo" all of photo.jpg, photo1.jpg and photo.npy).

        Raises BrokenSample when the sample is not there (any more) or its bytes end early.
        """
        index = self.index(path)
        if sample >= len(index):
            raise BrokenSample("missing from the shard")
        members = {}
        for suffix, offset, size in index.members[sample]:
            if suffixes is None or suffix in suffixes or (names and further_name(suffix) in names):
                members[suffix] = self._bytes(path, offset, size)
        return index.keys[sample], members

    def suffixes(self, path: str, sample: int) -> list[str]:
        """What follows the key in the names of a sample's files. The sample must be there."""
        return [suffix for suffix, *_ in self.index(path).members[sample]]

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
            descriptor, parts = self._files[path], []
            if offset + size > os.fstat(descriptor).st_size:
                raise BrokenSample(TRUNCATED)
            # the system reads at most 2 GiB at once
            while size > 0 and (part := os.pread(descriptor, size, offset)):
                parts.append(part)
                offset, size = offset + len(part), size - len(part)
        except FileNotFoundError:
            raise BrokenSample("missing shard") from None
        except OSError:
            raise BrokenSample("unreadable shard") from None
        return parts[0] if len(parts) == 1 else b"".join(parts)
