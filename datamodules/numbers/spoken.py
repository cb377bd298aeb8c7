"""Three modalities from the numbers corpus, of which it takes two to know the third.

After Symile-M3 (Saporta et al., NeurIPS 2024): a text says w numbers, one a language; the "audio" tells a language and
nothing else; the picture shows the number that is said in that language.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from datamodules.numbers.corpus import (
    RENDERINGS,
    SAMPLES_PER_SHARD,
    SPLITS,
    check_languages,
    numbers_of,
    picture,
    png,
    words,
)
from datamodules.shards.encoding import encoded_sample
from datamodules.shards.writing import write_shards

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

    The w samples of a text follow one another, each with its own picture and the audio of one language:
    <key>.audio.npy, float32 [w], a one-hot vector with noise. All numbers of the split come once in each rendering, but
    for those that w does not divide.

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
    return write_shards(out, tasks, _samples, workers=workers, total=len(tasks), title=f"packing spoken ({split})")


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
            page = picture(str(number), split, (SPLITS.index(split), number, rendering))
            yield encoded_sample(place, record, png(page), files={"audio.npy": _audio(slot, len(languages), place)})
            place += 1


def _audio(slot: int, languages: int, place: int) -> bytes:
    random, file = np.random.RandomState(place), io.BytesIO()
    np.save(file, (np.eye(languages)[slot] + NOISE * random.standard_normal(languages)).astype(np.float32))
    return file.getvalue()
