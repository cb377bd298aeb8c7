"""Tar shards: headers once, for where every member lies, then each sample with one read.

Where they lie is kept in arrays, some 70 bytes for a sample of two files: as Python objects a million samples would
take hundreds of megabytes in every reading process.
"""

from __future__ import annotations

import os
import re
from array import array
from collections.abc import Callable, Iterator, Sequence, Set
from itertools import groupby
from operator import itemgetter

import numpy as np
from webdataset.tariterators import base_plus_ext

from datamodules.shards.headers import LINK, TRUNCATED, packed_by, tar_members
from datamodules.shards.index_cache import Content, IndexCache
from datamodules.shards.near import NEAR, NearReads
from datamodules.shards.samples import IMAGES, SUFFIXES, TEXT_FILES, BrokenSample, further_name

# what file managers leave beside files
COMPANION = re.compile(r"(^|/)(__MACOSX/|(\.[^/]*|Thumbs\.db|desktop\.ini)$)", re.IGNORECASE)
APART = "files of one key lie apart; tar --sort=name"
LARGEST = 1 << 62  # bytes of a file; a damaged header may claim more
DOTTED = "file names with further dots, a key ends at the first; rename them"


class TarIndex:
    """Where the samples of one tar lie: N samples of M files in all.

    Attributes:
        content: As it is kept. Its arrays are "key_bytes", uint8, the keys one behind the other; "key_ends", int64 [N],
            where each ends; "member_ends", int64 [N], how many files a sample and those before it have; "set_of",
            int32 [N], the number of its set; "offsets" and "sizes", int64 [M], of the files' bytes.
        sets: What follows the key in the names of a sample's files, in order, for each set of files that occurs.
        faults: Causes, once for each damage or loss that the headers show.
    """

    def __init__(self, content: Content) -> None:
        self.content, self.sets, self.faults = content, content.facts["sets"], content.facts["faults"]
        names = ("key_bytes", "key_ends", "member_ends", "set_of", "offsets", "sizes")
        self._bytes, self._key_ends, self._ends, self._set_of, self._offsets, self._sizes = map(
            content.arrays.__getitem__, names
        )

    def __len__(self) -> int:
        return len(self._key_ends)

    @property
    def keys(self) -> list[str]:
        return list(map(self.key, range(len(self))))

    @property
    def truncated(self) -> bool:
        """Whether the file ends inside a member or without the tar's end mark."""
        return TRUNCATED in self.faults

    def key(self, sample: int) -> str:
        return self._bytes[_span(self._key_ends, sample)].tobytes().decode()

    def members(self, sample: int) -> list[tuple[str, int, int]]:
        """Suffix, offset and size of each file of a sample."""
        files = _span(self._ends, sample)
        return list(zip(self.suffixes(sample), self._offsets[files].tolist(), self._sizes[files].tolist(), strict=True))

    def suffixes(self, sample: int) -> list[str]:
        return self.sets[self._set_of[sample]]


class TarShard:
    """A tar, opened when its first sample is read. See `reader.Shard` for what its methods do."""

    described = ""

    def __init__(self, path: str, cache: IndexCache | None = None) -> None:
        self._path, self._descriptor = path, -1
        if cache is None:
            self.index = index_shard(path)
        else:
            self.index = TarIndex(cache.found(path, "index", lambda: index_shard(path).content))
        self.truncated = self.index.truncated
        self.faults: Sequence[str] = self.index.faults

    def __len__(self) -> int:
        return len(self.index)

    def key(self, sample: int) -> str:
        return self.index.key(sample)

    def suffixes(self, sample: int) -> list[str]:
        return self.index.suffixes(sample)

    def read(self, sample: int, wanted: Callable[[str], bool]) -> dict[str, bytes]:
        return self._members(sample, wanted, self._bytes)

    def texts(self, samples: Sequence[int]) -> Iterator[dict[str, bytes] | BrokenSample]:
        reads: NearReads | None = None
        for sample in samples:
            try:
                reads = reads or NearReads(self._opened())
                yield self._members(sample, TEXT_FILES.__contains__, reads)
            except BrokenSample as error:
                yield error
            except OSError:
                yield BrokenSample("unreadable shard")

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _members(
        self, sample: int, wanted: Callable[[str], bool], read: Callable[[int, int], bytes]
    ) -> dict[str, bytes]:
        """The wanted files of a sample; those that lie together are read at once."""
        members = [member for member in self.index.members(sample) if wanted(member[0])]
        files: dict[str, bytes] = {}
        for run in _runs(members):
            start = run[0][1]
            content = read(start, run[-1][1] + run[-1][2] - start)
            for suffix, offset, size in run:
                files[suffix] = content if len(run) == 1 else content[offset - start : offset - start + size]
                if len(files[suffix]) < size:
                    raise BrokenSample(TRUNCATED)
        return files

    def _opened(self) -> int:
        try:
            if self._descriptor < 0:
                self._descriptor = os.open(self._path, os.O_RDONLY)
        except OSError as error:
            gone = isinstance(error, FileNotFoundError)
            raise BrokenSample("missing shard" if gone else "unreadable shard") from None
        return self._descriptor

    def _bytes(self, offset: int, size: int) -> bytes:
        # pread leaves no position behind, so forked readers may share what was opened before the fork
        descriptor, parts = self._opened(), []
        try:
            if offset + size > os.fstat(descriptor).st_size:
                raise BrokenSample(TRUNCATED)
            # the system reads at most 2 GiB at once
            while size > 0 and (part := os.pread(descriptor, size, offset)):
                parts.append(part)
                offset, size = offset + len(part), size - len(part)
        except OSError:
            raise BrokenSample("unreadable shard") from None
        return parts[0] if len(parts) == 1 else b"".join(parts)


