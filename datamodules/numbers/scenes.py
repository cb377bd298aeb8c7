"""Scenes from the numbers corpus: pages with numbers at places, captions that name both, and what lies where."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from datamodules.numbers.corpus import DIGIT, SAMPLES_PER_SHARD, SPLITS, digits_row, numbers_of, png, words
from datamodules.shards.encoding import encoded_sample
from datamodules.shards.writing import write_shards

PAGE = 96  # pixels
HALF = PAGE // 2
SCENES = {"train": 8000, "val": 400, "test": 800}
# top left, top right, bottom left, bottom right
PLACES = {
    "de": ("oben links", "oben rechts", "unten links", "unten rechts"),
    "en": ("top left", "top right", "bottom left", "bottom right"),
    "es": ("arriba a la izquierda", "arriba a la derecha", "abajo a la izquierda", "abajo a la derecha"),
    "fr": ("en haut à gauche", "en haut à droite", "en bas à gauche", "en bas à droite"),
    "lv": ("augšā pa kreisi", "augšā pa labi", "apakšā pa kreisi", "apakšā pa labi"),
    "ru": ("вверху слева", "вверху справа", "внизу слева", "внизу справа"),
}


def pack_scenes(
    out: str | Path,
    split: str,
    languages: Sequence[str] | None = None,
    *,
    scenes: int | None = None,
    samples_per_shard: int = SAMPLES_PER_SHARD,
    workers: int = 1,
) -> dict:
    """Writes a split's scenes as shards; returns what shards.json says.

    A page of 96 pixels shows two or three of the split's numbers below 100, each somewhere in a quarter of its own; the
    caption names them and their quarters. Each sample has the label "numbers", 2 or 3, and {"places": {"digit": [[d, x,
    y], ...]}}, the middle of each digit d in shares of the page.

    Args:
        out: Folder for the shards.
        split: train, val or test.
        languages: Codes of PLACES; default: de, en and lv.
        scenes: How many; default 8,000, 400 or 800.
        samples_per_shard: Samples that make one shard.
        workers: Processes.
    """
    numbers_of(split)  # names a wrong split
    scenes = SCENES[split] if scenes is None else scenes
    if scenes < 1 or samples_per_shard < 1:
        raise ValueError(f"scenes, samples_per_shard: {scenes}, {samples_per_shard} are too few; at least 1")
    languages = ["de", "en", "lv"] if languages is None else list(languages)
    for language in languages:
        if language not in PLACES:
            raise ValueError(f"languages: {language!r} has no words for places; {', '.join(PLACES)}")
    tasks = [
        {"split": split, "languages": languages, "first": first, "end": min(first + samples_per_shard, scenes)}
        for first in range(0, scenes, samples_per_shard)
    ]
    return write_shards(out, tasks, _samples, workers=workers, total=scenes, title=f"packing scenes ({split})")


def _samples(task: dict) -> Iterator[dict]:
    split = task["split"]
    pool = [number for number in numbers_of(split) if number < 100]
    for scene in range(task["first"], task["end"]):
        random = np.random.RandomState(np.array((2 * len(SPLITS) + SPLITS.index(split), scene), np.uint32))
        count = 2 + random.randint(2)
        numbers = random.choice(pool, count, replace=False).tolist()
        quarters = sorted(random.permutation(4)[:count].tolist())
        page = np.full((PAGE, PAGE), 255, np.uint8)
        digits = [
            place
            for number, quarter in zip(numbers, quarters, strict=True)
            for place in _write(page, str(number), quarter, split, random)
        ]
        record = {
            "id": f"{split}-scene-{scene:05d}",
            "split": split,
            "numbers": numbers,
            "captions": {
                code: ", ".join(
                    f"{words(code)[number]} {PLACES[code][quarter]}"
                    for number, quarter in zip(numbers, quarters, strict=True)
                )
                for code in task["languages"]
            },
            "labels": {"numbers": count},
            "places": {"digit": digits},
        }
        yield encoded_sample(scene, record, png(page))


def _write(
    page: np.ndarray, digits: str, quarter: int, split: str, random: np.random.RandomState
) -> list[tuple[int, float, float]]:
    """Writes a number of one or two digits somewhere in a quarter: each digit, and the middle of it."""
    width = len(digits) * (DIGIT + 1)
    left = quarter % 2 * HALF + random.randint(HALF - width + 1)
    top = quarter // 2 * HALF + random.randint(HALF - DIGIT + 1)
    page[top : top + DIGIT, left : left + width] = digits_row(digits, split, random)[:, -width:]
    middles = [left + place * (DIGIT + 1) + DIGIT / 2 for place in range(len(digits))]
    return [(int(digit), x / PAGE, (top + DIGIT / 2) / PAGE) for digit, x in zip(digits, middles, strict=True)]
