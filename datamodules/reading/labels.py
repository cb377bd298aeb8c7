"""Labels of samples: read, counted, checked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from datamodules.reading.splits import Splits
from datamodules.shards.locations import Reading, local_path
from datamodules.shards.reader import ShardReader
from datamodules.shards.samples import BrokenSample, read_record
from datamodules.shards.survey import TEXT_FILES, ShardSurvey

Labels = dict[str, int | str]
UNLABELLED = -1


def labels_of(shard: ShardSurvey, reading: Reading) -> list[Labels]:
    """The labels of each usable sample of a shard; none where they cannot be read."""
    numbers = range(shard.samples) if shard.usable is None else shard.usable.tolist()
    reader, found = ShardReader(), []
    try:
        path = local_path(shard.shard, reading.cache_dir)
        for number in numbers:
            try:
                labels = read_record(reader.read(path, number, TEXT_FILES)[1], reading.text_language)[0].get("labels")
            except BrokenSample:
                labels = None
            found.append(labels if isinstance(labels, dict) else {})
    except OSError:
        found = [{} for _ in numbers]  # to be met and counted when drawn
    reader.close()
    return found


def only(shard: ShardSurvey, places: Sequence[int]) -> ShardSurvey:
    """The shard with only those of its usable samples."""
    usable = np.arange(shard.samples, dtype=np.int32) if shard.usable is None else shard.usable
    return replace(shard, usable=usable[np.asarray(places, dtype=np.int64)])


def _labels_seen(splits: Splits, names: Sequence[str]) -> dict[str, Counter[int | str]]:
    seen: dict[str, Counter[int | str]] = {}
    for shard in (shard for name in names for source in splits.sources[name] for shard in source.shards):
        for task, values in shard.labels.items():
            seen.setdefault(task, Counter()).update(values)
    return seen


def check_labels(splits: Splits, declared: Mapping[str, int]) -> None:
    """Raises ValueError, one line, for a label out of range or a declared task that nobody labelled."""
    seen = _labels_seen(splits, list(splits.sources))
    for task in declared:
        if task not in seen:
            raise ValueError(f"data.classes: nobody labelled {task!r}; labelled are {tasks_shown(seen)}")
    classes = classes_of(splits, declared)
    for split in splits.sources:
        for task, values in _labels_seen(splits, [split]).items():
            if task not in classes:  # nothing to be learnt of it, so nothing to be wrong about
                continue
            names = splits.label_names.get(task)
            for value in sorted(set(values) - {UNLABELLED}, key=str):
                if names is None and not (isinstance(value, int) and UNLABELLED <= value < classes[task]):
                    accepted = f"0 to {classes[task] - 1}, or -1 for none (data.classes says how many there are)"
                    raise ValueError(f"data.{split}: task {task} holds the label {value}; {accepted}")
                if names is not None and str(value) not in names:
                    raise ValueError(f"data.{split}: task {task} holds the label {value!r}; {', '.join(names)}")


def classes_of(splits: Splits, declared: Mapping[str, int]) -> dict[str, int]:
    """Number of classes of each task: as declared, or as the strings say, or the training split's largest label."""
    known = _labels_seen(splits, ["train"] if "train" in splits.sources else list(splits.sources))
    classes = {}
    for task, values in known.items():
        largest = len(splits.label_names.get(task, ())) or 1 + max(v for v in values if isinstance(v, int))
        if declared.get(task, largest) or largest:
            classes[task] = declared.get(task, largest)
    return classes


def tasks_shown(tasks: Mapping[str, Any]) -> str:
    return ", ".join(sorted(tasks)) or "no tasks at all"
