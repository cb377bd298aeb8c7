"""Three modalities from the numbers corpus, of which it takes two to know the third.

After Symile-M3 (Saporta et al., NeurIPS 2024): a text says w numbers, one a language; the "audio" tells a language and
nothing else; the picture shows the number that is said in that language. Both are features, as they are there.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from datamodules.numbers.corpus import (
    DIGIT,
    RENDERINGS,
    SAMPLES_PER_SHARD,
    SPLITS,
    check_languages,
    digits_row,
    numbers_of,
    words,
)
from datamodules.shards.encoding import encoded_sample
from datamodules.shards.writing import write_shards

GREY = (24, 8)  # columns and rows of a picture's features
NOISE = 0.1  # standard deviation of the audio's features
TEXT_LANGUAGE = "mul"  # several


def pack_spoken(
    out: str | Path,
    split: str,
    languages: Sequence[str],
    *,
    renderings: int | None = None,
    samples_per_shard: int = SAMPLES_PER_SHARD,
    workers: int = 1,
) -> dict:
    """Writes a split's texts, audio and pictures as shards; returns what shards.json says.

    The w samples of a text follow one another, each with a picture and the audio of one language: <key>.npy, float32
    [192], the three digits in 8 x 24 grey values, and <key>.audio.npy, float32 [w], a one-hot vector with noise. All
    numbers of the split come once in each rendering, but for those that w does not divide.

    Args:
        out: Folder for the shards.
        split: train, val or test.
        languages: The w codes of numbers.LANGUAGES, two or more.
        renderings: Pictures of each number; default 16 to train on, 1 otherwise.
        samples_per_shard: Samples that make one shard, rounded down to whole texts.
        workers: Processes.
    """
    numbers, languages = numbers_of(split), check_languages(languages)
    renderings = RENDERINGS[split] if renderings is None else renderings
    w, texts = len(languages), samples_per_shard // max(len(languages), 1)
    if w < 2 or renderings < 1 or texts < 1:
        raise ValueError(
            f"languages, renderings, samples_per_shard: {w}, {renderings}, {samples_per_shard} are too few;"
            f" at least 2, 1 and {w}"
        )
    groups = []
    for rendering in range(renderings):
        random = np.random.RandomState(np.array((SPLITS.index(split), rendering), np.uint32))
        order = random.permutation(numbers)[: len(numbers) // w * w].tolist()
        groups += [[rendering, order[first : first + w]] for first in range(0, len(order), w)]
    tasks = [
        {"split": split, "languages": languages, "first": first * w, "groups": groups[first : first + texts]}
        for first in range(0, len(groups), texts)
    ]
    return write_shards(out, tasks, _samples, workers=workers, total=len(groups) * w, title=f"packing spoken ({split})")


def _samples(task: dict) -> Iterator[dict]:
    split, languages, place = task["split"], task["languages"], task["first"]
    for rendering, group in task["groups"]:
        text = ", ".join(words(language)[number] for language, number in zip(languages, group, strict=True))
        for slot, number in enumerate(group):
            record = {
                "id": f"{split}-{number:03d}-{rendering:02d}",
                "split": split,
                "number": number,
                "spoken": languages[slot],
                "captions": {TEXT_LANGUAGE: text},
            }
            random = np.random.RandomState(np.array((SPLITS.index(split), number, rendering), np.uint32))
            sound = np.eye(len(languages))[slot] + NOISE * random.standard_normal(len(languages))
            image = _features(digits_row(str(number), split, random))
            yield encoded_sample(place, record, _npy(image), "npy", {"audio.npy": _npy(sound)})
            place += 1


def _features(row: np.ndarray) -> np.ndarray:
    small = Image.fromarray(row[:, 1 : 1 + 3 * (DIGIT + 1)]).resize(GREY, Image.Resampling.BOX)
    return 1 - np.asarray(small, np.float32).ravel() / 255


def _npy(features: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, features.astype(np.float32))
    return file.getvalue()
