"""Row groups of parquet files that are read again and again, in any order.

A row group is decoded whole, whichever row is wanted. A process keeps the last ones in memory; one that it has to
decode a second time is written into the cache folder as it is in memory, and mapped from there by all processes.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa

from datamodules.files import whole_file
from datamodules.shards.cache_room import has_room
from datamodules.shards.locations import Reading

ROOM = 256 << 20  # bytes of row groups that a process keeps
MAPPED = 1 << 16  # what one that is mapped counts as: it has no memory of this process, but a process maps only so many


class RowGroups:
    """The row groups that this process read last, up to so many bytes, or a single one."""

    def __init__(self, room: int) -> None:
        self._room, self._size = room, 0
        self._kept: OrderedDict[tuple, tuple[pa.Table, int, Path | None]] = OrderedDict()
        self._dropped: set[Path | None] = set()  # copies that are worth having
        self.renew_lock()

    def renew_lock(self) -> None:
        self._lock = threading.Lock()

    def get(self, key: tuple, read: Callable[[], pa.Table], file: str, reading: Reading | None) -> pa.Table:
        """The row group of a file.

        Args:
            key: Of the opened file, its number, and the columns.
            read: Decodes it.
            reading: Says where copies lie and what they may take; None for no copies.
        """
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key][0]
        copy = None if reading is None else copy_of(file, key[1:], reading.cache_folder)
        found, mapped = (None if copy is None else _mapped(copy)), True
        if found is None:
            found, mapped = read(), False
            if copy is not None and copy in self._dropped and _written(found, copy, reading or Reading()):
                found, mapped = _mapped(copy) or found, True
        with self._lock:
            if key not in self._kept:
                self._kept[key] = found, MAPPED if mapped else found.nbytes, copy
                self._size += self._kept[key][1]
            while self._size > self._room and len(self._kept) > 1:
                _, size, dropped = self._kept.popitem(last=False)[1]
                self._size -= size
                self._dropped.add(dropped)
        return found


RECENT = RowGroups(ROOM)
os.register_at_fork(after_in_child=RECENT.renew_lock)


def copy_of(file: str, group: Sequence[object], folder: Path) -> Path | None:
    """Where a copy of a row group (number, columns) of a file, as it is now, lies; None for a file that is gone."""
    try:
        stat = os.stat(file)
    except OSError:
        return None
    facts = [os.path.abspath(file), str(stat.st_size), str(stat.st_mtime_ns), *map(str, group)]
    digest = hashlib.sha256("\n".join(facts).encode(errors="surrogateescape")).hexdigest()[:16]
    return folder / f"{digest}-rows.arrow"  # a name that `cache_room` knows


def _mapped(copy: Path) -> pa.Table | None:
    """A copy, without reading it; None where there is none, or it is damaged."""
    try:
        with pa.memory_map(str(copy)) as source:
            found = pa.ipc.open_file(source).read_all()
        os.utime(copy, ns=(time.time_ns(), copy.stat().st_mtime_ns))  # used now
    except (OSError, pa.ArrowException):
        return None
    return found


def _written(table: pa.Table, copy: Path, reading: Reading) -> bool:
    """Writes a copy where there is room for it."""
    try:
        if not has_room(table.nbytes, reading):
            return False
        with whole_file(copy) as unfinished, pa.ipc.new_file(str(unfinished), table.schema) as writer:
            writer.write_table(table)
    except OSError:  # a folder that cannot be written costs time only
        return False
    return True
