"""What was read from a shard, kept between runs: headers and JSON of a million samples take a while to read through.

One NPZ file for each shard and kind of content, named after the shard's path. It is valid while the shard has the
size, the time of change, the first and the last bytes that it had when it was read. A folder that is missing, damaged
or read-only costs time only.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from datamodules.files import whole_file
from datamodules.shards.locations import default_cache, file_of

FORMAT = 3
FEWEST_BYTES = 1 << 18  # a smaller shard is read again in milliseconds
ENDS = 1 << 18  # bytes at each end of a shard: another one under its name may have its size and time
SETTLED_NS = 2_000_000_000  # a file changed so recently can change again and show the same time
FACTS = "facts"  # the array that holds JSON


class Content(NamedTuple):
    """What can be kept: arrays by name, and facts as JSON takes them."""

    arrays: dict[str, np.ndarray]
    facts: dict[str, Any]


class IndexCache:
    """Contents by path and kind.

    Args:
        cache_dir: The cache folder, as for remote shards; default ~/.cache/mmtrain. They lie in its `indexes`.
    """

    def __init__(self, cache_dir: str | Path | None = None) -> None:
        self.folder = (Path(cache_dir).expanduser() if cache_dir else default_cache().parent) / "indexes"

    def found(self, path: str | Path, kind: str, find: Callable[[], Content]) -> Content:
        """What `find`, which reads the shard at `path`, returns or returned in an earlier run.

        Nothing is kept of small files and of those changed in the last two seconds. Warns where the folder cannot be
        written. Raises what `find` raises.
        """
        file = file_of(str(path))
        try:
            stat = os.stat(file)
            # taken before reading, so that a file that changes meanwhile is read again
            stamp: dict[str, int | str] = {"format": FORMAT, "bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}
            if stat.st_size < FEWEST_BYTES or time.time_ns() - stat.st_mtime_ns < SETTLED_NS:
                return find()
            stamp["ends"] = _ends(file)
        except OSError:
            return find()  # which raises the error
        name = hashlib.sha256(f"{kind}\n{os.path.abspath(path)}".encode(errors="surrogateescape")).hexdigest()[:32]
        target = self.folder / f"{name}.npz"
        content = read_content(target, stamp)
        if content is None:
            content = find()
            try:
                write_content(target, stamp, content)
                target.with_suffix(".json").unlink(missing_ok=True)  # of an older version
            except OSError as error:
                warnings.warn(
                    f"{self.folder} cannot be written ({error.strerror}): shards without shards.json are read through "
                    "at each start",
                    stacklevel=2,
                )
        return content


def write_content(target: Path, stamp: Mapping[str, int | str], content: Content) -> None:
    """Writes a content and what it is of, whole or not at all."""
    facts = np.frombuffer(json.dumps([stamp, content.facts]).encode(), np.uint8)
    with whole_file(target) as unfinished, unfinished.open("wb") as file:
        np.savez(file, allow_pickle=False, **{FACTS: facts}, **content.arrays)


def read_content(target: Path, stamp: Mapping[str, int | str]) -> Content | None:
    """The content that is kept of what has this stamp; None where there is none, or it is damaged."""
    try:
        with np.load(target) as arrays:  # each has a checksum
            of, facts = json.loads(arrays[FACTS].tobytes())
            return Content({name: arrays[name] for name in arrays if name != FACTS}, facts) if of == stamp else None
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error):
        return None


def _ends(path: str | Path) -> str:
    with open(path, "rb") as file:
        digest = hashlib.sha256(file.read(ENDS))
        file.seek(-ENDS, os.SEEK_END)
        digest.update(file.read(ENDS))
    return digest.hexdigest()[:32]
