"""What the data module takes from its surveys: languages in use, and the numbers of labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from datamodules.survey import ShardSurvey

SHOWN = 20


def choose_languages(splits: Mapping[str, Iterable[ShardSurvey]], chosen: list[str] | None) -> list[str]:
    """The languages to use: those chosen, or all of the training split, or all there are where nothing is trained.

    Raises ValueError when a chosen language is in no split, or a split has none of them.
    """
    counts = {name: sum((shard.languages for shard in shards), Counter()) for name, shards in splits.items()}
    every = sum(counts.values(), Counter())
    languages = list(chosen) if chosen else sorted(counts.get("train") or every)
    for language in languages:
        if language not in every:
            raise ValueError(f"data.languages: no caption is in {language!r}; the shards have {_shown(every)}")
    for name, shards in splits.items():
        if not any(len(shard) for shard in shards):
            raise ValueError(
                f"data.{name}: no sample has a caption in {', '.join(languages) or 'any language'}; "
                f"the shards have {_shown(counts[name])}"
            )
    return languages


def missing_languages(shards: Iterable[ShardSurvey], languages: Iterable[str]) -> list[str]:
    """Those of the languages that no caption of the shards is in."""
    found = set().union(*(shard.languages for shard in shards))
    return [language for language in languages if language not in found]


def choose_labels(shards: Iterable[ShardSurvey], names: dict[str, list[str]]) -> tuple[list[str], dict[str, list[str]]]:
    """(tasks, names of the labels of those labelled by strings): `names` where given, else all there are, sorted."""
    values: dict[str, set[int | str]] = {}
    for shard in shards:
        for task, counts in shard.labels.items():
            values.setdefault(task, set()).update(counts)
    named = {
        task: sorted(map(str, labels))
        for task, labels in values.items()
        if any(isinstance(label, str) for label in labels)
    }
    return sorted(values), named | names


def _shown(languages: Iterable[str]) -> str:
    languages = sorted(languages)
    more = f" and {len(languages) - SHOWN} more" if len(languages) > SHOWN else ""
    return ", ".join(languages[:SHOWN]) + more if languages else "none"
