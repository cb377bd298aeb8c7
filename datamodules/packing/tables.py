"""CSV and TSV, with the names of the columns as options."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from datamodules.packing.rows import Row
from datamodules.packing.texts import open_text
from datamodules.shards.writing import BadRow

FIELD_LIMIT = 2**24  # characters; whole articles stand in one field, and Python's limit is 128 KiB


def read_table(
    source: str | Path,
    *,
    captions: Mapping[str, str | Sequence[str]] | None,
    image: str = "image",
    id: str | None = None,
    split_column: str | None = None,
    labels: Mapping[str, str] | None = None,
    separator: str | None = None,
    unquoted: bool = False,
) -> Iterator[Row | BadRow]:
    """A table with a row of column names, and one picture a row.

    Args:
        source: CSV or TSV, .gz or not.
        captions: The column of each language, or columns where it has several captions; an empty field is no caption.
        image: Column of the picture's path.
        id: Column of the id; default: id, else the picture's path without suffix.
        split_column: Column of the split; default: split, where there is one.
        labels: The column of each task's label; digits become whole numbers, an empty field is no label.
        separator: One character, or tab; default: tab for .tsv, else a comma.
        unquoted: Take " as it stands: for files written without quoting.

    Other columns travel in the record as strings. Raises ValueError for a column that is not there.
    """
    columns = {
        language: [named] if isinstance(named, str) else list(named) for language, named in (captions or {}).items()
    }
    labels = labels or {}
    if captions is not None and not columns:
        raise ValueError("captions: no column is named; a column for each language, such as en=caption")
    if separator is None:
        separator = "\t" if ".tsv" in Path(source).suffixes else ","
    rows = fields_of(source, "\t" if separator in ("tab", "\\t") else separator, not unquoted)
    _, header = next(rows, (0, []))
    if isinstance(header, BadRow):
        header = []
    needed = {image, *labels.values(), *(name for names in columns.values() for name in names)}
    for named in sorted(needed | {name for name in (id, split_column) if name is not None}):
        if named not in header:
            there = ", ".join(header)[:300] or "none"  # a file that is no table may be one long line
            raise ValueError(
                f"source: {source} has no column {named!r} (separator {separator!r}); its columns: {there}"
            )
    id, split = id or "id", split_column or "split"
    used = needed | {id, split, "", "captions", "labels"}
    for number, fields in rows:
        number -= 1  # the header is no row
        if isinstance(fields, BadRow):
            yield fields
            continue
        if len(fields) != len(header):
            yield BadRow("wrong number of fields", f"row {number + 1}")
            continue
        row = dict(zip(header, fields, strict=True))
        if not row[image]:
            yield BadRow("missing image", f"row {number + 1}")
            continue
        record: dict = {"id": row[id] if id in row else os.path.splitext(row[image])[0]}
        record |= {"split": row[split]} if split in row else {}
        record |= {name: text for name, text in row.items() if name not in used}
        texts = {language: [row[name] for name in names if row[name].strip()] for language, names in columns.items()}
        record["captions"] = {language: kept for language, kept in texts.items() if kept}
        if labels:
            record["labels"] = {task: _label(text) for task, name in labels.items() if (text := row[name].strip())}
        yield Row(number, record, (row[image],))


def fields_of(source: str | Path, separator: str, quoted: bool = True) -> Iterator[tuple[int, list[str] | BadRow]]:
    """(row from 0, fields) of a table; empty lines are passed over, broken quotes are BadRows."""
    if len(separator) != 1:
        raise ValueError(f"separator: {separator!r} is no separator; one character, such as , or ;")
    csv.field_size_limit(FIELD_LIMIT)
    with open_text(source, newline="") as text:
        reader = csv.reader(
            text, delimiter=separator, quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE, strict=True
        )
        number = 0
        while True:
            begun = reader.line_num + 1
            try:
                fields: list[str] | BadRow | None = next(reader, None)
            except csv.Error:
                # a quote that is never closed swallows lines up to the next one, or up to the limit of a field: said,
                # or nobody would miss them
                fields = BadRow("broken quotes", f"{Path(source).name}, lines {begun} to {reader.line_num}")
            if fields is None:
                return
            if fields:
                yield number, fields
                number += 1


def _label(text: str) -> int | str:
    return int(text) if text.isascii() and text.removeprefix("-").isdigit() else text
