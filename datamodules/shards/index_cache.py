"""What was read from a shard, kept between runs: headers and JSON of a million samples take minutes to read through.

One JSON file for each shard and kind of content, named after the shard's path. It is valid while the shard has the
size, the time of change, the first and the last bytes that it had when it was read. A folder that is missing, damaged
or read-only costs time only.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from datamodules.files import write_whole
from datamodules.shards.locations import default_cache

FORMAT = 2
FEWEST_BYTES = 1 << 18  # a smaller shard is read again in milliseconds
ENDS = 1 << 18  # bytes at each end of a shard: another one under its name may have its size and time
SETTLED_NS = 2_000_000_000  # a file changed so recently can change again and show the same time


class IndexCache:
    """JSON objects by path and kind.

    Args:
        cache_dir: The cache folder, as for remote shards; default ~/.cache/mmtrain. They lie in its `indexes`.
    """

    def __init__(self, cache_dir: str | Path | None = None) -> None:
        self.folder = (Path(cache_dir).expanduser() if cache_dir else default_cache().parent) / "indexes"

    def found(self, path: str | Path, kind: str, find: Callable[[], dict]) -> dict:
        """What `find`, which reads the file at `path`, returns or returned in an earlier run.

        Nothing is kept of small files and of those changed in the last two seconds. Warns where the folder cannot be
        written. Raises what `find` raises.
        """
        try:
            stat = os.stat(path)
            # taken before reading, so that a file that changes meanwhile is read again
            stamp: dict[str, int | str] = {"format": FORMAT, "bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}
            if stat.st_size >= FEWEST_BYTES:
                stamp["ends"] = _ends(path)
        except OSError:
            return find()  # which raises the error
        if "ends" not in stamp or time.time_ns() - stat.st_mtime_ns < SETTLED_NS:
            return find()
        name = hashlib.sha256(f"{kind}\n{os.path.abspath(path)}".encode(errors="surrogateescape")).hexdigest()[:32]
        target = self.folder / f"{name}.json"
        entry = _read(target)
        if entry.get("of") == stamp and entry.get("digest") == _digest(entry.get("found")):
            return entry["found"]
        content = find()
        try:
            entry = {"of": stamp, "digest": _digest(content), "found": content}
            write_whole(target, json.dumps(entry, separators=(",", ":")))
        except OSError as error:
            warnings.warn(
                f"{self.folder} cannot be written ({error.strerror}): shards without shards.json are read through at "
                "each start",
                stacklevel=2,
            )
        return content


def _read(target: Path) -> dict:
    try:
        entry = json.loads(target.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return entry if isinstance(entry, dict) else {}


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]


def _ends(path: str | Path) -> str:
    with open(path, "rb") as file:
        digest = hashlib.sha256(file.read(ENDS))
        file.seek(-ENDS, os.SEEK_END)
        digest.update(file.read(ENDS))
    return digest.hexdigest()[:32]
