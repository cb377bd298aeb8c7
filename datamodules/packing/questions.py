"""Questions from captions: a caption, or a sentence of it, asks for its picture or page."""

from __future__ import annotations

import json
import random
import re
from collections import defaultdict
from collections.abc import Collection, Iterable
from hashlib import blake2b
from pathlib import Path
from typing import Any

from datamodules.files import write_whole
from datamodules.shards.samples import Sample

SENTENCE = re.compile(r"""\S.*?(?:[.!?…]+["'”’»)\]]*(?=\s|$)|[。！？।॥።؟۔]["'”’»)\]]*|$)""", re.DOTALL)
SHORTEST = 8  # characters of a sentence that may ask, where there is a longer one


def caption_questions(
    samples: Iterable[Sample],
    *,
    languages: Collection[str] | None = None,
    sentence: bool = False,
    per_language: int | None = None,
    seed: int = 0,
) -> tuple[list[dict[str, Any]], float]:
    """Lines of a question file, in the order of the samples, and the share of right items that chance finds first.

    What a page shows does not ask: captions in the "language" of its "text" are left out. A question looks in the
    record's "pool" where it has one. Right are all items there that its text is a caption of, all pages of the same
    row, and all items with the same picture.

    Args:
        samples: The items.
        languages: Of the captions that ask; default: all.
        sentence: One sentence of each caption asks, drawn by the seed, in place of the whole.
        per_language: The most questions of a language, drawn by the seed; default: all.
        seed: Of the draws, which do not depend on the order of samples.
    """
    asked: dict[tuple[str | None, str, str], dict[str, Any]] = {}  # by pool, language and text
    right: dict[tuple[str | None, str, str], dict[str, int]] = defaultdict(dict)
    looks_like: dict[tuple[str | None, int], list[str]] = defaultdict(list)  # items of a pool by picture
    sizes: dict[str | None, int] = defaultdict(int)
    seen: set[str] = set()
    for sample in samples:
        if sample.id in seen:  # the first of an id is the item
            continue
        seen.add(sample.id)
        pool, shown = _pool(sample.record), sample.record.get("language") if "text" in sample.record else None
        sizes[pool] += 1
        looks_like[pool, sample.image_id].append(sample.id)
        for language, captions in sample.captions.items():
            if (languages is not None and language not in languages) or language == shown:
                continue
            for number, caption in enumerate(captions):
                row = sample.record.get("row", sample.id)
                text = _sentence(caption, f"{seed}/{row}/{language}/{number}") if sentence else caption
                id = f"{sample.id}/{language}" + (f"/{number}" if number else "")
                asked.setdefault((pool, language, text), {"id": id, "text": text, "language": language})
                right[pool, language, text][sample.id] = sample.image_id
    chosen = _drawn(asked.values(), per_language, seed)
    questions, chances = [], []
    for key, question in asked.items():
        if question["id"] in chosen:
            pool = key[0]
            items = [item for id, image in right[key].items() for item in (id, *looks_like[pool, image])]
            relevant = dict.fromkeys(items, 1)
            chances.append(len(relevant) / sizes[pool])
            questions.append(question | {"relevant": relevant} | ({"pool": pool} if pool is not None else {}))
    return questions, sum(chances) / max(len(chances), 1)


def write_questions(questions: Iterable[dict[str, Any]], out: str | Path) -> Path:
    """Writes a question file: `out` where it ends in .jsonl, else questions.jsonl in that folder."""
    path = Path(out) if Path(out).suffix == ".jsonl" else Path(out) / "questions.jsonl"
    write_whole(path, "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in questions))
    return path


def _pool(record: dict[str, Any]) -> str | None:
    names = record.get("pool")
    names = [names] if isinstance(names, str) else names or []
    return next(iter(names), None)


def _sentence(text: str, seed: str) -> str:
    sentences = [each.strip() for each in SENTENCE.findall(text)]
    longer = [each for each in sentences if len(each) >= SHORTEST]
    return random.Random(seed).choice(longer or sentences or [text])


def _drawn(questions: Iterable[dict[str, Any]], most: int | None, seed: int) -> set[str]:
    """The ids of at most so many questions of each language."""
    by_language: dict[str, list[str]] = defaultdict(list)
    for question in questions:
        by_language[question["language"]].append(question["id"])
    return {id for ids in by_language.values() for id in sorted(ids, key=lambda id: _order(seed, id))[:most]}


def _order(seed: int, id: str) -> bytes:
    return blake2b(f"{seed}/{id}".encode(), digest_size=8).digest()
