"""Remote shards: fetched whole into the cache folder, checked there, and kept while there is room.

Beside a shard lies a small JSON file that stays when the shard goes: its checksum, and what the server called its
version. One process fetches a shard while the others wait; a process that reads a shard holds a shared lock on it, so
that nobody takes it away.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import fsspec

from datamodules.files import one_at_a_time, whole_file, write_whole
from datamodules.shards.cache_room import Holds, make_room
from datamodules.shards.index_cache import Content, read_content, write_content
from datamodules.shards.locations import LISTING, Reading, file_of, is_remote, is_table, split_columns, with_columns
from datamodules.shards.samples import BrokenSample
from datamodules.shards.servers import FILE_QUERY, Changed, file_system, reason_of, shown, tried
from datamodules.shards.tars import index_shard

FORGIVEN_SECONDS = 300  # a shard that could not be fetched is not asked for again so soon
VERSION = ("etag", "last-modified", "lastmodified", "mtime", "size")  # what file systems say of a file, in any case


def local_path(shard: str, reading: Reading, checksum: str | None = None, *, anew: bool = False) -> str:
    """The shard as a file here: itself, or a copy in the cache, fetched when it is not there.

    Args:
        shard: A file's name, an address, or `pipe:COMMAND`; what is said of its columns stays behind it.
        checksum: What shards.json says of its bytes; without one the end of the file is looked at.
        anew: At the start of a run: a copy of what has changed on the server is fetched again. Later it is refused.

    Raises:
        OSError: with the reason, when it cannot be fetched; FileNotFoundError when it is not there.
    """
    if not is_remote(shard):
        return shard
    shard, columns = split_columns(shard)
    target = cached_path(shard, reading)
    if anew and target.exists() and not _current(shard, target, reading, checksum):
        warnings.warn(f"{shown(shard)} has changed since it was fetched: it is fetched again", stacklevel=2)
        target.unlink(missing_ok=True)
    while not _HOLDS.take(target):
        if (failed := _FAILED.get(shard)) and not anew and time.monotonic() - failed[0] < FORGIVEN_SECONDS:
            raise OSError(failed[1])
        try:
            with one_at_a_time(target):
                if not target.exists():
                    tried(lambda: _fetch(shard, target, reading, checksum, anew), shard, reading.patience)
                    make_room(target, reading)
        except OSError as error:
            _FAILED[shard] = time.monotonic(), str(error)
            raise
    return with_columns(str(target), columns)


_HOLDS = Holds(4)  # the shards that this process read last
_FAILED: dict[str, tuple[float, str]] = {}  # when and why


def remembered(
    shard: str, reading: Reading, checksum: str | None, kind: str, find: Callable[[str], Content]
) -> Content:
    """What `find` says of the shard's file, at the start of a run. Where the cache has a limit it is kept, so that a
    shard that made room for others is not fetched again to be counted.

    Raises OSError as `local_path` does, and what `find` raises.
    """
    target = cached_path(shard, reading)
    note = target.with_name(f"{target.name}.{hashlib.sha256(kind.encode()).hexdigest()[:8]}")
    facts = _facts_of(target)
    if facts and not target.exists() and _current(file_of(shard), target, reading, checksum):
        noted = read_content(note, {"checksum": facts["checksum"]})
        if noted is not None:
            return noted
    found = find(local_path(shard, reading, checksum, anew=True))
    if is_remote(shard) and reading.cache_gb is not None:
        write_content(note, {"checksum": _facts_of(target)["checksum"]}, found)
    return found


def cached_path(shard: str, reading: Reading) -> Path:
    """Where a remote shard lies in the cache, once it is fetched."""
    # a signature in an address changes from day to day
    shard = file_of(shard)
    name = "pipe.tar" if shard.startswith("pipe:") else shown(shard).rsplit("/", 1)[-1][-100:]
    key = shard if shard.startswith("pipe:") else FILE_QUERY.sub(r"\1", shard)
    return reading.cache_folder / f"{hashlib.sha256(os.fsencode(key)).hexdigest()[:16]}-{name}"


def _facts_of(target: Path) -> dict:
    """What is known of a shard that was fetched: "version", "checksum"."""
    return _read(target.with_name(f"{target.name}.facts"))


def _read(path: Path) -> dict:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _fetch(shard: str, target: Path, reading: Reading, checksum: str | None, anew: bool) -> None:
    for leftover in target.parent.glob(f".{target.name}.*.part"):  # of a process that was killed
        leftover.unlink()
    with whole_file(target) as unfinished:
        version = {}
        if shard.startswith("pipe:"):
            with unfinished.open("wb") as file:
                if code := subprocess.run(["bash", "-c", shard.removeprefix("pipe:")], stdout=file).returncode:
                    raise OSError(f"the command ended with {code}")
        else:
            files, path = file_system(shard, reading.patience)
            files.get_file(path, str(unfinished))
            version = _version(files, path)
        with unfinished.open("rb") as file:
            facts = {"version": version, "checksum": "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()}
        _check(unfinished, shard, facts, checksum)
        before = _facts_of(target)
        if not anew and before and before["checksum"] != facts["checksum"]:
            raise Changed
        write_whole(target.with_name(f"{target.name}.facts"), json.dumps(facts))


def listing_path(shard: str, reading: Reading, *, anew: bool = False) -> str | None:
    """The path of the shards.json beside a shard, None where there is none. Raises OSError when nobody can say."""
    shard = file_of(shard)
    if shard.startswith("pipe:"):
        return None
    if not is_remote(shard):
        path = Path(shard).with_name(LISTING)
        return str(path) if path.exists() else None
    try:
        return local_path(FILE_QUERY.sub(r"\1", shard).rsplit("/", 1)[0] + "/" + LISTING, reading, anew=anew)
    except FileNotFoundError:
        return None


def _check(path: Path, shard: str, facts: dict, checksum: str | None) -> None:
    """Raises OSError for what is not the whole file that was asked for."""
    truncated = False
    try:
        if shard.endswith(LISTING):
            json.loads(path.read_bytes())
        elif is_table(shard):
            from datamodules.shards.tables import open_table

            open_table(path)
        else:
            truncated = index_shard(path).truncated
    except (ValueError, BrokenSample):
        with path.open("rb") as file:
            begin = file.read(30).decode(errors="replace")
        kind = "JSON" if shard.endswith(LISTING) else "parquet or arrow" if is_table(shard) else "tar"
        raise OSError(f"it is no {kind} (it begins with {begin!r})") from None
    size = path.stat().st_size
    if size != int(facts["version"].get("size", size)):
        raise OSError(f"cut off after {size:,} of {int(facts['version']['size']):,} bytes")
    if checksum is not None and facts["checksum"] != checksum:
        raise OSError("its bytes are not those that shards.json lists")
    if truncated and checksum is None:
        raise OSError(f"cut off: the tar of {size:,} bytes has no end")


def _version(files: fsspec.AbstractFileSystem, path: str) -> dict[str, str]:
    info = {name.lower(): value for name, value in files.info(path).items()}
    return {name: str(info[name]) for name in VERSION if info.get(name) is not None}


def _current(shard: str, target: Path, reading: Reading, checksum: str | None) -> bool:
    """Whether the copy is what the server has now; so it counts when the server cannot be asked, with a warning."""
    facts = _facts_of(target)
    if checksum is not None and facts:
        return facts["checksum"] == checksum
    if shard.startswith("pipe:"):
        return True
    host = shard.split("/")[2]
    try:
        version = {} if host in _SILENT else _version(*file_system(shard, reading.patience))
    except Exception as error:
        _SILENT.add(host)  # which would otherwise be waited for at each of its shards
        reason, _ = reason_of(error, reading.patience)
        warnings.warn(f"{shown(shard)} cannot be asked for changes ({reason}): the copy is used", stacklevel=2)
        return True
    if not facts and "size" in version:  # a copy of an older version
        return int(version["size"]) == target.stat().st_size
    return not version or facts.get("version", version) == version


_SILENT: set[str] = set()
