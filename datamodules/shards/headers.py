"""The headers of a tar, one by one, so that damage costs the files it hits and no others.

The standard library's reader believes the sizes that headers claim: with a negative one it never ends, with an absurd
one it loses all that it read before.
"""

from __future__ import annotations

import os
import re
import tarfile
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from datamodules.shards.near import NearReads

BLOCK = tarfile.BLOCKSIZE
CHUNK = 1 << 20
MAGIC, MAGIC_AT = b"ustar", 257  # in a header
LARGE_RECORDS = [BLOCK << power for power in range(5, 12)]  # 16 KiB to 1 MiB, by tar's option -b
LONGEST_EXTENSION = 1 << 20  # bytes of names and comments before a file's own header
RECORD = re.compile(rb"(\d{1,7}) ([^=]+)=")  # how one of a pax header begins
LINK = -1
DAMAGED = "damaged bytes in the shard"
TRUNCATED = "truncated shard"
# the header of a plain file with a short name of ASCII: name, size, checksum; all else goes through tarfile
PLAIN = re.compile(rb"(?s)(?=([\x20-\x7e]{1,99})\0).{124}([0-7]{11})[\0 ].{12}([0-7]{6})[\0 ]{2}0.{100}ustar.{83}\0")
ADLER = 65_521  # the lower half of an Adler-32 is 1 and the sum of the bytes, modulo this
PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "zip"}


class Member(NamedTuple):
    """A file of a tar and where its bytes lie; `size` is LINK for a symbolic link, which has none."""

    name: str
    offset: int
    size: int


