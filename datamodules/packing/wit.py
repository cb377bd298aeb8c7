"""Wikipedia-based image text (Srinivasan et al. 2021): captions of many languages, images fetched by the user."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from urllib.parse import unquote

from datamodules.packing.rows import Row
from datamodules.packing.sorting import sorted_on_disk
from datamodules.packing.tables import fields_of
from datamodules.shards.encoding import BadRow
from datamodules.shards.samples import blank

COLUMNS = (
    "language",
    "page_url",
    "image_url",
    "page_title",
    "section_title",
    "hierarchical_section_title",
    "caption_reference_description",
    "caption_attribution_description",
    "caption_alt_text_description",
    "mime_type",
    "original_height",
    "original_width",
    "is_main_image",
    "attribution_passes_lang_id",
    "page_changed_recently",
    "context_page_description",
    "context_section_description",
)
CAPTION_COLUMNS = {
    "reference": "caption_reference_description",
    "attribution": "caption_attribution_description",
    "alt": "caption_alt_text_description",
    "page": "context_page_description",
    "section": "context_section_description",
    "title": "page_title",
}
RENAMED = {"iw": "he"}  # codes that BCP 47 has retired -> the ones other sources use


def read_wit(
    source: str | Path,
    *,
    caption_fields: Sequence[str] = ("reference", "attribution", "alt"),
    first: bool = False,
    join: bool = False,
) -> Iterator[Row | BadRow]:
    """WIT's TSV files: 17 columns, one image on one page a row, with the captions of the page's language.

    "fields" of a record names the field of each caption, {language: [field, ...]}: `Source.caption_fields` weighs them.

    Args:
        source: A .tsv or .tsv.gz file, or a folder of them, which are read in the order of their names. A name like
            wit_v1.val.all-00000-of-00005.tsv.gz says the rows' split.
        caption_fields: Fields that become captions, in this order: reference (under the image), attribution (from
            the image's own page), alt, page and section (the text around it), title.
        first: Only the first of these fields that is filled.
        join: One sample an image, with the languages of all its pages, in the order of addresses. Rows are sorted on
            disk (TMPDIR), those of different splits apart.

    The attribution is a caption only where WIT found it to be in the page's language (attribution_passes_lang_id). An
    image lies under its address as a mirror has it (upload.wikimedia.org/...), or under its last part, with or
    without percent signs decoded. Raises ValueError for a file of another form.
    """
    source = Path(source)
    unknown = [field for field in caption_fields if field not in CAPTION_COLUMNS]
    if unknown or not caption_fields:
        raise ValueError(f"caption_fields: {unknown or 'none'}; one or more of {', '.join(CAPTION_COLUMNS)}")
    files = [source]
    if source.is_dir():
        files = sorted(path for path in source.iterdir() if re.search(r"\.tsv(\.gz)?$", path.name))
    if not files:
        raise ValueError(f"source: {source} holds no .tsv or .tsv.gz; the files of WIT")
    rows = _rows(files, caption_fields, first)
    yield from _joined(rows, caption_fields) if join else rows


def _rows(files: Sequence[Path], caption_fields: Sequence[str], first: bool) -> Iterator[Row | BadRow]:
    """A row for each image on each page."""
    needed = {"language", "page_url", "image_url", "attribution_passes_lang_id"}
    needed |= {CAPTION_COLUMNS[field] for field in caption_fields}
    row = 0
    for path in files:
        split = re.search(r"\.(train|val|test)\.", path.name)
        columns = list(COLUMNS)
        for numbered in fields_of(path, "\t"):
            if isinstance(numbered, BadRow):
                yield numbered
                row += 1
                continue
            number, fields = numbered
            if number == 0:
                columns = fields if "image_url" in fields else columns
                if len(fields) != len(columns) or needed - set(columns):
                    raise ValueError(
                        f"source: {path} has {len(fields)} columns, not those of WIT; {', '.join(COLUMNS)}"
                    )
                if columns is fields:
                    continue
            if len(fields) != len(columns):
                yield BadRow("wrong number of fields", f"row {row + 1}")
            else:
                record = _record(dict(zip(columns, fields, strict=True)), caption_fields, first)
                record |= {"split": split[1]} if split else {}
                yield Row(row, record, images_at(record["image_url"]))
            row += 1


def images_at(address: str) -> tuple[str, ...]:
    """Where an image may lie in a folder: under its address or its last part, with or without percent signs decoded."""
    path = re.sub(r"^https?://|[?#].*", "", address)
    name = path.rpartition("/")[2]
    places = dict.fromkeys((path, unquote(path), name, unquote(name)))
    # an address may not lead out of the folder
    return tuple(place for place in places if not {"", ".."} & set(place.split("/")))


def _record(row: dict[str, str], caption_fields: Sequence[str], first: bool) -> dict:
    language = RENAMED.get(row["language"], row["language"])
    in_language = row["attribution_passes_lang_id"].strip().lower() == "true"
    fields = [field for field in caption_fields if field != "attribution" or in_language]
    # without doubles, because the alternative text is often the caption again
    captions: dict[str, str] = {}
    for field in fields:
        if not blank(text := row[CAPTION_COLUMNS[field]].strip()):
            captions.setdefault(text, field)
    kept = list(captions.items())[: 1 if first else None]
    return {
        "id": f"{language}/{_name(row['image_url'])}",
        "page_url": row["page_url"],
        "image_url": row["image_url"],
        "captions": {language: [text for text, _ in kept]},
        "fields": {language: [field for _, field in kept]},
    }


def _name(address: str) -> str:
    """The last part of an image's address."""
    return unquote(re.sub(r"[?#].*", "", address).rpartition("/")[2])


def _joined(rows: Iterable[Row | BadRow], caption_fields: Sequence[str]) -> Iterator[Row | BadRow]:
    """One row for all rows of an image; BadRows come first."""

    def keyed() -> Iterator[list]:
        for number, row in enumerate(rows):
            if isinstance(row, BadRow):
                yield ["", "", number, [row.cause, row.where]]
            else:
                address = re.sub(r"^https?://|[?#].*", "", row.record["image_url"])
                yield [address, row.record.get("split", ""), number, row.record]

    for _, pages in groupby(sorted_on_disk(keyed(), 3), key=itemgetter(0, 1)):
        records: list[dict] = []
        for _, _, number, record in pages:
            if isinstance(record, list):
                yield BadRow(*record)
            else:
                records.append(record | {"number": number})
        if records:
            yield _of_pages(records, caption_fields)


def _of_pages(records: Sequence[dict], caption_fields: Sequence[str]) -> Row:
    """The row of an image by the records of its pages: of a language its captions in the order of the fields."""
    found: dict[str, dict[str, str]] = {}  # language -> caption -> field
    for field in caption_fields:
        for record in records:
            for language, texts in record["captions"].items():
                for text, of_text in zip(texts, record["fields"][language], strict=True):
                    if of_text == field:
                        found.setdefault(language, {}).setdefault(text, field)
    first = records[0]
    record = {
        "id": _name(first["image_url"]),
        "image_url": first["image_url"],
        "page_urls": [record["page_url"] for record in records],
        "captions": {language: list(texts) for language, texts in sorted(found.items())},
        "fields": {language: list(texts.values()) for language, texts in sorted(found.items())},
    }
    record |= {"split": first["split"]} if "split" in first else {}
    return Row(first["number"], record, images_at(first["image_url"]))
