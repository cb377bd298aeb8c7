"""The embedded corpus: handwritten numbers and their words in some fifty languages; real, small, no download.

Pictures are numbers from 0 to 999 set from scikit-learn's scans of handwritten digits, captions are num2words' words.
Training, validation and test share neither numbers nor scans, so that a model must compose what it has not seen.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from num2words import CONVERTER_CLASSES, num2words
from PIL import Image
from sklearn.datasets import load_digits

from datamodules.shards.encoding import encoded_sample
from datamodules.shards.writing import write_shards

SPLITS = ("train", "val", "test")
SCANS = {"train": slice(0, 1200), "val": slice(1200, 1400), "test": slice(1400, None)}
HELD_OUT = {"val": 100, "test": 200}
RENDERINGS = {"train": 16, "val": 1, "test": 1}  # pictures of each number, every one of other scans
SIDE, DIGIT = 64, 20  # pixels
SAMPLES_PER_SHARD = 1000

# BCP 47 writes kk and a hyphen; regional variants with the words of their main language are left out
_SAME_WORDS = {"en_IN", "en_NG", "es_CO", "es_CR", "es_GT", "es_NI", "es_VE", "fr_DZ"}
LANGUAGES: dict[str, str] = {
    {"kz": "kk"}.get(name, name.replace("_", "-")): name
    for name in sorted(CONVERTER_CLASSES)
    if name not in _SAME_WORDS
}


@functools.cache
def numbers_of(split: str) -> list[int]:
    """The numbers of a split, ascending: 700 train, 100 val, 200 test, disjoint."""
    if split not in SPLITS:
        raise ValueError(f"split: {split!r} is unknown; {', '.join(SPLITS)}")
    # 0 is always trained: its word is in no other number, so nothing could compose it
    shuffled = np.random.RandomState(0).permutation(np.arange(1, 1000)).tolist()
    val, test = HELD_OUT["val"], HELD_OUT["test"]
    parts = {"test": shuffled[:test], "val": shuffled[test : test + val], "train": [0, *shuffled[test + val :]]}
    return sorted(parts[split])


@functools.cache
def words(language: str) -> tuple[str, ...]:
    """The words for 0 to 999 in a language (a code of LANGUAGES)."""
    return tuple(num2words(number, lang=LANGUAGES[language]).strip() for number in range(1000))


def picture(digits: str, split: str, seed: Sequence[int]) -> np.ndarray:
    """uint8 [64, 64]: up to three digits side by side, units at the right, dark on white, from the split's scans."""
    random = np.random.RandomState(np.array(seed, np.uint32))
    page = np.full((SIDE, SIDE), 255, np.uint8)
    top = (SIDE - DIGIT) // 2 + random.randint(-8, 9)
    page[top : top + DIGIT] = digits_row(digits, split, random)
    return page


def digits_row(digits: str, split: str, random: np.random.RandomState) -> np.ndarray:
    """uint8 [20, 64]: the digits alone, each a scan drawn at random."""
    row = np.full((DIGIT, SIDE), 255, np.uint8)
    for column, digit in enumerate(digits.rjust(3)):
        if digit != " ":
            scans = _scans(split)[int(digit)]
            left = 1 + column * (DIGIT + 1)
            row[:, left : left + DIGIT] = scans[random.randint(len(scans))]
    return row


def pack_numbers(
    out: str | Path,
    split: str,
    languages: Sequence[str] | None = None,
    *,
    renderings: int | None = None,
    samples_per_shard: int = SAMPLES_PER_SHARD,
    workers: int = 1,
) -> dict:
    """Writes one split as shards; returns what shards.json says.

    Args:
        out: Folder for the shards.
        split: train, val or test.
        languages: Codes of LANGUAGES, e.g. ["en", "lv"]; default all.
        renderings: Pictures of each number; default 16 to train on, 1 otherwise.
        samples_per_shard: Samples that make one shard.
        workers: Processes.
    """
    numbers = numbers_of(split)
    languages = check_languages(languages)
    renderings = RENDERINGS[split] if renderings is None else renderings
    for name, value in (("renderings", renderings), ("samples_per_shard", samples_per_shard)):
        if value < 1:
            raise ValueError(f"{name}: {value} is too few; at least 1")
    places = [[number, rendering] for rendering in range(renderings) for number in numbers]
    tasks = [
        {"split": split, "languages": languages, "first": first, "places": places[first : first + samples_per_shard]}
        for first in range(0, len(places), samples_per_shard)
    ]
    return write_shards(out, tasks, _samples, workers=workers, total=len(places), title=f"packing numbers ({split})")


def check_languages(languages: Sequence[str] | None) -> list[str]:
    """The languages, all of LANGUAGES for None. Raises ValueError for one without number words."""
    for language in languages or ():
        if language not in LANGUAGES:
            raise ValueError(f"languages: {language!r} has no number words; {', '.join(sorted(LANGUAGES))}")
    return list(languages or sorted(LANGUAGES))


def _samples(task: dict) -> Iterator[dict]:
    split = task["split"]
    for place, (number, rendering) in enumerate(task["places"], start=task["first"]):
        record = {
            "id": f"{split}-{number:03d}-{rendering:02d}",
            "split": split,
            "number": number,
            "captions": {language: words(language)[number] for language in task["languages"]},
        }
        page = picture(str(number), split, (SPLITS.index(split), number, rendering))
        yield encoded_sample(place, record, png(page))


def png(page: np.ndarray) -> bytes:
    """A page uint8 [H, W], or of colours [H, W, 3], as an RGB image, encoded."""
    encoded = io.BytesIO()
    Image.fromarray(page).convert("RGB").save(encoded, "PNG")
    return encoded.getvalue()


@functools.cache
def _scans(split: str) -> list[np.ndarray]:
    """For each digit its scans, dark on white and enlarged: uint8 [n, 20, 20]."""
    digits = load_digits()
    images, labels = digits.images[SCANS[split]], digits.target[SCANS[split]]
    pages = [Image.fromarray((255 - image * (255 / 16)).astype(np.uint8)) for image in images]
    large = np.stack([np.asarray(page.resize((DIGIT, DIGIT), Image.Resampling.BICUBIC)) for page in pages])
    return [large[labels == digit] for digit in range(10)]
