"""What the data module takes from its surveys: languages in use, and the numbers of labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

from datamodules.stream.mixture import SurveyedSource, shown

UNLABELLED = -1


def choose_languages(
    splits: Mapping[str, Sequence[SurveyedSource]], chosen: list[str] | None, elsewhere: Collection[str] = ()
) -> list[str]:
    """The languages to use: those chosen, or all of the training split, or all there are where nothing is trained.

    Raises ValueError when a chosen language is in no split, unless it is one of those `elsewhere`, which belong to
    splits of their own; or when a split has none of them.
    """
    counts = {name: sum((source.captions for source in sources), Counter()) for name, sources in splits.items()}
    every = sum(counts.values(), Counter())
    trained = sum((count for name, count in counts.items() if name.endswith("train")), Counter())
    languages = list(chosen) if chosen else sorted(trained or every)
    for language in languages:
        if language not in every and language not in elsewhere:
            raise ValueError(f"data.languages: no caption is in {language!r}; the shards have {shown(every)}")
    for name, sources in splits.items():
        here = counts[name]
        if not any(len(source) for source in sources) or (here and not any(here[language] for language in languages)):
            raise ValueError(
                f"data.{name}: no sample has a caption in {', '.join(languages) or 'any language'}; "
                f"the shards have {shown(here)}"
            )
    return languages


def label_counts(sources: Iterable[SurveyedSource]) -> dict[str, Counter[int | str]]:
    """Task -> label -> samples."""
    counts: dict[str, Counter[int | str]] = {}
    for shard in (shard for source in sources for shard in source.shards):
        for task, values in shard.labels.items():
            counts.setdefault(task, Counter()).update(values)
    return counts


def choose_labels(
    sources: Iterable[SurveyedSource], names: dict[str, list[str]]
) -> tuple[list[str], dict[str, list[str]]]:
    """(tasks, names of the labels of those labelled by strings): `names`, or all there are, sorted."""
    counts = label_counts(sources)
    strings = {
        task: sorted(map(str, labels))
        for task, labels in counts.items()
        if any(isinstance(label, str) for label in labels)
    }
    return sorted(counts), strings | names


def class_of(label: int | str | None, names: Sequence[str] | None) -> int:
    """The number of a label, by the names of its task where it has some; UNLABELLED without one, or for another."""
    if label is None or names is None:
        return label if isinstance(label, int) else UNLABELLED
    return names.index(str(label)) if str(label) in names else UNLABELLED
