"""The public label files of image-text relations: labels from a table, pictures and texts from local folders.

The four classes of Vempala and Preotiuc-Pietro (ACL 2019) are two questions: is the text represented in the picture,
and does the picture add to it? Rows get three tasks: "represented" and "adds", 0 or 1, and "relation" = 2 (1 -
represented) + adds, so 0 represented and nothing added, 1 represented and added, 2 and 3 the same without.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from datamodules.packing.rows import Row
from datamodules.packing.tables import fields_of, read_table
from datamodules.shards.samples import IMAGE_SUFFIXES
from datamodules.shards.writing import BadRow

# (represented, adds) of each class, in the order of "relation"
CLASSES = ("represented", "represented+adds", "not_represented", "not_represented+adds")
TIR_COLUMNS = {
    "image_notadds_text_repr": 0,
    "image_adds_text_repr": 1,
    "image_notadds_text_notrepr": 2,
    "image_adds_text_notrepr": 3,
}
TIR_ID = "tweet_id"


def labels_of(relation: int) -> dict[str, int]:
    """The three tasks of a class 0 to 3."""
    return {"represented": int(relation < 2), "adds": relation % 2, "relation": relation}


def read_tir(
    source: str | Path,
    *,
    texts: str | Path,
    language: str = "en",
    text_id: str = TIR_ID,
    text: str = "text",
) -> Iterator[Row | BadRow]:
    """textimage.csv of Vempala and Preotiuc-Pietro 2019: one row a tweet, one of four columns set to 1.

    Of its 4,471 rows 15 have no class, 11 have two, 3 are malformed and 5 say a wrong one, since a comma in the
    tweet moved the columns; those are BadRows, never class 0. So are 28 ids that a spreadsheet rounded (6.92094E+17),
    which no tweet can be found by. Pictures are named <tweet_id>.jpg (or jpeg, png, webp).

    Args:
        source: The CSV.
        texts: A folder of <tweet_id>.txt files, or a CSV or TSV.
        language: Of the texts.
        text_id: Column of the tweet's id in the table of texts.
        text: Column of its text there.

    Raises:
        ValueError: one line, for a table without the columns.
    """
    rows = fields_of(source, ",")
    _, header = next(rows, (0, []))
    header = [] if isinstance(header, BadRow) else header
    columns = {name: place for place, name in enumerate(header)}
    for name in (TIR_ID, *TIR_COLUMNS):
        if name not in columns:
            raise ValueError(f"source: {source} has no column {name!r}; textimage.csv has {', '.join(TIR_COLUMNS)}")
    known = None if Path(texts).is_dir() else _texts_by_id(texts, text_id, text)
    for number, fields in rows:
        if isinstance(fields, BadRow):
            yield fields
            continue
        try:
            yield _tir_row(number - 1, fields, header, columns, Path(texts), known, language)
        except BadRow as bad:
            yield bad


def _tir_row(
    number: int,
    fields: list[str],
    header: list[str],
    columns: Mapping[str, int],
    folder: Path,
    known: Mapping[str, str] | None,
    language: str,
) -> Row:
    where = f"row {number + 1} ({fields[0][:20]})"
    marks = [fields[columns[name]] if columns[name] < len(fields) else "" for name in TIR_COLUMNS]
    if any(mark not in ("0", "1") for mark in marks):
        raise BadRow("malformed row", where)
    if marks.count("1") != 1:
        raise BadRow("no label" if "1" not in marks else "two labels", where)
    # a comma in a tweet's text moved all columns, and one of them still looks like a label
    if any(field.strip() for place, field in enumerate(fields) if place >= len(header) or not header[place]):
        raise BadRow("shifted row", where)
    name = fields[columns[TIR_ID]].strip()
    if not re.fullmatch(r"\d+", name):
        raise BadRow("rounded id", where)
    if known is None:
        caption = _text_in(folder, name)
    else:
        caption = known.get(name, "").strip()
    if not caption:
        raise BadRow("missing text", where)
    relation = list(TIR_COLUMNS.values())[marks.index("1")]
    record = {"id": name, "captions": {language: caption}, "labels": labels_of(relation)}
    return Row(number, record, tuple(f"{name}.{suffix}" for suffix in IMAGE_SUFFIXES))


def _texts_by_id(path: str | Path, id_column: str, text_column: str) -> dict[str, str]:
    rows = fields_of(path, "\t" if ".tsv" in Path(path).suffixes else ",")
    _, header = next(rows, (0, []))
    header = [] if isinstance(header, BadRow) else header
    for name in (id_column, text_column):
        if name not in header:
            raise ValueError(f"texts: {path} has no column {name!r}; its columns: {', '.join(header)[:300] or 'none'}")
    places = header.index(id_column), header.index(text_column)
    return {
        fields[places[0]].strip(): fields[places[1]]
        for _, fields in rows
        if not isinstance(fields, BadRow) and len(fields) > max(places)
    }


def read_four_classes(
    source: str | Path,
    *,
    captions: Mapping[str, str | Sequence[str]] | None = None,
    texts: Mapping[str, str | Path] | None = None,
    label: str = "label",
    coding: Sequence[str] = CLASSES,
    image: str = "image",
    id: str | None = None,
    split_column: str | None = None,
    separator: str | None = None,
) -> Iterator[Row | BadRow]:
    """A table of posts with one class 0 to 3 each, as the Latvian set has it, and its text in one language or more.

    Args:
        source: CSV or TSV.
        captions: The column of each language, or columns where it has several texts.
        texts: The folder of each language's <id>.txt, where the table has no texts.
        label: Column of the class.
        coding: What 0 to 3 mean; default: represented,represented+adds,not_represented,not_represented+adds.
        image: Column of the picture's path; a bare id also finds <id>.jpg, .jpeg, .png or .webp.
        id: Column of the id; default: id, else the picture's path.
        split_column: Column of the split; default: split, where there is one.
        separator: Default: a tab for .tsv, else a comma.

    Raises:
        ValueError: one line, for columns or folders that are not there, no texts at all, or a coding that is no order
            of the four classes.
    """
    if not captions and not texts:
        raise ValueError("captions, texts: neither is named; a column or a folder for each language")
    folders = {language: Path(folder) for language, folder in (texts or {}).items()}
    for language, folder in folders.items():
        if not folder.is_dir():
            raise ValueError(f"texts: {language}={folder} is no folder of <id>.txt")
    if sorted(coding) != sorted(CLASSES):
        raise ValueError(f"coding: {', '.join(coding)}; the four in the file's order: {', '.join(CLASSES)}")
    labels, captions = {"relation": label}, captions or None
    rows = read_table(
        source, captions=captions, image=image, id=id, split_column=split_column, labels=labels, separator=separator
    )
    for row in rows:
        if isinstance(row, BadRow):
            yield row
            continue
        given = row.record["labels"].get("relation")
        if given is None or given not in range(4):
            yield BadRow("no label" if given is None else "label out of range", f"row {row.number + 1} ({given})")
            continue
        row.record["labels"] = labels_of(CLASSES.index(coding[given]))
        found = {language: _text_in(folder, row.record["id"]) for language, folder in folders.items()}
        row.record["captions"] |= {language: text for language, text in found.items() if text}
        if not row.record["captions"]:
            yield BadRow("missing text", f"row {row.number + 1} ({row.record['id']})")
            continue
        name = row.images[0]
        images = (name, *(f"{name}.{suffix}" for suffix in IMAGE_SUFFIXES)) if not Path(name).suffix else (name,)
        yield row._replace(images=images)


def _text_in(folder: Path, name: str) -> str:
    """What <name>.txt says; nothing where it is not there."""
    path = folder / f"{name}.txt"
    return path.read_text(encoding="utf-8", errors="replace").strip() if path.is_file() else ""
