"""What was asked of an index, and what was found."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmtrain.search.items import Item


@dataclass(frozen=True)
class Result:
    """One picture that was found."""

    score: float
    item: Item


@dataclass(frozen=True)
class Query:
    """What was asked: a text, or a picture's file."""

    text: str | None = None
    language: str | None = None
    image: Path | None = None


def plain(query: Query, results: list[Result]) -> dict[str, Any]:
    """What --json prints: {"query": {...}, "results": [{"rank", "score", "id", "captions": {language: [...]}}]}."""
    asked = {"text": query.text, "language": query.language, "image": str(query.image) if query.image else None}
    found = [
        {"rank": rank, "score": result.score, "id": result.item.id, "captions": result.item.captions}
        for rank, result in enumerate(results, 1)
    ]
    return {"query": {name: value for name, value in asked.items() if value is not None}, "results": found}


def ordered(captions: dict[str, list[str]], first: Sequence[str]) -> list[tuple[str, str]]:
    """(language, caption), those in the `first` languages before the others."""
    place = {language: number for number, language in enumerate(dict.fromkeys(first))}
    pairs = [(language, caption) for language, each in captions.items() for caption in each]
    return sorted(pairs, key=lambda pair: place.get(pair[0], len(place)))
