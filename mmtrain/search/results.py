"""What was asked of an index, and what was found."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmtrain.display.tables import print_table
from mmtrain.search.items import Item

SHOWN = 4  # captions of a result in the terminal


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


def print_json(query: Query, results: list[Result]) -> None:
    """{"query": {...}, "results": [{"rank", "score", "id", "captions": {language: [...]}}]}."""
    given = {"text": query.text, "language": query.language, "image": str(query.image) if query.image else None}
    ranked = [
        {"rank": rank, "score": result.score, "id": result.item.id, "captions": result.item.captions}
        for rank, result in enumerate(results, 1)
    ]
    query_given = {name: value for name, value in given.items() if value is not None}
    print(json.dumps({"query": query_given, "results": ranked}, ensure_ascii=False, indent=1))


def print_results(query: Query, results: list[Result], pictures: int, first: Sequence[str]) -> None:
    """A table for a terminal; captions in the `first` languages before the others."""
    rows = []
    for result in results:
        captions = ordered(result.item.captions, first)
        lines = [f"{language}: {caption}" for language, caption in captions[:SHOWN]]
        if len(captions) > SHOWN:
            lines.append(f"and {len(captions) - SHOWN} more")
        rows.append([f"{result.score:.3f}", result.item.id, "\n".join(lines)])
    title = f"{query.text or query.image} in {pictures:,} pictures"
    print_table(title, ("score", "id", "captions"), rows, left=("id", "captions"))


def ordered(captions: dict[str, list[str]], first: Sequence[str]) -> list[tuple[str, str]]:
    """(language, caption), those in the `first` languages before the others."""
    place = {language: number for number, language in enumerate(dict.fromkeys(first))}
    pairs = [(language, caption) for language, each in captions.items() for caption in each]
    return sorted(pairs, key=lambda pair: place.get(pair[0], len(place)))
