"""The room of the cache folder: the least recently used shards go, and none that a process reads."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import threading
import time
import warnings
from collections import OrderedDict
from collections.abc import Collection
from pathlib import Path
from weakref import WeakSet

from datamodules.files import one_at_a_time
from datamodules.shards.locations import Reading

OURS = re.compile(r"[0-9a-f]{16}-.*\.(tar|parquet|arrow)", re.DOTALL)
FREE = 0.1  # of the disk that copies of local files leave


class Holds:
    """Shared locks on shards: while a process holds one, nobody removes it.

    Args:
        most: So many are held, the latest taken.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: OrderedDict[Path, int] = OrderedDict()
        self._lock = threading.Lock()
        _EVERY.add(self)

    def forget(self) -> None:
        """Closes what was inherited: a reader process has locks of its own."""
        self._lock = threading.Lock()
        self.keep([])

    def sizes(self) -> list[int]:
        """Bytes of each shard that is held."""
        with self._lock:
            return [os.fstat(descriptor).st_size for descriptor in self._held.values()]

    def take(self, path: Path) -> bool:
        """Holds a shard and notes that it is used now; False where it is not there."""
        with self._lock, contextlib.suppress(FileNotFoundError):
            if path not in self._held:
                self._held[path] = os.open(path, os.O_RDONLY)
                with contextlib.suppress(OSError):  # a file system without locks
                    fcntl.flock(self._held[path], fcntl.LOCK_SH)
            self._held.move_to_end(path)
            while len(self._held) > self._most:
                os.close(self._held.popitem(last=False)[1])
            stat = path.stat()
            if os.path.samestat(stat, os.fstat(self._held[path])):
                with contextlib.suppress(PermissionError):
                    os.utime(path, ns=(time.time_ns(), stat.st_mtime_ns))
                return True
        with self._lock:
            if path in self._held:  # of a file that is no longer there
                os.close(self._held.pop(path))
        return False

    def keep(self, paths: Collection[Path]) -> None:
        """Releases all but these."""
        with self._lock:
            for path in self._held.keys() - set(paths):
                os.close(self._held.pop(path))


_EVERY: WeakSet[Holds] = WeakSet()


def _forget_all() -> None:
    for holds in list(_EVERY):
        holds.forget()


os.register_at_fork(after_in_child=_forget_all)


def make_room(new: Path, reading: Reading) -> None:
    """Removes the shards used longest ago, until those in the cache take no more than `cache_gb`.

    `new` and those that a process holds stay; warns where they alone take more.
    """
    if reading.cache_gb is None:
        return
    with one_at_a_time(new.parent / "room"):
        stats = {path: path.stat() for path in new.parent.iterdir() if OURS.fullmatch(path.name)}
        over = sum(stat.st_size for stat in stats.values()) - reading.cache_gb * 1e9
        for path in sorted(stats.keys() - {new}, key=lambda path: stats[path].st_atime_ns):
            if over > 0 and _removed(path):
                over -= stats[path].st_size
    if over > 0:
        warnings.warn(f"data.cache_gb: the shards in use take more than {reading.cache_gb:g} GB", stacklevel=2)


def has_room(size: int, reading: Reading) -> bool:
    """Whether so many bytes fit into the cache folder with nothing removed; a tenth of the disk stays free."""
    folder = reading.cache_folder
    folder.mkdir(parents=True, exist_ok=True)
    disk = shutil.disk_usage(folder)
    taken = 0
    for path in folder.iterdir() if reading.cache_gb is not None else ():
        with contextlib.suppress(FileNotFoundError):
            taken += path.stat().st_size if OURS.fullmatch(path.name) else 0
    within = reading.cache_gb is None or taken + size <= reading.cache_gb * 1e9
    return within and disk.free - size >= FREE * disk.total


def _removed(path: Path) -> bool:
    """Removes a shard that nobody holds."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
    except BlockingIOError:
        return False
    except OSError:
        path.unlink(missing_ok=True)  # a file system without locks
    finally:
        os.close(descriptor)
    return True
