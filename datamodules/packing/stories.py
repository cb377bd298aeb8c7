"""Picture stories as a relation task: is this text the image's page, another page of its story, or another story?"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Set
from pathlib import Path

from datamodules.packing.manifests import read_jsonl
from datamodules.packing.rows import Row
from datamodules.shards.encoding import BadRow
from datamodules.shards.samples import without_missing

MATCHES = ("page", "story", "other")  # label "match" 0 to 2
LITERAL = "-x-literal"  # a private subtag of BCP 47: what the image shows in plain words, which no story says


def read_stories(source: str | Path, *, seed: int = 0) -> Iterator[Row | BadRow]:
    """Three posts of every page of a manifest of stories: its image with its own text, with that of another page of
    its story, and with that of a page of another story; label "match" 0, 1 and 2.

    The manifest is JSON Lines as `read_jsonl` reads it, each row with a "story". The other pages are drawn from those
    of the same split that have another image and at least one of the page's languages. A page's three texts are in
    the same languages, so that neither image nor language tells the label. "image_description" ({language: text}, a
    literal description) counts as captions in <language>-x-literal; pages with one are compared with such pages only.

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
        elif not isinstance(literal := row.record.pop("image_description", None) or {}, dict):
            yield BadRow("image_description is no object of texts by language", f"row {row.number + 1}")
        else:
            captions = row.record["captions"] | {f"{language}{LITERAL}": text for language, text in literal.items()}
            pages.append(row._replace(record=row.record | {"captions": without_missing(captions)}))
    pages.sort(key=lambda row: str(row.record.get("id")))
    groups: dict[object, list[Row]] = {}  # pages by (split, story), and by split
    for page in pages:
        split = page.record.get("split")
        for group in ((split, page.record["story"]), split):
            groups.setdefault(group, []).append(page)
    drawn = {group: _Pages(random.Random(f"{seed}/{group}"), members) for group, members in groups.items()}
    for page in pages:
        split, story, languages = page.record.get("split"), page.record["story"], page.record["captions"].keys()
        rng = random.Random(f"{seed}/{split}/{page.record.get('id')}")
        same = drawn[split, story].other_than(page, languages, rng)
        # in a language of the first two pages, so that all three texts have one in common
        shared = languages & same.record["captions"].keys() if same else set()
        other = drawn[split].other_than(page, shared, rng, story) if shared else None
        if same is None or other is None:
            yield BadRow("no other page to compare with", f"row {page.number + 1} ({page.record.get('id')})")
        else:
            yield from _posts(page, (page, same, other))


class _Pages:
    """Pages in an order drawn at random, so that the first that fits, from any place on, is a fair draw."""

    def __init__(self, rng: random.Random, pages: list[Row]) -> None:
        rng.shuffle(pages)
        self._pages = pages
        self._places: dict[tuple[str, bool], list[int]] = defaultdict(list)  # of the pages that have a language
        for place, page in enumerate(pages):
            for language in page.record["captions"]:
                self._places[language, _has_literal(page)].append(place)

    def other_than(self, page: Row, languages: Set[str], rng: random.Random, not_story: object = None) -> Row | None:
        """A page with another image and one of the languages, of any story but `not_story`."""
        count, nearest = len(self._pages), []
        start = rng.randrange(count)
        for language in languages:
            places = self._places.get((language, _has_literal(page)), [])
            first = bisect_left(places, start)
            for number in range(first, first + len(places)):
                other = self._pages[places[number % len(places)]]
                if other.images != page.images and other.record["story"] != not_story:
                    nearest.append((places[number % len(places)] - start) % count)
                    break
        return self._pages[(start + min(nearest)) % count] if nearest else None


def _has_literal(page: Row) -> bool:
    return any(code.endswith(LITERAL) for code in page.record["captions"])


def _posts(page: Row, texts: tuple[Row, Row, Row]) -> Iterator[Row]:
    languages = [code for code in page.record["captions"] if all(code in text.record["captions"] for text in texts)]
    shared = {key: value for key, value in page.record.items() if key != "captions"}
    for match, text in enumerate(texts):
        record = shared | {
            "id": f"{page.record.get('id')}-{MATCHES[match]}",
            "text_of": text.record.get("id"),
            "captions": {code: text.record["captions"][code] for code in languages},
            "labels": {"match": match},
        }
        yield Row(page.number, record, page.images)
