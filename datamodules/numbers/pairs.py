"""Text pairs from the numbers corpus: a number in one language and in another, beside numbers much like it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from datamodules.numbers.corpus import SAMPLES_PER_SHARD, check_languages, numbers_of, words
from datamodules.shards.encoding import encoded_sample
from datamodules.shards.writing import write_shards


def pack_pairs(
    out: str | Path,
    split: str,
    languages: Sequence[str],
    *,
    samples_per_shard: int = SAMPLES_PER_SHARD,
    workers: int = 1,
) -> dict:
    """Writes a split's translation pairs as shards; returns what shards.json says.

    Each number of the split is a query in the first language, with a positive in each further one, a sample each. Its
    "negatives" are the numbers of the split that differ from it in one digit, in the language of the positive.

    Args:
        out: Folder for the shards.
        split: train, val or test.
        languages: Codes of numbers.LANGUAGES, two or more.
        samples_per_shard: Samples that make one shard.
        workers: Processes.
    """
    numbers = numbers_of(split)
    source, *targets = check_languages(languages)
    if not targets or samples_per_shard < 1:
        raise ValueError(f"languages, samples_per_shard: {len(languages)}, {samples_per_shard}; at least 2 and 1")
    places = [[number, target] for target in targets for number in numbers]
    tasks = [
        {"split": split, "source": source, "first": first, "places": places[first : first + samples_per_shard]}
        for first in range(0, len(places), samples_per_shard)
    ]
    return write_shards(out, tasks, _samples, workers=workers, total=len(places), title=f"packing pairs ({split})")


def near(number: int, split: str) -> list[int]:
    """The numbers of a split that differ from a number in one of three digits."""
    digits = f"{number:03d}"
    return [
        other for other in numbers_of(split) if sum(a != b for a, b in zip(digits, f"{other:03d}", strict=True)) == 1
    ]


def _samples(task: dict) -> Iterator[dict]:
    for place, (number, language) in enumerate(task["places"], start=task["first"]):
        record: dict[str, object] = {
            "id": f"{task['split']}-{number:03d}-{language}",
            "split": task["split"],
            "number": number,
            "query": {task["source"]: words(task["source"])[number]},
            "positive": {language: words(language)[number]},
        }
        if wrong := [words(language)[other] for other in near(number, task["split"])]:
            record["negatives"] = {language: wrong}
        yield encoded_sample(place, record, None)
