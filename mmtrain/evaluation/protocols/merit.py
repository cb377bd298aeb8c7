"""MERIT (Chow et al. 2025): one or more products and conditions in words ask for a product.

The files are those of `datamodules.packing.merit`. All products of the test split are candidates. A right product
behind place 10 is worth nothing, as in the authors' result files, where its rank is -1.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datamodules.packing import Row
from datamodules.packing.merit import products, queries
from mmtrain.evaluation.protocols.protocol import Protocol, Reference


def read(source: Path) -> Iterator[Row]:
    """The products: {"id": idx, "text": the title, "class", "country", "language"}."""
    for number, (id, product) in enumerate(_products(source).items()):
        names = {"text": "title", "class": "class", "country": "country"}
        record = {name: product.row[key] for name, key in names.items() if product.row.get(key) is not None}
        yield Row(number, record | {"id": id, "language": product.language}, (product.image,), complete=False)


def questions(source: Path) -> Iterator[dict[str, Any]]:
    """The test queries, in the language of their first product, grouped by its class, <image> for a picture."""
    known = _products(source)
    try:
        for query in queries(source, "test", known):
            first = known[query.shown[0]]
            yield {
                "id": query.id,
                "text": query.text,
                "language": first.language,
                "images": [known[each].image for each in query.shown],
                "relevant": dict.fromkeys(query.right, 1),
            } | ({"group": str(first.row["class"])} if first.row.get("class") else {})
    except ValueError as error:
        raise ValueError(f"--data: {error}") from None


def _products(source: Path) -> dict[str, Any]:
    try:
        return products(source, "test")
    except ValueError as error:
        raise ValueError(f"--data: {error}") from None


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
