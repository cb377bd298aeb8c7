"""MERIT (Chow et al. 2025): products, and queries that show one or more of them and ask for another in words.

queries-SPLIT.json is JSON Lines: {"query instruction", "query": [product, ...], "pos_candidate": [product, ...]}; the
products are parquet files, SPLIT in their names: idx, image, title, class, country, language.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.packing.cells import cell, table_rows
from datamodules.packing.manifests import objects
from datamodules.packing.row import Row
from datamodules.packing.spelling import language_of
from datamodules.reading.fields import MARK
from datamodules.shards.encoding import BadRow

PRODUCT = {"id": ("idx",), "title": ("title",), "class": ("class",), "country": ("country",), "language": ("language",)}
TAG = re.compile(r"<\s*(/?)\s*Product\s*(\d*)\s*>", re.IGNORECASE)  # around each product that an instruction speaks of


class Product(NamedTuple):
    """A product: the cell of its picture, and what its row says."""

    image: str
    row: dict[str, Any]

    @property
    def language(self) -> str:
        return language_of(self.row["language"]) if self.row.get("language") else "und"


class Query(NamedTuple):
    """A query: an <image> stands in its text where a product is spoken of, which are in the order of the marks."""

    id: str
    text: str
    shown: list[str]
    right: list[str]


def products(source: Path, split: str) -> dict[str, Product]:
    """The products of a split by id. Raises ValueError where there is none."""
    found = {}
    for file in sorted(each for each in source.rglob("*.parquet") if split in each.name):
        for place, row in enumerate(table_rows(file, PRODUCT)):
            if row.get("id") is None:
                raise ValueError(f"{file}, row {place + 1} has no idx")
            found[str(row["id"])] = Product(cell(file.relative_to(source).as_posix(), "image", place), row)
    if not found:
        raise ValueError(f"{source} holds no {split} products in parquet files; the folder of MERIT")
    return found


def queries(source: Path, split: str, known: dict[str, Product]) -> Iterator[Query]:
    """The queries of a split. Raises ValueError, one line, for a line that is none, or shows a product not `known`."""
    file = source / f"queries-{split}.json"
    for entry in objects(file):
        if isinstance(entry, BadRow):
            raise ValueError(f"{file}, {entry}; JSON Lines")
        number, record = entry
        shown, right = ([str(each) for each in record.get(key) or ()] for key in ("query", "pos_candidate"))
        text = record.get("query instruction")
        if not shown or not isinstance(text, str) or (absent := [each for each in shown if each not in known]):
            said = f"product {absent[0]} is none of the {split} set" if shown and isinstance(text, str) else "no query"
            raise ValueError(f"{file}, line {number + 1}: {said}; MERIT's queries and products")
        yield Query(str(record.get("idx", number + 1)), *interleaved(text, shown), right)


def interleaved(text: str, shown: list[str]) -> tuple[str, list[str]]:
    """An instruction with a mark in place of the first tag of each product, and the products in the order of marks."""
    order: list[str] = []

    def marked(tag: re.Match[str]) -> str:
        number = int(tag[2] or 0)
        if tag[1] or not 1 <= number <= len(shown) or shown[number - 1] in order:
            return " "
        order.append(shown[number - 1])
        return f" {MARK} "

    return " ".join(TAG.sub(marked, text).split()), order + [each for each in shown if each not in order]


def read_merit(source: str | Path) -> Iterator[Row]:
    """Queries with each of their products: a sample has the text "query", in the language of the first product shown,
    its pictures "query_pictures", and of the product looked for the title, "positive", and "positive_pictures".

    Raises:
        ValueError: one line, for a folder that is not MERIT's.
    """
    folder, numbers = Path(source), count()
    if not (files := sorted(folder.glob("queries-*.json"))):
        raise ValueError(f"{source} holds no queries-SPLIT.json; the folder of MERIT")
    for file in files:
        split = file.stem.removeprefix("queries-")
        known = products(folder, split)
        for query in queries(folder, split, known):
            for right in query.right:
                if right not in known or not known[right].row.get("title"):
                    raise ValueError(
                        f"{file}, query {query.id}: product {right} is none of its products, or has no title"
                    )
                record = {
                    "id": f"{split}-{query.id}-{right}",
                    "split": split,
                    "query": {known[query.shown[0]].language: query.text},
                    "positive": {known[right].language: known[right].row["title"]},
                }
                shown = {f"query_pictures{n or ''}": known[each].image for n, each in enumerate(query.shown)}
                pictures = shown | {"positive_pictures": known[right].image}
                yield Row(next(numbers), record, (), pictures, complete=False)
