"""Manifests where shards are named: a table or JSON Lines, packed once into the cache."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from datamodules.packing import Row, pack_once, read_jsonl, read_table
from datamodules.shards.locations import default_cache
from datamodules.shards.writing import BadRow

SUFFIXES = (".csv", ".tsv", ".jsonl")


@dataclass
class Manifest:
    """The columns of a CSV or TSV; JSON Lines say all but `images` themselves.

    Args:
        captions: Language -> column.
        labels: Task -> column. Digits are numbers, anything else a name; an empty field is no label.
        image: Column of the image's path.
        images: Folder that the paths are in; default: the manifest's own.
    """

    captions: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    image: str = "image"
    images: str | None = None


def as_shards(
    named: str, where: str, manifest: Manifest | None, split: str | None = None, cache_dir: str | None = None
) -> str:
    """Shards as they are named; a manifest as the folder it is packed into, at the first call.

    Args:
        named: SHARDS, or a path that ends in .csv, .tsv or .jsonl.
        where: The option, for errors.
        manifest: Its columns.
        split: Only rows whose split column says so, where there is one; None takes all.
        cache_dir: Where it is packed.

    Raises:
        ValueError: one line, for a manifest that cannot be read or without columns.
    """
    path = Path(named)
    if path.suffix not in SUFFIXES:
        return named
    if not path.is_file():
        raise ValueError(f"{where}: {named} is no file; a manifest ({', '.join(SUFFIXES)}) or shards")
    columns = manifest or Manifest()
    if path.suffix != ".jsonl" and not columns.captions:
        raise ValueError(f"{where}: {named} needs data.manifest.captions, a column for each language")
    key = json.dumps([asdict(columns), split, str(path.resolve().parent)]).encode()
    digest = hashlib.blake2b(path.read_bytes() + key, digest_size=8).hexdigest()
    out = Path(cache_dir or default_cache()).expanduser() / "manifests" / f"{path.stem}-{digest}"
    rows = read_jsonl(path) if path.suffix == ".jsonl" else _table(path, columns)
    pack_once(rows, out, images=columns.images or path.parent, split=split, title=f"packing {path.name}")
    return str(out)


def _table(path: Path, columns: Manifest) -> Iterator[Row | BadRow]:
    return read_table(path, captions=columns.captions, image=columns.image, labels=columns.labels)
