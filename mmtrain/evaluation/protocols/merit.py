"""MERIT (Chow et al. 2025): one or more products and conditions in words ask for a product.

queries-test.json is JSON Lines: {"query instruction", "query": [product, ...], "pos_candidate": [product, ...]}; the
products are parquet files of the split test: idx, image, title, class, country, language. All of them are candidates. A
right product behind place 10 is worth nothing, as in the authors' result files, where its rank is -1.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datamodules.packing import Row
from datamodules.packing.cells import cell
from datamodules.packing.manifests import objects
from datamodules.shards.encoding import BadRow
from mmtrain.evaluation.protocols.pages import rows_of
from mmtrain.evaluation.protocols.protocol import Protocol, Reference
from mmtrain.evaluation.protocols.spelling import language_of

QUERIES = "queries-test.json"
PRODUCT = {"id": ("idx",), "text": ("title",), "class": ("class",), "country": ("country",), "language": ("language",)}
TAG = re.compile(r"</?\s*Product\s*\d*\s*>", re.IGNORECASE)  # around each product that an instruction speaks of


def products(source: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Cell of the picture and row of each test product. Raises ValueError where there is none."""
    files = [file for file in sorted(source.rglob("*.parquet")) if "test" in file.name]
    if not files:
        raise ValueError(f"--data: {source} holds no test products in parquet files; the folder of MERIT")
    for file in files:
        for place, row in enumerate(rows_of(file, PRODUCT, "id")):
            yield cell(file.relative_to(source).as_posix(), "image", place), row


def read(source: Path) -> Iterator[Row]:
    """The products: {"id": idx, "text": the title, "class", "country", "language"}."""
    for number, (image, row) in enumerate(products(source)):
        record = {name: row[name] for name in ("text", "class", "country") if row.get(name) is not None}
        record |= {"id": str(row["id"]), "language": _language(row)}
        yield Row(number, record, (image,), complete=False)


def questions(source: Path) -> Iterator[dict[str, Any]]:
    """The test queries, in the language of their first product, grouped by its class."""
    known = {str(row["id"]): (image, row) for image, row in products(source)}
    for entry in objects(source / QUERIES):
        if isinstance(entry, BadRow):
            raise ValueError(f"--data: {source / QUERIES}, {entry}; JSON Lines")
        number, record = entry
        shown, right = ([str(each) for each in record.get(key) or ()] for key in ("query", "pos_candidate"))
        text = record.get("query instruction")
        if not shown or not isinstance(text, str) or (absent := [each for each in shown if each not in known]):
            said = f"product {absent[0]} is none of the test set" if shown and isinstance(text, str) else "no query"
            raise ValueError(f"--data: {source / QUERIES}, line {number + 1}: {said}; MERIT's queries and products")
        first = known[shown[0]][1]
        yield {
            "id": str(record.get("idx", number + 1)),
            "text": " ".join(TAG.sub(" ", text).split()),
            "language": _language(first),
            "images": [known[each][0] for each in shown],
            "relevant": dict.fromkeys(right, 1),
        } | ({"group": str(first["class"])} if first.get("class") else {})


def _language(product: dict[str, Any]) -> str:
    return language_of(product["language"]) if product.get("language") else "und"


TEST = Protocol(
    name="merit",
    variant="test",
    read=read,
    questions=questions,
    images=51_177,
    languages=None,
    comparable=(
        Reference(
            "Chow et al. 2025",
            "R@1 and MRR@10 over all 10,000 queries: Coral 69.68, 78.33, Qwen2.5-VL-3B contrastive 47.76, 59.06; their"
            " candidates are picture and title together, ours the picture",
            "reported",
        ),
    ),
)
PROTOCOLS = (TEST,)
