"""What a user calls SHARDS, resolved to files: folders, tars, brace patterns, `::` lists with weights, remote ones."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from braceexpand import braceexpand

from datamodules.shards.servers import FILE_QUERY, PATIENCE, Patience, shown, tars_in

LISTING = "shards.json"
BLOCK = 512  # bytes of a tar's header, and the least of a file in it
WEIGHTED = re.compile(r"(\d+(?:\.\d*)?|\.\d+)@(.+)", re.DOTALL)
REMOTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
VISIBLE_TAR = re.compile(r"(^|/)[^./][^/]*\.tar$")  # file managers leave ._x.tar beside x.tar
ACCEPTED = "a folder of .tar files, a .tar, a brace pattern like train-{000..009}.tar, or several joined with ::"


@dataclass(frozen=True)
class ShardList:
    """Shards that are drawn as one; `weight` is its share of the samples, None in a plain list."""

    shards: list[str]
    weight: float | None = None


@dataclass(frozen=True)
class Reading:
    """How shards are reached and read; the data modules have options of these names.

    Args:
        text_language: Language of `.txt` captions.
        cache_dir: Where remote shards are kept; default ~/.cache/mmtrain/shards.
        allow_pipe: Whether `pipe:COMMAND` may name a shard.
        cache_gb: The most that remote shards may take there, in GB; default: no limit.
        patience: With the servers that remote shards come from.
    """

    text_language: str = "und"
    cache_dir: str | None = None
    allow_pipe: bool = False
    cache_gb: float | None = None
    patience: Patience = PATIENCE

    def __post_init__(self) -> None:
        if self.cache_gb is not None and not self.cache_gb > 0:
            raise ValueError(f"data.cache_gb: {self.cache_gb} is too small; above 0")

    @property
    def cache_folder(self) -> Path:
        return Path(self.cache_dir).expanduser() if self.cache_dir else default_cache()


def expand(
    spec: str, *, field: str = "shards", allow_pipe: bool = False, patience: Patience = PATIENCE
) -> list[ShardList]:
    """The lists of shards that SHARDS names.

    `::` joins several. `WEIGHT@` before a part, as in `0.7@en/::0.3@lv/{00..09}.tar`, sets its share of the samples
    drawn; where some parts have a weight, the others weigh 1. Without weights all parts are one source. A name that
    begins with `file://` is local; other `scheme://` names are read by fsspec into the cache folder; `pipe:COMMAND`
    runs a command, only with allow_pipe. Raises ValueError, one line, for anything that names no shards.
    """
    if not isinstance(spec, str) or not spec.strip():
        raise ValueError(f"{field}: {spec!r} names no shards; {ACCEPTED}")
    parts, weights = [], []
    for name, weight in weighted_parts(spec, field):
        weights.append(weight)
        parts.append(_shards(name, field, allow_pipe, patience))
    seen: set[str] = set()
    for shard in (shard for part in parts for shard in part):
        if shard in seen:
            raise ValueError(f"{field}: {shard} is named twice; name it once, with a weight to draw it more often")
        seen.add(shard)
    if any(weight is not None for weight in weights):
        return [ShardList(part, 1.0 if weight is None else weight) for part, weight in zip(parts, weights, strict=True)]
    return [ShardList([shard for part in parts for shard in part])]


def weighted_parts(spec: str, field: str) -> list[tuple[str, float | None]]:
    """The parts of SHARDS between `::`, each with its weight, None where it has none."""
    parts: list[tuple[str, float | None]] = []
    for part in spec.split("::"):
        weighted = WEIGHTED.fullmatch(part.strip())
        if weighted and float(weighted[1]) == 0:
            raise ValueError(f"{field}: {part!r} has weight 0; a weight above 0, or leave it out")
        parts.append((weighted[2], float(weighted[1])) if weighted else (part.strip(), None))
    return parts


def _shards(part: str, field: str, allow_pipe: bool, patience: Patience) -> list[str]:
    if part.startswith("pipe:"):
        if not allow_pipe:
            raise ValueError(f"{field}: {part!r} would run a command; switch that on with allow_pipe, or give files")
        return [part]
    if part.startswith("file://"):
        part = part.removeprefix("file://")
    try:
        names = list(braceexpand(part))
    except ValueError:
        raise ValueError(f"{field}: {part!r} is no brace pattern; {ACCEPTED}") from None
    if REMOTE.match(part):
        return [shard for name in names for shard in _remote(name, field, patience)]
    shards = []
    for name in names:
        path = Path(name).expanduser()
        if path.is_dir():
            # a shard that only the listing names stays in the list, so that it is reported as missing
            listed = {str(path / name) for name in read_listing(path / LISTING) or {}}
            tars = sorted({str(tar) for tar in path.glob("[!.]*.tar")} | listed)
            if not tars:
                raise ValueError(f"{field}: folder {name} holds no .tar; {ACCEPTED}")
            shards += tars
        elif path.exists():
            shards.append(str(path))
        else:
            missing = sum(not Path(other).expanduser().exists() for other in names)
            which = f" ({missing} of the {len(names)} files of {part} are missing)" if len(names) > 1 else ""
            raise ValueError(f"{field}: {name} does not exist{which}; {ACCEPTED}")
    return shards


def _remote(name: str, field: str, patience: Patience) -> list[str]:
    if FILE_QUERY.sub(r"\1", name).endswith(".tar"):
        return [name]
    try:
        tars = [tar for tar in tars_in(name, patience) if VISIBLE_TAR.search(tar)]
    except OSError as error:
        raise ValueError(f"{field}: a folder cannot be listed: {error}; {ACCEPTED}") from None
    if not tars:
        raise ValueError(f"{field}: {shown(name)} holds no .tar; {ACCEPTED}")
    return tars


def default_cache() -> Path:
    """Where remote shards are kept when no cache folder is named."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mmtrain" / "shards"


def is_remote(shard: str) -> bool:
    return shard.startswith("pipe:") or REMOTE.match(shard) is not None


def read_listing(path: str | Path) -> dict[str, dict] | None:
    """The entries of a shards.json by shard name; None where there is none or it is no listing of ours."""
    try:
        listing = json.loads(Path(path).read_text(encoding="utf-8"))
        entries = {entry["name"]: entry for entry in listing["shards"]}
        return entries if all(map(_believable, entries.values())) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def held_by(entry: dict) -> Counter[str]:
    """What the samples of a shard hold, by its entry of shards.json; without "holds" each has an image and captions."""
    return Counter(entry.get("holds", {"image": entry["samples"], "texts": entry["samples"]}))


def _believable(entry: dict) -> bool:
    """Whether it says all that an entry says, and no more samples than its bytes can hold: a file or two each."""
    complete = {"samples", "languages", "labels", "bytes", "checksum", "inputs"} <= entry.keys()
    if not complete or not isinstance(entry.get("holds", {}), dict):
        return False
    return 2 * BLOCK * (entry["samples"] + held_by(entry)["image"]) <= entry["bytes"]
