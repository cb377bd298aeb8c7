"""Shards from manifests of pictures and captions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from datamodules.samples import FEATURE_SUFFIX
from datamodules.writing import BadRow, encoded_sample, write_shards

SAMPLES_PER_SHARD = 1000


def pack_jsonl(
    manifest: str | Path,
    out: str | Path,
    *,
    split: str | None = None,
    samples_per_shard: int = SAMPLES_PER_SHARD,
    workers: int = 1,
) -> dict:
    """Packs a manifest, one JSON object a line: the sample's record plus "image", a path beside the manifest.

    Args:
        manifest: The JSON Lines file. A row's "split" is kept in its record; "image" is not.
        out: Folder for the shards and shards.json.
        split: Pack only the rows whose "split" is this; None packs all.
        samples_per_shard: Rows that make one shard.
        workers: Processes; the bytes written do not depend on it.

    Returns what shards.json says. Rows that are no samples (broken JSON, a caption that is no string, a missing or
    broken image) are left out, counted by cause and listed there. Raises ValueError, one line, when there is no
    manifest, no row of the split, no sample at all, or no place to write.
    """
    manifest = Path(manifest)
    if samples_per_shard < 1 or workers < 1:
        raise ValueError(f"samples_per_shard, workers: {samples_per_shard}, {workers} are too small; at least 1 each")
    if not manifest.is_file():
        raise ValueError(f"source: {manifest} is no file; a JSON Lines manifest")
    count = sum(1 for _ in _rows(manifest, split))
    if not count:
        splits = sorted({str(row.get("split")) for _, line in _rows(manifest, None) if (row := _object(line))})
        wanted = f" with split {split!r}" if split is not None else ""
        raise ValueError(f"source: {manifest} has no row{wanted}; its splits are {', '.join(splits) or 'none'}")
    return write_shards(
        out,
        _tasks(manifest, split, samples_per_shard),
        _samples,
        files=_image_paths,
        workers=workers,
        total=-(-count // samples_per_shard),
        title=f"packing {manifest.name}",
    )


def _rows(manifest: Path, split: str | None) -> Iterator[tuple[int, str]]:
    """(line number from 0, line) of the rows of the split; lines that are no objects belong to every split."""
    with open(manifest, encoding="utf-8", errors="surrogateescape", newline="\n") as lines:
        for number, line in enumerate(lines):
            if not line.strip():
                continue
            if split is not None:
                row = _object(line)
                if row is not None and row.get("split") != split:
                    continue
            yield number, line


def _tasks(manifest: Path, split: str | None, samples_per_shard: int) -> Iterator[dict]:
    rows: list[tuple[int, str]] = []
    for row in _rows(manifest, split):
        rows.append(row)
        if len(rows) == samples_per_shard:
            yield {"folder": str(manifest.parent), "rows": rows}
            rows = []
    if rows:
        yield {"folder": str(manifest.parent), "rows": rows}


def _object(line: str) -> dict | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _image_paths(task: dict) -> Iterator[Path]:
    for _, line in task["rows"]:
        row = _object(line)
        if row is not None and isinstance(row.get("image"), str):
            yield Path(task["folder"], row["image"])


def _samples(task: dict) -> Iterator[dict | BadRow]:
    for number, line in task["rows"]:
        try:
            yield _sample(number, line, Path(task["folder"]))
        except BadRow as bad:
            yield bad


def _sample(number: int, line: str, folder: Path) -> dict:
    where = f"row {number + 1}"
    try:
        line.encode()
    except UnicodeEncodeError:  # a byte that surrogateescape let through
        raise BadRow("invalid UTF-8", where) from None
    row = _object(line)
    if row is None:
        raise BadRow("no JSON object", where)
    image = row.pop("image", None)
    if not isinstance(image, str):
        raise BadRow("image is no path", where)
    path = folder / image
    try:
        content = path.read_bytes()
    except OSError:
        raise BadRow("missing image", f"{where} ({image})") from None
    return encoded_sample(number, row, content, FEATURE_SUFFIX if path.suffix.lower() == ".npy" else None)
