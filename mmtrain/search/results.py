"""A query to an index, and its results."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmtrain.display.messages import printable, say
from mmtrain.display.tables import print_table
from mmtrain.models.foreign import is_foreign
from mmtrain.search.items import Item

SHOWN = 4  # captions of a result in the terminal
OPEN_CAPTIONS = 3  # of a result in a page; the others unfold
QUERY_SIDE = 320  # pixels of the longer side of the picture that asks, in a page
TEMPLATE = Path(__file__).with_name("results.html.jinja")


@dataclass(frozen=True)
class FoundWord:
    """Where one word of a query is found in a picture.

    Attributes:
        score: The mean over its tokens of the largest product with a patch's row.
        patch: The column and the row of the patch that is nearest to it.
        heat: A PNG data URI, a pixel a patch, the more opaque the nearer to the word.
        colour: Of the picture's marks.
    """

    word: str
    score: float
    patch: tuple[int, int]
    heat: str
    colour: str


@dataclass(frozen=True)
class Found:
    """Which words of a query found which patches of a picture.

    Attributes:
        side: Patches in a row and in a column.
        place: left, top, width and height of what the model saw, in percent of the picture.
    """

    side: int
    place: tuple[float, float, float, float]
    words: list[FoundWord]


@dataclass(frozen=True)
class Result:
    """One image that answers a query, and where its words are, if that is known."""

    score: float
    item: Item
    found: Found | None = None


@dataclass(frozen=True)
class Query:
    """A text, files of images, files of further modalities by name, or several of them."""

    text: str | None = None
    language: str | None = None
    images: tuple[Path, ...] = ()
    features: dict[str, Path] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """In a line."""
        return " + ".join([*filter(None, [self.text]), *map(str, (*self.images, *self.features.values()))])


def print_json(query: Query, results: list[Result]) -> None:
    """{"query": {...}, "results": [{"rank", "score", "id", "captions": {language: [...]}}]}."""
    fields: dict[str, object] = {
        "text": query.text,
        "language": query.language,
    }
    if files := list(map(str, query.images)):
        fields["image"] = files[0] if len(files) == 1 else files
    if query.features:
        fields["features"] = {name: str(file) for name, file in query.features.items()}
    fields = {name: value for name, value in fields.items() if value is not None}
    content = {"query": fields, "results": as_json(results)}
    text = json.dumps(content, ensure_ascii=False, indent=1)
    say(text if text == printable(text) else json.dumps(content, indent=1))


def print_results(query: Query, results: list[Result], images: int, first: Sequence[str]) -> None:
    """A table for a terminal; captions in the `first` languages before the others."""
    rows = []
    for result in results:
        captions = ordered(result.item.captions, first)
        lines = [f"{language}: {caption}" for language, caption in captions[:SHOWN]]
        if len(captions) > SHOWN:
            lines.append(f"and {len(captions) - SHOWN} more")
        rows.append([f"{result.score:.3f}", result.item.id, "\n".join(lines)])
    title = f"{query.name} in {images:,} pictures"
    print_table(title, ("score", "id", "captions"), rows, left=("id", "captions"))


def as_json(results: Sequence[Result]) -> list[dict[str, Any]]:
    """[{"rank", "score", "id", "captions": {language: [...]}}]."""
    return [
        {"rank": rank, "score": result.score, "id": result.item.id, "captions": result.item.captions}
        for rank, result in enumerate(results, 1)
    ]


def write_results(
    path: Path, query: Query, results: list[Result], description: dict[str, Any], first: Sequence[str]
) -> None:
    """Writes one HTML file, whole or not at all; `description` is index.json of the index."""
    from mmtrain.display.html import data_uri, picture_uri, write_page

    images = [None if file.suffix == ".npy" else picture_uri(file.read_bytes(), QUERY_SIDE) for file in query.images]

    def picture(item: Item) -> str:
        return data_uri(item.thumbnail, "image/jpeg")

    named = description | {"model": model_name(description["model"])}
    values = page_values(results, named, first, picture)
    write_page(path, TEMPLATE, title=query.name, query=query, images=images, **values)


def model_name(model: str) -> str:
    """MODEL without the folders of this machine, for pages and answers that others see."""
    name = model.split(":", 1)[1] if is_foreign(model) else model
    return Path(name).name or "model"


def page_values(
    results: Sequence[Result], description: dict[str, Any], first: Sequence[str], picture: Callable[[Item], str]
) -> dict[str, Any]:
    """What `TEMPLATE` shows of results; `picture` gives the address of an item's picture."""
    cards = [(result, picture(result.item), ordered(result.item.captions, first)) for result in results]
    return {"results": cards, "index": description, "open_captions": OPEN_CAPTIONS}


def ordered(captions: dict[str, list[str]], first: Sequence[str]) -> list[tuple[str, str]]:
    """(language, caption), those in the `first` languages before the others."""
    place = {language: number for number, language in enumerate(dict.fromkeys(first))}
    pairs = [(language, caption) for language, each in captions.items() for caption in each]
    return sorted(pairs, key=lambda pair: place.get(pair[0], len(place)))
