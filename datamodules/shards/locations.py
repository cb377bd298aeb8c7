"""What a user calls SHARDS, as files: folders, tars, tables, brace patterns, `::` lists with weights, remote ones."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from braceexpand import braceexpand

from datamodules.shards.columns import named_columns
from datamodules.shards.folders import tables_in, tables_of_split
from datamodules.shards.servers import FILE_QUERY, PATIENCE, Patience, files_in, shown

LISTING = "shards.json"
BLOCK = 512  # bytes of a tar's header, and the least of a file in it
WEIGHTED = re.compile(r"(\d+(?:\.\d*)?|\.\d+)@(.+)", re.DOTALL)
REMOTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
TABLES = (".parquet", ".arrow")
VISIBLE = re.compile(r"(^|/)[^./][^/]*\.(tar|parquet|arrow)$")  # file managers leave ._x.tar beside x.tar
WITH_COLUMNS = re.compile(r"(.+?)\[([^\[\]]*=[^\[\]]*)\]", re.DOTALL)
ACCEPTED = (
    "a folder of .tar, .parquet or .arrow files, one such file, a brace pattern like train-{000..009}.tar, or several "
    "joined with ::"
)


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
        cache_gb: The most that remote shards, and copies of row groups, may take there, in GB; default: no limit.
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
    drawn; where some parts have a weight, the others weigh 1. Without weights all parts are one source. Behind a part
    of tables, [ROLE=COLUMN,...] says what their columns are (see `columns`); it stays behind each of the shards. A name
    that begins with `file://` is local; other `scheme://` names are read by fsspec into the cache folder;
    `pipe:COMMAND` runs a command, only with allow_pipe. Raises ValueError, one line, for anything that names no shards.
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
    part, columns = split_columns(part)
    try:
        named_columns(columns)
        shards = _files(part, allow_pipe, patience)
        if any(map(is_table, shards)) and find_spec("pyarrow") is None:
            raise ValueError(f"{part}: parquet and arrow files need pyarrow: pip install 'mmtrain[documents]'")
    except ValueError as error:
        raise ValueError(f"{field}: {error}") from None
    if not columns:
        return shards
    if other := next((shard for shard in shards if not is_table(shard)), None):
        raise ValueError(f"{field}: [{columns}] says what columns are, and {other} is no .parquet or .arrow file")
    return [with_columns(shard, columns) for shard in shards]


def _files(part: str, allow_pipe: bool, patience: Patience) -> list[str]:
    if part.startswith("pipe:"):
        if not allow_pipe:
            raise ValueError(f"{part!r} would run a command; switch that on with allow_pipe, or give files")
        return [part]
    if part.startswith("file://"):
        part = part.removeprefix("file://")
    try:
        names = list(braceexpand(part))
    except ValueError:
        raise ValueError(f"{part!r} is no brace pattern; {ACCEPTED}") from None
    if REMOTE.match(part):
        return [shard for name in names for shard in _remote(name, patience)]
    shards = []
    for name in names:
        path = Path(name).expanduser()
        if path.is_dir():
            found = in_folder(path)
            if not found:
                raise ValueError(f"folder {name} holds no .tar, .parquet or .arrow; {ACCEPTED}")
            shards += found
        elif path.exists():
            shards.append(str(path))
        elif tables := tables_of_split(path):
            shards += map(str, tables)
        else:
            missing = sum(not Path(other).expanduser().exists() for other in names)
            which = f" ({missing} of the {len(names)} files of {part} are missing)" if len(names) > 1 else ""
            raise ValueError(f"{name} does not exist{which}; {ACCEPTED}")
    return shards


def in_folder(folder: Path) -> list[str]:
    """The shards of a folder: its tars, else its tables. Raises ValueError where these are of several splits."""
    # a shard that only the listing names stays in the list, so that it is reported as missing
    listed = {str(folder / name) for name in read_listing(folder / LISTING) or {}}
    tars = sorted({str(tar) for tar in folder.glob("[!.]*.tar")} | listed)
    return tars or list(map(str, tables_in(folder)))


def _remote(name: str, patience: Patience) -> list[str]:
    if FILE_QUERY.sub(r"\1", name).endswith((".tar", *TABLES)):
        return [name]
    try:
        files = [file for file in files_in(name, patience) if VISIBLE.search(file)]
    except OSError as error:
        raise ValueError(f"a folder cannot be listed: {error}; {ACCEPTED}") from None
    if not files:
        raise ValueError(f"{shown(name)} holds no .tar or .parquet; {ACCEPTED}")
    return [file for file in files if file.endswith(".tar")] or files


def split_columns(shard: str) -> tuple[str, str]:
    """A shard's file or address, and what is said of its columns, "" for nothing."""
    match = WITH_COLUMNS.fullmatch(shard)
    return (match[1], match[2]) if match else (shard, "")


def with_columns(file: str, columns: str) -> str:
    """A shard by its file and what is said of its columns."""
    return f"{file}[{columns}]" if columns else file


def file_of(shard: str) -> str:
    """A shard's file or address."""
    return split_columns(shard)[0]


def is_table(shard: str) -> bool:
    """Whether it is a parquet or arrow file, not a tar."""
    return FILE_QUERY.sub(r"\1", file_of(shard)).endswith(TABLES)


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


def file_stamp(shard: str) -> list[int] | None:
    """Size and time of a local shard: a mended one is another."""
    path = Path(file_of(shard))
    return [path.stat().st_size, path.stat().st_mtime_ns] if path.is_file() else None
