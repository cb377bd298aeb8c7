"""A catalogue from the numbers corpus: handwritten numbers in an ink on a paper, and queries of two products each.

A query shows two products and names a condition for each, in one of five languages: the number of the one, the ink or
the paper of the other. What it looks for meets both, and is in no other way like them.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from datamodules.numbers.corpus import SAMPLES_PER_SHARD, SPLITS, numbers_of, picture, png, words
from datamodules.packing.questions import write_questions
from datamodules.reading.fields import MARK
from datamodules.shards.encoding import encoded_sample
from datamodules.shards.writing import write_shards

INKS = ((20, 20, 20), (200, 20, 30), (10, 120, 40), (30, 60, 200), (130, 30, 160), (130, 75, 20))
PAPERS = ((255, 255, 255), (255, 240, 140), (255, 200, 215), (200, 200, 200), (165, 235, 230))
# a title with number, ink and paper; inks; papers; what a query asks of a product: its number, its ink, its paper
LANGUAGES: dict[str, tuple[str, tuple[str, ...], tuple[str, ...], tuple[str, str, str]]] = {
    "de": (
        "{}, {} Tinte auf {} Papier",
        ("schwarze", "rote", "grüne", "blaue", "violette", "braune"),
        ("weißem", "gelbem", "rosa", "grauem", "türkisem"),
        ("die Zahl von {}", "die Tinte von {}", "das Papier von {}"),
    ),
    "en": (
        "{}, {} ink on {} paper",
        ("black", "red", "green", "blue", "purple", "brown"),
        ("white", "yellow", "pink", "grey", "turquoise"),
        ("the number of {}", "the ink of {}", "the paper of {}"),
    ),
    "es": (
        "{}, tinta {} sobre papel {}",
        ("negra", "roja", "verde", "azul", "morada", "marrón"),
        ("blanco", "amarillo", "rosa", "gris", "turquesa"),
        ("el número de {}", "la tinta de {}", "el papel de {}"),
    ),
    "fr": (
        "{}, encre {} sur papier {}",
        ("noire", "rouge", "verte", "bleue", "violette", "marron"),
        ("blanc", "jaune", "rose", "gris", "turquoise"),
        ("le nombre de {}", "l'encre de {}", "le papier de {}"),
    ),
    "lv": (
        "{}, {} tinte uz {} papīra",
        ("melna", "sarkana", "zaļa", "zila", "violeta", "brūna"),
        ("balta", "dzeltena", "rozā", "pelēka", "tirkīza"),
        ("skaitlis no {}", "tinte no {}", "papīrs no {}"),
    ),
}
CONDITIONS = ("number", "ink", "paper")
QUERIES = {"train": 8000, "val": 400, "test": 600}
RENDERINGS = 1000  # of a product; that of number 0 is in the catalogue


class Product(NamedTuple):
    """A number from 0 to 99, and the places of its ink and its paper."""

    number: int
    ink: int
    paper: int


class Query(NamedTuple):
    """Two products, what is asked of each (a place in CONDITIONS), and a product that meets both."""

    shown: tuple[Product, Product]
    asked: tuple[int, int]
    answer: Product

    def right(self, product: Product) -> bool:
        """Whether a product meets both conditions."""
        return all(product[asked] == shown[asked] for asked, shown in zip(self.asked, self.shown, strict=True))


def pack_products(
    out: str | Path,
    split: str,
    languages: Sequence[str] | None = None,
    *,
    queries: int | None = None,
    samples_per_shard: int = SAMPLES_PER_SHARD,
    workers: int = 1,
) -> dict:
    """Writes a split as shards; returns what shards.json says.

    Of train and val each sample is a query: its text "query", with <image> where a picture stands, its pictures
    "query_pictures", the title "positive" of a product that meets both conditions, and its picture,
    "positive_pictures". Of test each sample is a product of the catalogue, which has every number of the split below
    100 in every ink on every paper, with its title as the caption; beside the shards lie questions.jsonl and its
    pictures.

    Args:
        out: Folder for the shards.
        split: train, val or test, which share neither numbers nor scans.
        languages: Some of LANGUAGES, of queries and titles, each drawn by itself; default all.
        queries: How many; default 8,000, 400 or 600.
        samples_per_shard: Samples that make one shard.
        workers: Processes.
    """
    numbers_of(split)  # names a wrong split
    queries = QUERIES[split] if queries is None else queries
    if queries < 1 or samples_per_shard < 1:
        raise ValueError(f"queries, samples_per_shard: {queries}, {samples_per_shard} are too few; at least 1")
    languages = sorted(LANGUAGES) if languages is None else list(languages)
    for language in languages:
        if language not in LANGUAGES:
            raise ValueError(f"languages: {language!r} has no words for products; {', '.join(LANGUAGES)}")
    count = len(catalogue(split)) if split == "test" else queries
    tasks = [
        {"split": split, "languages": languages, "first": first, "end": min(first + samples_per_shard, count)}
        for first in range(0, count, samples_per_shard)
    ]
    make = _items if split == "test" else _queries
    facts = write_shards(out, tasks, make, workers=workers, total=count, title=f"packing products ({split})")
    if split == "test":
        _write_questions(Path(out), languages, queries)
    return facts


@functools.cache
def catalogue(split: str) -> list[Product]:
    """The products of a split."""
    numbers = [number for number in numbers_of(split) if number < 100]
    return [Product(*each) for each in itertools.product(numbers, range(len(INKS)), range(len(PAPERS)))]


def query(split: str, number: int) -> Query:
    """A query of a split, by its number."""
    random = _random(split, number, 0)
    products = catalogue(split)
    answer = products[random.randint(len(products))]
    asked = 0, 1 + random.randint(2)
    other = products[random.randint(len(products))]
    while any(mine == theirs for mine, theirs in zip(answer, other, strict=True)):
        other = products[random.randint(len(products))]
    third = products[random.randint(len(products))]
    while any(one in two for one, two in zip(third, zip(answer, other, strict=True), strict=True)):
        third = products[random.randint(len(products))]
    # what one product is asked for it shares with the answer; all else it has of its own
    shown = [
        Product(*(answer[place] if place == condition else own[place] for place in range(3)))
        for condition, own in zip(asked, (other, third), strict=True)
    ]
    order = (0, 1) if random.randint(2) else (1, 0)
    return Query((shown[order[0]], shown[order[1]]), (asked[order[0]], asked[order[1]]), answer)


def title(product: Product, language: str) -> str:
    """The title of a product."""
    form, inks, papers, _ = LANGUAGES[language]
    return form.format(words(language)[product.number], inks[product.ink], papers[product.paper])


def instruction(query: Query, language: str) -> str:
    """The text of a query, a mark in place of each picture."""
    return ", ".join(LANGUAGES[language][3][asked].format(MARK) for asked in query.asked)


def drawn(product: Product, split: str, seed: int) -> bytes:
    """A picture of a product, 64 pixels wide, encoded."""
    grey = picture(str(product.number), split, (len(SPLITS) + SPLITS.index(split), *product, seed))
    share = grey[:, :, None] / 255  # of the paper
    page = share * np.array(PAPERS[product.paper]) + (1 - share) * np.array(INKS[product.ink])
    return png(page.round().astype(np.uint8))


def _queries(task: dict) -> Iterator[dict]:
    split, languages = task["split"], task["languages"]
    for number in range(task["first"], task["end"]):
        asked, random = query(split, number), _random(split, number, 1)
        language, other = (languages[place] for place in random.randint(len(languages), size=2))
        record: dict[str, Any] = {
            "id": f"{split}-query-{number:05d}",
            "split": split,
            "conditions": [CONDITIONS[condition] for condition in asked.asked],
            "query": {language: instruction(asked, language)},
            "positive": {other: title(asked.answer, other)},
        }
        pages = [drawn(product, split, random.randint(1, RENDERINGS)) for product in (*asked.shown, asked.answer)]
        files = dict(zip(("query_pictures", "query_pictures1", "positive_pictures"), pages, strict=True))
        yield encoded_sample(number, record, None, files=files)


def _items(task: dict) -> Iterator[dict]:
    split, languages = task["split"], task["languages"]
    for number, product in enumerate(catalogue(split)[task["first"] : task["end"]], task["first"]):
        language = languages[_random(split, number, 2).randint(len(languages))]
        record = {"id": _name(product), "split": split, "captions": {language: title(product, language)}}
        yield encoded_sample(number, record | product._asdict(), drawn(product, split, 0))


def _write_questions(out: Path, languages: Sequence[str], count: int) -> None:
    """questions.jsonl, and the pictures that it names in queries/: other ones than those of the catalogue."""
    (out / "queries").mkdir(exist_ok=True)
    questions = []
    for number in range(count):
        asked, random = query("test", number), _random("test", number, 1)
        language = languages[random.randint(len(languages))]
        images = [f"queries/{number:05d}-{place}.png" for place in range(len(asked.shown))]
        for file, product in zip(images, asked.shown, strict=True):
            (out / file).write_bytes(drawn(product, "test", random.randint(1, RENDERINGS)))
        questions.append(
            {
                "id": f"test-query-{number:05d}",
                "text": instruction(asked, language),
                "language": language,
                "images": images,
                "relevant": {_name(product): 1 for product in catalogue("test") if asked.right(product)},
                "group": " and ".join(CONDITIONS[condition] for condition in sorted(asked.asked)),
            }
        )
    write_questions(questions, out)


def _name(product: Product) -> str:
    return f"{product.number:02d}-{LANGUAGES['en'][1][product.ink]}-{LANGUAGES['en'][2][product.paper]}"


def _random(split: str, number: int, purpose: int) -> np.random.RandomState:
    return np.random.RandomState(np.array((3 * len(SPLITS) + SPLITS.index(split), number, purpose), np.uint32))
