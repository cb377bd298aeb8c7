"""The public label files of image-text relations: labels from a table, images and texts from local folders.

The four classes of Vempala and Preotiuc-Pietro (ACL 2019) are two questions: is the text represented in the image,
and does the image add to it? Rows get three tasks: "represented" and "adds", 0 or 1, and "relation" = 2 (1 -
represented) + adds, so 0 represented and nothing added, 1 represented and added, 2 and 3 the same without.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import zip_longest
from pathlib import Path

from datamodules.packing.rows import Row
from datamodules.packing.tables import header_and_rows, read_table
from datamodules.shards.encoding import BadRow, convert
from datamodules.shards.samples import IMAGE_SUFFIXES

# (represented, adds) of each class, in the order of "relation"
CLASSES = ("represented", "represented+adds", "not_represented", "not_represented+adds")
TIR_COLUMNS = (
    "image_notadds_text_repr",
    "image_adds_text_repr",
    "image_notadds_text_notrepr",
    "image_adds_text_notrepr",
)
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

    Of its 4,471 rows 15 have no class, 11 have two, 3 are malformed, 5 have columns moved by a comma in the tweet, and
    28 have an id that a spreadsheet rounded (6.92094E+17): those are BadRows. Images are named <tweet_id>.jpg (or
    jpeg, png, webp).

    Args:
        source: The CSV.
        texts: A folder of <tweet_id>.txt files, or a CSV or TSV.
        language: Of the texts.
        text_id: Column of the tweet's id in the table of texts.
        text: Column of its text there.

    Raises:
        ValueError: one line, for a table without the columns.
    """
    header, rows = header_and_rows(source, ",")
    for name in (TIR_ID, *TIR_COLUMNS):
        if name not in header:
            raise ValueError(f"source: {source} has no column {name!r}; textimage.csv has {', '.join(TIR_COLUMNS)}")
    caption_of: Callable[[str], str | None] = partial(_text_in, Path(texts))
    if not Path(texts).is_dir():
        caption_of = _texts_by_id(texts, text_id, text).get
    yield from convert(rows, partial(_tir_row, header=header, caption_of=caption_of, language=language))


def _tir_row(
    number: int, fields: list[str], *, header: list[str], caption_of: Callable[[str], str | None], language: str
) -> Row:
    where = f"row {number + 1} ({fields[0][:20]})"
    of_column = dict(zip(header, fields, strict=False))
    marks = [of_column.get(name) for name in TIR_COLUMNS]
    if any(mark not in ("0", "1") for mark in marks):
        raise BadRow("malformed row", where)
    if marks.count("1") != 1:
        raise BadRow("no label" if "1" not in marks else "two labels", where)
    # a comma in a tweet's text moved all columns, and one of them still looks like a label
    if any(field.strip() for name, field in zip_longest(header, fields, fillvalue="") if not name):
        raise BadRow("shifted row", where)
    name = of_column[TIR_ID].strip()
    if not re.fullmatch(r"\d+", name):
        raise BadRow("rounded id", where)
    caption = caption_of(name)
    if not caption:
        raise BadRow("missing text", where)
    record = {"id": name, "captions": {language: caption}, "labels": labels_of(marks.index("1"))}
    return Row(number, record, tuple(f"{name}.{suffix}" for suffix in IMAGE_SUFFIXES))


def _texts_by_id(path: str | Path, id_column: str, text_column: str) -> dict[str, str]:
    header, rows = header_and_rows(path, "\t" if ".tsv" in Path(path).suffixes else ",")
    for name in (id_column, text_column):
        if name not in header:
            raise ValueError(f"texts: {path} has no column {name!r}; its columns: {', '.join(header)[:300] or 'none'}")
    id, text = header.index(id_column), header.index(text_column)
    all_fields = [row[1] for row in rows if not isinstance(row, BadRow)]
    return {fields[id].strip(): fields[text].strip() for fields in all_fields if len(fields) > max(id, text)}


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
        image: Column of the image's path; a bare id also finds <id>.jpg, .jpeg, .png or .webp.
        id: Column of the id; default: id, else the image's path.
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
    rows = read_table(
        source,
        captions=captions or None,
        image=image,
        id=id,
        split_column=split_column,
        labels={"relation": label},
        separator=separator,
    )

    def post(number: int, record: dict, images: tuple[str], *_: object) -> Row:
        value = record["labels"].get("relation")
        if value not in range(4):
            raise BadRow("no label" if value is None else "label out of range", f"row {number + 1} ({value})")
        record["labels"] = labels_of(CLASSES.index(coding[value]))
        text_of = {language: _text_in(folder, record["id"]) for language, folder in folders.items()}
        record["captions"] |= {language: text for language, text in text_of.items() if text}
        if not record["captions"]:
            raise BadRow("missing text", f"row {number + 1} ({record['id']})")
        (name,) = images
        suffixes = () if Path(name).suffix else IMAGE_SUFFIXES
        return Row(number, record, (name, *(f"{name}.{suffix}" for suffix in suffixes)))

    yield from convert(rows, post)


def _text_in(folder: Path, name: str) -> str:
    """The text of <name>.txt, "" where there is none."""
    path = folder / f"{name}.txt"
    return path.read_text(encoding="utf-8", errors="replace").strip() if path.is_file() else ""
