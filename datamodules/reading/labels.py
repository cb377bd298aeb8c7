"""Labels of samples: read, counted, checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from datamodules.reading.choices import UNLABELLED, label_counts
from datamodules.reading.splits import Splits
from datamodules.shards.locations import Reading
from datamodules.shards.records import read_records
from datamodules.shards.survey import ShardSurvey, labels_in

Labels = dict[str, int | str]


def labels_of(shard: ShardSurvey, reading: Reading) -> list[Labels]:
    """The labels of each usable sample of a shard; none where they cannot be read."""
    return [labels_in(record) for record, _ in read_records(shard, reading)]


def only(shard: ShardSurvey, places: Sequence[int]) -> ShardSurvey:
    """The shard with only those of its usable samples."""
    return replace(shard, usable=shard.numbers[np.asarray(places, dtype=np.int64)])


def check_labels(splits: Splits, declared: Mapping[str, int]) -> None:
    """Raises ValueError, one line, for a label out of range, a declared task that nobody labelled, or one that has
    another number of names than of classes.
    """
    for task, count in declared.items():
        if task not in splits.tasks:
            raise ValueError(f"data.classes: nobody labelled {task!r}; labelled are {tasks_shown(splits.tasks)}")
        names = splits.label_names.get(task)
        if names is not None and len(names) != count:
            raise ValueError(
                f"data.classes: {task} has {count} classes and {len(names)} names ({tasks_shown(names)}); "
                "data.label_names names those that have no sample"
            )
    classes = classes_of(splits, declared)
    for split, sources in splits.sources.items():
        for task, values in label_counts(sources).items():
            if task not in classes:  # it has no class, so no label can be out of range
                continue
            names = splits.label_names.get(task)
            for value in sorted(set(values) - {UNLABELLED}, key=str):
                if names is None and not (isinstance(value, int) and UNLABELLED <= value < classes[task]):
                    accepted = f"0 to {classes[task] - 1}, or -1 for none (data.classes says how many there are)"
                    raise ValueError(f"data.{split}: task {task} holds the label {value}; {accepted}")
                if names is not None and str(value) not in names:
                    raise ValueError(f"data.{split}: task {task} holds the label {value!r}; {', '.join(names)}")


def classes_of(splits: Splits, declared: Mapping[str, int], split: str | None = "train") -> dict[str, int]:
    """Number of classes of each task: as declared, or as the strings say, or the largest label of a split, None for
    all that were read.
    """
    sources = splits.sources.get(split or "") or [source for each in splits.sources.values() for source in each]
    classes = {}
    for task, values in label_counts(sources).items():
        counted = len(splits.label_names.get(task, ())) or 1 + max(v for v in values if isinstance(v, int))
        if declared.get(task) or counted:
            classes[task] = declared.get(task, counted)
    return classes


def tasks_shown(tasks: Iterable[str]) -> str:
    return ", ".join(sorted(tasks)) or "no tasks at all"
