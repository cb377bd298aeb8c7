"""Manifests where shards are named: a table or JSON Lines, packed once into the cache."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from datamodules.packing import Row, digest_of, pack_once, read_jsonl, read_table
from datamodules.shards.encoding import BadRow
from datamodules.shards.locations import LISTING, default_cache

SUFFIXES = (".csv", ".tsv", ".jsonl")


@dataclass
class Manifest:
    """The columns of a CSV or TSV; JSON Lines say all but `images` themselves.

    Args:
        captions: Language -> column.
        labels: Task -> column. 1 and 1.0 are numbers, anything else a name; an empty field is no label.
        image: Column of the image's path.
        images: Folder that the paths are in; default: the manifest's own.
    """

    captions: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    image: str = "image"
    images: str | None = None


def as_shards(
    named: str, where: str, manifest: Manifest | None, split: str | None = None, cache_dir: str | None = None
) -> tuple[str, Counter[str]]:
    """Shards as they are named; a manifest as the folder it is packed into, and its rows that were left out, by cause.

    It is packed at the first call, and anew when it, its columns or one of its images changed.

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
        return named, Counter()
    if not path.is_file():
        raise ValueError(f"{where}: {named} is no file; a manifest ({', '.join(SUFFIXES)}) or shards")
    columns = manifest or Manifest()
    if path.suffix != ".jsonl" and not columns.captions:
        raise ValueError(f"{where}: {named} needs data.manifest.captions, a column for each language")
    images = columns.images or path.parent
    digest = digest_of(_rows(path, columns), images, split, str(path.resolve().parent))
    out = Path(cache_dir or default_cache()).expanduser() / "manifests" / f"{path.stem}-{digest}"
    pack_once(_rows(path, columns), out, images=images, split=split, title=f"{where}: packing {path.name}")
    listing = json.loads((out / LISTING).read_text(encoding="utf-8"))
    return str(out), Counter(listing["skipped"])


def _rows(path: Path, columns: Manifest) -> Iterator[Row | BadRow]:
    if path.suffix == ".jsonl":
        return read_jsonl(path)
    return read_table(path, captions=columns.captions, image=columns.image, labels=columns.labels)