def tar_members(
    descriptor: int, faults: list[str], places: dict[str, tuple[int, int]] | None = None
) -> Iterator[Member]:
    """The files of a tar in order; a hard link lies where the earlier file of its name does.

    Names that are not UTF-8 have backslashes for the other bytes. What is wrong is added to `faults`, once for each
    damage: foreign bytes between members are passed over, a file whose end is not there comes last. Several tars, one
    behind the other, are read as one. `places` gets those of the files by name. Raises OSError.
    """
    size, read = os.fstat(descriptor).st_size, NearReads(descriptor)
    extended: dict[str, str] = {}
    name, at, start = "", 0, 0  # of the last file, of the next header, of the tar that it is in
    while True:
        block = read(at, BLOCK)
        if not extended and places is None and (plain := PLAIN.match(block)) and _adds_up(block, int(plain[3], 8)):
            length = int(plain[2], 8)
            if at + BLOCK + length <= size:
                name = plain[1].decode()
                yield Member(name, at + BLOCK, length)
                at += BLOCK + -(-length // BLOCK) * BLOCK
                continue
        header = _parsed(block)
        if header is None:
            following = _next_header(descriptor, at)
            if following is None:
                faults += _faults_at_end(descriptor, start, at, size)
                return
            if _is_end_mark(descriptor, start, at, following) and not _counts_on(descriptor, name, at, following):
                start = following
            else:
                faults.append(DAMAGED)
            at, extended = following, {}
            continue
        offset, length = at + BLOCK, _length(header, extended)
        if header.type == tarfile.GNUTYPE_SPARSE:
            offset = _behind_the_map(descriptor, at)
        if offset + length > size and (following := _next_header(descriptor, offset)) is not None:
            faults.append(DAMAGED)
            at, extended = following, {}
            continue
        if header.type in EXTENSIONS:
            content = os.pread(descriptor, min(length, LONGEST_EXTENSION), offset)
            extended |= EXTENSIONS[header.type](content)
        else:
            name = extended.get("GNU.sparse.name") or extended.get("path") or header.name
            if header.isreg():
                if places is not None:
                    places[name] = offset, length
                yield Member(name, offset, length)
            elif header.issym():
                yield Member(name, offset, LINK)
            elif header.islnk():
                if places is None:  # a million names are kept only where one is asked for
                    places = {}
                    any(member.offset > at for member in tar_members(descriptor, [], places))
                if place := places.get(extended.get("linkpath") or header.linkname):
                    yield Member(name, *place)
            extended = {}
        if offset + length > size:
            faults.append(TRUNCATED)
            return
        at = offset + -(-length // BLOCK) * BLOCK


def packed_by(descriptor: int) -> str | None:
    """The program that a file is compressed with."""
    first = os.pread(descriptor, 8, 0)
    return next((name for magic, name in PACKED.items() if first.startswith(magic)), None)


def _header(descriptor: int, at: int) -> tarfile.TarInfo | None:
    return _parsed(os.pread(descriptor, BLOCK, at))


def _adds_up(block: bytes, checksum: int) -> bool:
    """Whether a header has its checksum: the sum of its bytes, with spaces in the checksum's own place."""
    total = (zlib.adler32(block) & 0xFFFF) - 1 - sum(block[148:156]) + 8 * ord(" ")
    return (total - checksum) % ADLER == 0


def _parsed(block: bytes) -> tarfile.TarInfo | None:
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "backslashreplace")
    except (tarfile.HeaderError, ValueError):
        return None
    return header if header.size >= 0 else None


def _length(header: tarfile.TarInfo, extended: dict[str, str]) -> int:
    """Bytes behind the header."""
    if header.type in EXTENSIONS or header.type not in tarfile.SUPPORTED_TYPES:
        return header.size
    if not header.isreg():
        return 0
    own = extended.get("size", "")
    return int(own) if re.fullmatch("[0-9]{1,30}", own) else header.size


def _behind_the_map(descriptor: int, at: int) -> int:
    """Where the bytes of an old GNU sparse file begin: its map goes on in blocks that say whether another follows."""
    more = os.pread(descriptor, 1, at + 482)
    while more and more != b"\0":
        at += BLOCK
        more = os.pread(descriptor, 1, at + 504)
    return at + BLOCK


def _pax(content: bytes) -> dict[str, str]:
    """The records of a pax header, each "LENGTH NAME=VALUE" and a line's end."""
    records, at = {}, 0
    while match := RECORD.match(content, at):
        end = at + int(match[1])
        if end <= match.end():
            break
        records[_text(match[2])] = _text(content[match.end() : end - 1])
        at = end
    return records


def _text(content: bytes) -> str:
    return content.decode("utf-8", "backslashreplace")


def _line(content: bytes) -> str:
    return _text(content.split(b"\0", 1)[0])


# typeflag -> what a header says of the file behind it; a global one says nothing that is needed
EXTENSIONS = {
    tarfile.XHDTYPE: _pax,
    tarfile.SOLARIS_XHDTYPE: _pax,
    tarfile.XGLTYPE: lambda content: {},
    tarfile.GNUTYPE_LONGNAME: lambda content: {"path": _line(content)},
    tarfile.GNUTYPE_LONGLINK: lambda content: {"linkpath": _line(content)},
}


def _next_header(descriptor: int, at: int) -> int | None:
    """The first place from `at` on where a header lies, at any byte, since bytes may be missing."""
    while chunk := os.pread(descriptor, CHUNK, at):
        mark = chunk.find(MAGIC, MAGIC_AT)
        while mark >= 0:
            if _header(descriptor, at + mark - MAGIC_AT):
                return at + mark - MAGIC_AT
            mark = chunk.find(MAGIC, mark + 1)
        if len(chunk) <= BLOCK:
            return None
        at += len(chunk) - BLOCK  # a header may begin in one chunk and end in the next
    return None


def _is_end_mark(descriptor: int, start: int, at: int, following: int) -> bool:
    """Whether nothing but a tar's end lies between: two blocks of zeros, and more up to a whole record."""
    blocks = (following - at) / BLOCK
    padded = (following - start) % tarfile.RECORDSIZE == 0 and 2 <= blocks < 2 + tarfile.RECORDSIZE // BLOCK
    return (blocks == 2 or padded) and _zeros(descriptor, at, following)


def _counts_on(descriptor: int, name: str, at: int, following: int) -> bool:
    """Whether numbers are left out between two names, and so few that their files would have filled the space between.

    Else a wiped space would be taken for the end of a tar.
    """
    header = _header(descriptor, following)
    numbers = zip(*(re.findall(r"\d{1,18}", each) for each in (name, header.name if header else "")), strict=False)
    missing = next((int(second) - int(first) - 1 for first, second in numbers if first != second), 0)
    return 0 < missing <= (following - at) / (2 * BLOCK)


def _faults_at_end(descriptor: int, start: int, at: int, size: int) -> list[str]:
    rest = size - at
    if rest < BLOCK:
        return [TRUNCATED]
    # two blocks of zeros, and more up to a whole record, end a tar; more zeros than that were something else once
    records = (record for record in LARGE_RECORDS if (size - start) % record == 0)
    longest = max((tarfile.RECORDSIZE, *records)) + 2 * BLOCK if at else tarfile.RECORDSIZE
    return [] if rest <= longest and _zeros(descriptor, at, size) else [DAMAGED]


def _zeros(descriptor: int, at: int, end: int) -> bool:
    while at < end:
        chunk = os.pread(descriptor, min(CHUNK, end - at), at)
        if not chunk or chunk.count(0) != len(chunk):
            return False
        at += len(chunk)
    return True
