"""What was read from a shard, kept between runs: headers and JSON of a million samples take minutes to read through.

One JSON file for each shard and kind of content, named after the shard's path. It is valid while the shard has the size
and the time of change that it had when it was read. A folder that is missing, damaged or read-only costs time only.
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

FORMAT = 1
FEWEST_BYTES = 1 << 18  # a smaller shard is read again in milliseconds
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
        except OSError:
            return find()  # which raises the error
        # taken before reading, so that a file that changes meanwhile is read again
        stamp = {"format": FORMAT, "bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}
        if stat.st_size < FEWEST_BYTES or time.time_ns() - stat.st_mtime_ns < SETTLED_NS:
            return find()
        name = hashlib.sha256(f"{kind}\n{os.path.abspath(path)}".encode(errors="surrogateescape")).hexdigest()[:32]
        target = self.folder / f"{name}.json"
        entry = _read(target)
        if entry.get("of") == stamp:
            return entry["found"]
        content = find()
        try:
            write_whole(target, json.dumps({"of": stamp, "found": content}, separators=(",", ":")))
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
    except (OSError, ValueError):
        return {}
    return entry if isinstance(entry, dict) and isinstance(entry.get("found"), dict) else {}
