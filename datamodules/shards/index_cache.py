"""What was found in a shard, kept between runs: headers and JSON of a million samples take minutes to read through.

One JSON file for each shard and kind of finding, named after the shard's path. It counts only while the shard has the
size and the time of change that it had when it was read. Everything can be found again, so a folder that is not there,
cannot be written or holds damage costs time and nothing else.
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
    """Findings by path and kind.

    Args:
        cache_dir: The cache folder, as for remote shards; default ~/.cache/mmtrain. Findings lie in its `indexes`.
    """

    def __init__(self, cache_dir: str | Path | None = None) -> None:
        self.folder = (Path(cache_dir).expanduser() if cache_dir else default_cache().parent) / "indexes"

    def found(self, path: str | Path, kind: str, find: Callable[[], dict]) -> dict:
        """What `find`, which reads the file at `path`, returned, now or in an earlier run.

        Not kept of small files and of those changed within two seconds before. Warns where the folder cannot be
        written. Raises what `find` raises.
        """
        try:
            stat = os.stat(path)
        except OSError:
            return find()  # it says what is wrong with the file
        # taken before reading: what changes meanwhile must not look like what was read
        stamp = {"format": FORMAT, "bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}
        if stat.st_size < FEWEST_BYTES or time.time_ns() - stat.st_mtime_ns < SETTLED_NS:
            return find()
        name = hashlib.sha256(f"{kind}\n{os.path.abspath(path)}".encode(errors="surrogateescape")).hexdigest()[:32]
        target = self.folder / f"{name}.json"
        kept = _read(target)
        if kept is not None and kept.get("of") == stamp:
            return kept["found"]
        found = find()
        self._write(target, {"of": stamp, "found": found})
        return found

    def _write(self, target: Path, content: dict) -> None:
        try:
            write_whole(target, json.dumps(content, separators=(",", ":")))
        except OSError as error:
            warnings.warn(
                f"{self.folder} cannot be written ({error.strerror}): shards without shards.json are read through at "
                "each start",
                stacklevel=2,
            )


def _read(target: Path) -> dict | None:
    try:
        kept = json.loads(target.read_bytes())
    except (OSError, ValueError):
        return None
    return kept if isinstance(kept, dict) and isinstance(kept.get("found"), dict) else None
