"""CSV and TSV, with the names of the columns as options."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from datamodules.packing.rows import Row
from datamodules.packing.texts import open_text
from datamodules.shards.encoding import BadRow, convert

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
    """A table with a row of column names, and one image a row.

    Args:
        source: CSV or TSV, .gz or not.
        captions: The column of each language, or columns where it has several captions; an empty field is no caption.
        image: Column of the image's path.
        id: Column of the id; default: id, else the image's path without suffix.
        split_column: Column of the split; default: split, where there is one.
        labels: The column of each task's label; 1 and 1.0 become whole numbers, an empty field is no label.
        separator: One character, or tab; default: tab for .tsv, else a comma.
        unquoted: Take " as it stands: for files written without quoting.

    Other columns travel in the record as strings. Raises ValueError for a column that is not there.
    """
    columns = {
        language: [names] if isinstance(names, str) else list(names) for language, names in (captions or {}).items()
    }
    labels = labels or {}
    if captions is not None and not columns:
        raise ValueError("captions: no column is named; a column for each language, such as en=caption")
    if separator is None:
        separator = "\t" if ".tsv" in Path(source).suffixes else ","
    header, rows = header_and_rows(source, "\t" if separator in ("tab", "\\t") else separator, not unquoted)
    needed = {image, *labels.values(), *(name for names in columns.values() for name in names)}
    for name in sorted(needed | {name for name in (id, split_column) if name is not None}):
        if name not in header:
            there = ", ".join(header)[:300] or "none"  # a file that is no table may be one long line
            raise ValueError(f"source: {source} has no column {name!r} (separator {separator!r}); its columns: {there}")
    id, split = id or "id", split_column or "split"
    used = needed | {id, split, "", "captions", "labels"}

    def row(number: int, fields: list[str]) -> Row:
        if len(fields) != len(header):
            raise BadRow("wrong number of fields", f"row {number + 1}")
        of_column = dict(zip(header, fields, strict=True))
        path = of_column[image]
        if not path:
            raise BadRow("missing image", f"row {number + 1}")
        record: dict = {"id": of_column.get(id, os.path.splitext(path)[0])}
        record |= {"split": of_column[split]} if split in of_column else {}
        record |= {name: text for name, text in of_column.items() if name not in used}
        texts = {
            language: [of_column[name] for name in names if of_column[name].strip()]
            for language, names in columns.items()
        }
        record["captions"] = {language: captions for language, captions in texts.items() if captions}
        if labels:
            filled = {task: of_column[name].strip() for task, name in labels.items()}
            record["labels"] = {task: _label(text) for task, text in filled.items() if text}
        return Row(number, record, (path,))

    yield from convert(rows, row)


def header_and_rows(
    source: str | Path, separator: str, quoted: bool = True
) -> tuple[list[str], Iterator[tuple[int, list[str]] | BadRow]]:
    """The names of a table's columns, none where its first row cannot be read, and its rows, from 0."""
    rows = fields_of(source, separator, quoted, first=-1)
    header = next(rows, None)
    return header[1] if isinstance(header, tuple) else [], rows


def fields_of(
    source: str | Path, separator: str, quoted: bool = True, first: int = 0
) -> Iterator[tuple[int, list[str]] | BadRow]:
    """(number, fields) of the rows of a table, the first of which is `first`.

    Empty lines are passed over, broken quotes are BadRows. Raises ValueError for a file that cannot be read.
    """
    if len(separator) != 1:
        raise ValueError(f"separator: {separator!r} is no separator; one character, such as , or ;")
    csv.field_size_limit(FIELD_LIMIT)
    with open_text(source, newline="") as text:
        reader = csv.reader(
            text, delimiter=separator, quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE, strict=True
        )
        number = first
        while True:
            begin = reader.line_num + 1
            try:
                fields: list[str] | BadRow | None = next(reader, None)
            except csv.Error:
                # a quote that is never closed swallows lines up to the next quote, or up to the limit of a field
                fields = BadRow("broken quotes", f"{Path(source).name}, lines {begin} to {reader.line_num}")
            if fields is None:
                return
            if fields:
                yield fields if isinstance(fields, BadRow) else (number, fields)
                number += 1


def _label(text: str) -> int | str:
    whole = re.fullmatch(r"(-?\d{1,18})(\.0+)?", text, re.ASCII)  # 1.0: as pandas exports a column with gaps
    return int(whole[1]) if whole else text
