"""Picture stories as a relation task: is this text the picture's page, another page of its story, or another story?"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence, Set
from pathlib import Path

from datamodules.packing.manifests import read_jsonl
from datamodules.packing.rows import Row
from datamodules.shards.writing import BadRow

MATCHES = ("page", "story", "other")  # label "match" 0 to 2
LITERAL = "-x-literal"  # a private subtag of BCP 47: what the picture shows in plain words, which no story says


def read_stories(source: str | Path, *, seed: int = 0) -> Iterator[Row | BadRow]:
    """Three posts of every page of a manifest of stories: its picture with its own text, with that of another page of
    its story, and with that of a page of another story; label "match" 0, 1 and 2.

    The manifest is JSON Lines as `read_jsonl` reads it, each row with a "story". The other pages are drawn from those
    of the same split that have another picture and at least one of the page's languages. A page's three texts come in
    the same languages, so neither the picture nor the language tells the label. "image_description" ({language:
    text}, a literal description) counts as captions in <language>-x-literal; pages that have one draw among such
    pages, so that it is labelled as evenly.

    Args:
        source: The manifest, which is held in memory.
        seed: Of the draws; they do not depend on the order of the rows.

    A page whose story has no other such page is a BadRow, as is a row without a story.
    """
    pages: list[Row] = []
    for row in read_jsonl(source):
        if isinstance(row, BadRow):
            yield row
        elif not isinstance(row.record.get("story"), str | int) or not isinstance(row.record.get("captions"), dict):
            yield BadRow("no story" if "story" not in row.record else "no captions", f"row {row.number + 1}")
        elif not isinstance(described := row.record.pop("image_description", None) or {}, dict):
            yield BadRow("image_description is no object of texts by language", f"row {row.number + 1}")
        else:
            literal = {f"{language}{LITERAL}": text for language, text in described.items()}
            row.record["captions"] |= literal
            pages.append(row)
    pages.sort(key=lambda row: str(row.record.get("id")))
    by_story: dict[tuple, list[Row]] = {}
    by_split: dict[object, list[Row]] = {}
    for page in pages:
        split, story = page.record.get("split"), page.record["story"]
        by_story.setdefault((split, story), []).append(page)
        by_split.setdefault(split, []).append(page)
    for group, members in (by_story | by_split).items():
        random.Random(f"{seed}/{group}").shuffle(members)
    for page in pages:
        split, story = page.record.get("split"), page.record["story"]
        draw = random.Random(f"{seed}/{split}/{page.record.get('id')}")
        same = _drawn(page, by_story[split, story], page.record["captions"].keys(), draw)
        # with a language that the first two have in common, so that there is one of all three
        shared = page.record["captions"].keys() & same.record["captions"].keys() if same else set()
        other = _drawn(page, by_split[split], shared, draw, unlike=story)
        if same is None or other is None:
            yield BadRow("no other page to compare with", f"row {page.number + 1} ({page.record.get('id')})")
        else:
            yield from _posts(page, (page, same, other))


def _drawn(
    page: Row, pages: Sequence[Row], languages: Set[str], draw: random.Random, unlike: object = None
) -> Row | None:
    """A page with another picture and one of the languages, of any story but `unlike`."""
    start = draw.randrange(len(pages))
    for place in range(start, start + len(pages)):  # pages were shuffled: the first that fits is a fair draw
        other = pages[place % len(pages)]
        if (
            other.images != page.images
            and other.record["story"] != unlike
            and _described(other) == _described(page)
            and languages & other.record["captions"].keys()
        ):
            return other
    return None


def _described(page: Row) -> bool:
    return any(code.endswith(LITERAL) for code in page.record["captions"])


def _posts(page: Row, texts: tuple[Row, Row, Row]) -> Iterator[Row]:
    languages = [code for code in page.record["captions"] if all(code in text.record["captions"] for text in texts)]
    kept = {key: value for key, value in page.record.items() if key != "captions"}
    for match, text in enumerate(texts):
        record = kept | {
            "id": f"{page.record.get('id')}-{MATCHES[match]}",
            "text_of": text.record.get("id"),
            "captions": {code: text.record["captions"][code] for code in languages},
            "labels": {"match": match},
        }
        yield Row(page.number, record, page.images)
