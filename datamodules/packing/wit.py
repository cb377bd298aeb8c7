"""Wikipedia-based image text (Srinivasan et al. 2021): captions of many languages, images fetched by the user."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote

from datamodules.packing.rows import Row
from datamodules.packing.tables import fields_of
from datamodules.shards.encoding import BadRow

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
) -> Iterator[Row | BadRow]:
    """WIT's TSV files: 17 columns, one image on one page a row, with the captions of the page's language.

    Args:
        source: A .tsv or .tsv.gz file, or a folder of them, which are read in the order of their names. A name like
            wit_v1.val.all-00000-of-00005.tsv.gz says the rows' split.
        caption_fields: Fields that become captions, in this order: reference (under the image), attribution (from
            the image's own page), alt, page and section (the text around it), title.
        first: Only the first of these fields that is filled.

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
    texts = [text for text in dict.fromkeys(row[CAPTION_COLUMNS[field]].strip() for field in fields) if text]
    name = re.sub(r"[?#].*", "", row["image_url"]).rpartition("/")[2]
    return {
        "id": f"{language}/{unquote(name)}",
        "page_url": row["page_url"],
        "image_url": row["image_url"],
        "captions": {language: texts[:1] if first else texts},
    }
