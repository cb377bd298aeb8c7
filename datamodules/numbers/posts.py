"""Relation posts from the numbers corpus: what a text says about its picture, decided by two sets.

The picture shows a set I of one or two numbers, the text states a set T of one or two, in every language alike. The
text is represented when T is within I; the image adds when I is not within T. So there are four classes: the sets are
equal, the text's is smaller, the image's is smaller, or neither lies within the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.numbers.corpus import (
    SAMPLES_PER_SHARD,
    SIDE,
    SPLITS,
    check_languages,
    digits_row,
    numbers_of,
    png,
    words,
)
from datamodules.shards.encoding import encoded_sample
from datamodules.shards.writing import write_shards

RELATIONS = ("equal", "text smaller", "image smaller", "neither")  # label "relation" 0 to 3
# (numbers in the picture, numbers in the text) -> the relations possible; each pair of sizes comes as often as any
# other, and within it each relation, so that counting the numbers gives away as little as it can
POSSIBLE = {(1, 1): (0, 3), (1, 2): (2, 3), (2, 1): (1, 3), (2, 2): (0, 3)}
POSTS = {"train": 8000, "val": 800, "test": 1600}


def pack_posts(
    out: str | Path,
    split: str,
    languages: Sequence[str] | None = None,
    *,
    posts: int | None = None,
    equal: bool = False,
    samples_per_shard: int = SAMPLES_PER_SHARD,
    workers: int = 1,
) -> dict:
    """Writes a split's posts as shards; returns what shards.json says.

    Each sample has labels {"represented": 0|1, "adds": 0|1, "relation": 0..3} (0 equal, 1 text smaller, 2 image
    smaller, 3 neither), numbers and scans of the split only, and the two sets as "image_numbers" and "text_numbers".

    Args:
        out: Folder for the shards.
        split: train, val or test.
        languages: Codes of numbers.LANGUAGES; default all.
        posts: How many, rounded down to a multiple of 8; default 8,000, 800 or 1,600.
        equal: Only posts whose text says exactly what the picture shows, and without labels: pairs to pretrain on, of
            one number and of two.
        samples_per_shard: Samples that make one shard.
        workers: Processes.
    """
    numbers_of(split)  # names a wrong split
    languages = check_languages(languages)
    posts = (POSTS[split] if posts is None else posts) // 8 * 8
    if posts < 8 or samples_per_shard < 1:
        raise ValueError(f"posts, samples_per_shard: {posts}, {samples_per_shard} are too few; at least 8 and 1")
    step, last = (4 * samples_per_shard, 4 * posts) if equal else (samples_per_shard, posts)  # a quarter are equal
    tasks = [
        {"split": split, "languages": languages, "equal": equal, "first": first, "end": min(first + step, last)}
        for first in range(0, last, step)
    ]
    return write_shards(out, tasks, _samples, workers=workers, total=posts, title=f"packing posts ({split})")


def post(split: str, number: int) -> tuple[list[int], list[int], int]:
    """(numbers in the picture, numbers in the text, relation) of a post; 8 following posts have every case once."""
    cases = [(sizes, relation) for sizes, possible in POSSIBLE.items() for relation in possible]
    (pictured, stated), relation = cases[number % len(cases)]
    random = _random(split, number, 0)
    a, b, c, d = random.choice(numbers_of(split), 4, replace=False).tolist()
    image = [a, b][:pictured]
    if relation == 0:
        text = image
    elif relation == 1:
        text = [image[random.randint(2)]]
    elif relation == 2:
        text = [a, c]
    elif (pictured, stated) == (2, 2) and random.randint(2):
        text = [image[random.randint(2)], c]  # half of these share one number: overlapping is not being within
    else:
        text = [c, d][:stated]
    return image, [text[i] for i in random.permutation(len(text))], relation


def _samples(task: dict) -> Iterator[dict]:
    split = task["split"]
    for number in range(task["first"], task["end"]):
        image, text, relation = post(split, number)
        if task["equal"] and RELATIONS[relation] != "equal":
            continue
        record: dict[str, Any] = {
            "id": f"{split}-post-{number:05d}",
            "split": split,
            "image_numbers": image,
            "text_numbers": text,
            "captions": {code: ", ".join(words(code)[stated] for stated in text) for code in task["languages"]},
        }
        if not task["equal"]:
            adds, represented = int(relation in (1, 3)), int(relation in (0, 1))
            record["labels"] = {"represented": represented, "adds": adds, "relation": relation}
        yield encoded_sample(number, record, png(_page(image, split, _random(split, number, 1))))


def _page(numbers: Sequence[int], split: str, random: np.random.RandomState) -> np.ndarray:
    """uint8 [64, 64]: one number in the middle, or two, one above the other."""
    page = np.full((SIDE, SIDE), 255, np.uint8)
    heights = [SIDE // 2] if len(numbers) == 1 else [SIDE // 4, 3 * SIDE // 4]
    for number, middle in zip(numbers, heights, strict=True):
        row = digits_row(str(number), split, random)
        top = middle - len(row) // 2 + random.randint(-4, 5)
        page[top : top + len(row)] = row
    return page


def _random(split: str, number: int, purpose: int) -> np.random.RandomState:
    return np.random.RandomState(np.array((len(SPLITS) + SPLITS.index(split), number, purpose), np.uint32))