def _runs(members: Sequence[tuple[str, int, int]]) -> list[list[tuple[str, int, int]]]:
    """Members in runs that lie close together, in order; a hard link may lie anywhere."""
    runs: list[list[tuple[str, int, int]]] = []
    for member in members:
        between = member[1] - runs[-1][-1][1] - runs[-1][-1][2] if runs else -1
        if 0 <= between <= NEAR:
            runs[-1].append(member)
        else:
            runs.append([member])
    return runs


def _span(ends: np.ndarray, number: int) -> slice:
    return slice(int(ends[number - 1]) if number else 0, int(ends[number]))


def index_shard(path: str | os.PathLike[str]) -> TarIndex:
    """Reads the headers of a tar, never its payload, and groups the files into samples by webdataset's keys.

    What file managers leave beside files is passed over. What is lost does not raise but is listed in `faults`: damage
    and a truncated end, two files of one name, symbolic links, files of one sample that others stand between, names
    that make many samples one. Raises BrokenSample for a file that is missing or no tar.
    """
    faults: list[str] = []
    linked: set[str] = set()
    keys, key_ends, member_ends, offsets, sizes = bytearray(), array("q"), array("q"), array("q"), array("q")
    set_of, sets = array("i"), dict[tuple[str, ...], int]()
    halves = Halves()
    try:
        with open(path, "rb") as file:
            for key, group in groupby(_files(file.fileno(), faults, linked), itemgetter(0)):
                found: dict[str, None] = {}
                for _, suffix, offset, size in group:
                    if suffix in found:
                        faults.append("two files of one name")
                        continue
                    found[suffix] = None
                    offsets.append(offset)
                    sizes.append(min(size, LARGEST))
                keys += key.encode()
                key_ends.append(len(keys))
                member_ends.append(len(sizes))
                set_of.append(sets.setdefault(tuple(found), len(sets)))
                faults += halves.faults_of(key, found.keys())
            packed = None if keys else packed_by(file.fileno())
    except OSError as error:
        raise BrokenSample("missing shard" if isinstance(error, FileNotFoundError) else "unreadable shard") from None
    if not keys and faults:
        raise BrokenSample(f"{packed} file; unpack it" if packed else "unreadable shard")
    faults += [f"{len(linked)} links, not files; tar with -h"] * len(linked)
    numbers = {"key_ends": key_ends, "member_ends": member_ends, "set_of": set_of, "offsets": offsets, "sizes": sizes}
    arrays = {"key_bytes": np.frombuffer(keys, np.uint8)} | {name: np.asarray(each) for name, each in numbers.items()}
    return TarIndex(Content(arrays, {"sets": list(map(list, sets)), "faults": faults}))


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


class Halves:
    """The samples of a tar so far that lack an image, or have nothing else: names may have torn them apart."""

    def __init__(self) -> None:
        self._suffixes: dict[int, frozenset[str]] = {}  # by hash of the key, which takes less room
        self._sets: dict[frozenset[str], frozenset[str]] = {}

    def faults_of(self, key: str, suffixes: Set[str]) -> list[str]:
        """What the names of a sample's files show."""
        if suffixes & IMAGES and suffixes - IMAGES:
            return []
        number = hash(key)
        earlier = self._suffixes.get(number)
        together = frozenset(suffixes if earlier is None else earlier | suffixes)
        self._suffixes[number] = self._sets.setdefault(together, together)
        apart = earlier is not None and earlier.isdisjoint(suffixes)
        named = not suffixes.isdisjoint(SUFFIXES)  # the files of my.cat.jpg are none of a sample "my"
        inner = [suffix for suffix in suffixes if "." in suffix and suffix.rpartition(".")[2] in IMAGES]
        wrong = sum(not (named and further_name(suffix)) for suffix in inner)
        return [APART] * apart + [DOTTED] * (0 if suffixes & IMAGES else wrong)
