"""Data of image-text relations: labels beside captions, languages per split, few examples, balanced classes.

Transfer between languages is a choice of languages for each split. Train on English and test on Latvian with
`train_languages: [en], val_languages: [en], test_languages: [lv]`; translate-train names the language of the
translations for training; train on all by naming none.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from datamodules.module import ShardDataModule
from datamodules.packing.as_shards import Manifest, as_shards
from datamodules.reading.choices import class_of
from datamodules.reading.labels import Labels, check_labels, classes_of, labels_of, only, tasks_shown
from datamodules.reading.splits import Splits
from datamodules.shards.locations import weighted_parts
from datamodules.stream.identity import inform
from datamodules.stream.mixture import Source, SurveyedSource

SourceLabels = list[list[list[Labels]]]  # of each source, shard and usable sample


class RelationDataModule(ShardDataModule):
    """`ShardDataModule` of samples with `labels`, whose classes it counts.

    A sample without a label of a task, or with -1, takes no part in that task. A source without any label of the task
    is material for ITC and ITM: examples_per_class and balanced sampling leave it whole, with its share of a step.

    Args:
        train: Shards, or a manifest (.csv, .tsv, .jsonl), which is packed beside the cached shards, anew when it or
            one of its images changed; or a list of `datamodules.Source` of either, whose `objectives` say which losses
            each of them feeds. Rows that cannot be used count as lost samples (max_skip_rate). One manifest
            named for several splits is divided by its split column.
        val: Shards or a manifest to validate on.
        test: Shards or a manifest to test on.
        languages: Languages to use, in this order; default: those of the splits below, else all in the shards.
        train_languages: Languages trained on; default: `languages`.
        val_languages: Languages validated on. A checkpoint is chosen by them: transfer to a language counts as such
            only when the language is not among them.
        test_languages: Languages tested on.
        task: The task that examples_per_class and sampling are about; default: "relation" where it is labelled, else
            the only one.
        examples_per_class: Train on so many samples of each class, drawn by the seed; default: all.
        sampling: "as_written" draws every sample equally often, "balanced" every class of the task.
        classes: Number of classes of a task, where not every one may occur; default: as many as the labels say.
        manifest: The columns of manifests.
        seed: Of the examples, the order, drawn captions and augmentation.
        options: Those of ShardDataModule.

    Raises:
        ValueError: one line, for options out of range, or languages of a split that `languages` lacks.
    """

    def __init__(
        self,
        train: list[Source] | str | None = None,
        val: str | None = None,
        test: str | None = None,
        languages: list[str] | None = None,
        train_languages: list[str] | None = None,
        val_languages: list[str] | None = None,
        test_languages: list[str] | None = None,
        task: str | None = None,
        examples_per_class: int | None = None,
        sampling: Literal["as_written", "balanced"] = "as_written",
        classes: dict[str, int] | None = None,
        manifest: Manifest | None = None,
        seed: int = 0,
        **options: Any,
    ) -> None:
        if examples_per_class is not None and examples_per_class < 1:
            raise ValueError(f"data.examples_per_class: {examples_per_class} is too small; at least 1")
        if sampling not in ("as_written", "balanced"):
            raise ValueError(f"data.sampling: {sampling!r} is unknown; as_written or balanced")
        by_split = {"train": train_languages, "val": val_languages, "test": test_languages}
        if languages is None and any(by_split.values()):
            languages = list(dict.fromkeys(name for names in by_split.values() for name in names or ()))
        for split, names in by_split.items():
            for name in names or ():
                if name not in (languages or ()):
                    raise ValueError(f"data.{split}_languages: {name!r} is not in data.languages, {languages}")
        super().__init__(train, val, test, languages=languages, seed=seed, **options)
        self._specs: dict[str, list[Source] | str | None] = {"train": train, "val": val, "test": test}
        self._by_split = by_split
        self._splits.elsewhere = list(languages or []) if any(by_split.values()) else []
        self._task, self._sampling, self._declared = task, sampling, classes or {}
        self._examples, self._seed, self._manifest = examples_per_class, seed, manifest
        self.label_counts: dict[str, list[int]] = {}
        self.balanced_task: str | None = None

    def prepare_data(self) -> None:
        """Packs manifests, on one process."""
        self._resolve()

    def _set_up(self, stage: str | None) -> None:
        self._resolve()
        super()._set_up(stage)

    def _resolve(self) -> None:
        """Names every split's shards and languages for the survey."""
        named = {
            split: spec if isinstance(spec, list) else [Source(spec)]
            for split, spec in self._specs.items()
            if spec is not None
        }
        every = [place for sources in named.values() for place in {source.shards for source in sources}]
        for split, sources in named.items():
            field, languages = f"data.{split}", self._by_split[split]
            lost: Counter[tuple[str, str]] = Counter()
            parts = []
            for source in sources:
                shared = split if every.count(source.shards) > 1 else None
                shards, left_out = as_shards(source.shards, field, self._manifest, shared, self._reading.cache_dir)
                lost.update({(source.shards, cause): rows for cause, rows in left_out.items()})
                parts.append(replace(source, shards=shards, languages=source.languages or languages))
            self._splits.left_out[split] = lost
            if isinstance(self._specs[split], list):
                self._splits.specs[split] = parts
            elif languages is None:
                self._splits.specs[split] = parts[0].shards
            else:
                weighted = weighted_parts(parts[0].shards, field)
                self._splits.specs[split] = [Source(part, weight, languages) for part, weight in weighted]

    def surveyed(self, splits: Splits, new: Sequence[str]) -> None:
        check_labels(splits, self._declared)
        self.classes = classes_of(splits, self._declared)
        if "train" in new:
            self._choose_examples(splits)
        trained = {name for source in splits.sources.get("train", ()) for name in source.captions}
        for split in set(new) - {"train"}:
            captions = set().union(*(source.captions for source in splits.sources[split]))
            if trained and (unknown := sorted(captions & set(splits.languages) - trained)):
                inform(f"{split}: {', '.join(unknown)} not trained on; measured by transfer")

    def _choose_examples(self, splits: Splits) -> None:
        sources = splits.sources["train"]
        chooses = self._examples is not None or self._sampling == "balanced"
        task = self._main_task() if chooses or self._task is not None else ""
        labels = [[labels_of(shard, self._reading) for shard in source.shards] for source in sources]
        if self._examples is not None:
            labels = self._few(sources, labels, task, self._examples)
        for name, classes in self.classes.items():
            numbers = Counter(self._numbers(labels, name))
            counts = self.label_counts[name] = [numbers[number] for number in range(classes)]
            if missing := [self.class_names(name)[c] for c, count in enumerate(counts) if not count]:
                inform(f"train: task {name} has no sample of class {', '.join(missing)}: it is never predicted")
        if self._sampling == "balanced":
            splits.sources["train"] = self._by_class(sources, labels, task)
            self.balanced_task = task

    def class_names(self, task: str) -> list[str]:
        """The classes of a task in words: its strings, or its numbers."""
        return self.label_names.get(task) or [str(number) for number in range(self.classes[task])]

    def _main_task(self) -> str:
        if self._task is None and "relation" not in self.classes and len(self.classes) != 1:
            raise ValueError(f"data.task: name the task to draw examples by; labelled are {tasks_shown(self.classes)}")
        task = self._task or ("relation" if "relation" in self.classes else next(iter(self.classes)))
        if task not in self.classes:
            raise ValueError(f"data.task: nobody labelled {task!r}; labelled are {tasks_shown(self.classes)}")
        return task

    def _numbers(self, labels: SourceLabels, task: str) -> list[int]:
        """The class of each sample of all sources."""
        names = self.label_names.get(task)
        return [class_of(sample.get(task), names) for source in labels for shard in source for sample in shard]

    def _without_label(self, labels: SourceLabels, task: str) -> list[bool]:
        """Of each source whether none of its samples has a class."""
        return [max(self._numbers([source], task), default=-1) < 0 for source in labels]

    def _few(self, sources: list[SurveyedSource], labels: SourceLabels, task: str, count: int) -> SourceLabels:
        """Leaves `count` samples of each class in the sources that have any; returns the labels of all."""
        numbers = np.array(self._numbers(labels, task))
        chosen = np.repeat(self._without_label(labels, task), [sum(map(len, source)) for source in labels])
        for number, name in enumerate(self.class_names(task)):
            rows = np.flatnonzero(numbers == number).tolist()
            if len(rows) < count:
                there = f"class {name} of task {task} has {len(rows)} training samples"
                raise ValueError(f"data.examples_per_class: {count}, but {there}")
            chosen[random.Random(f"{self._seed}/{number}").sample(rows, count)] = True
        in_order = iter(chosen.tolist())
        subset = []
        for source, labels_of_source in zip(sources, labels, strict=True):
            places = [[i for i in range(len(shard)) if next(in_order)] for shard in source.shards]
            source.shards = [only(shard, some) for shard, some in zip(source.shards, places, strict=True)]
            subset.append([[shard[i] for i in some] for shard, some in zip(labels_of_source, places, strict=True)])
        return subset

    def _by_class(self, sources: list[SurveyedSource], labels: SourceLabels, task: str) -> list[SurveyedSource]:
        """A source for each class, all of the same weight: exact quotas, however rare a class is.

        Sources without labels stay, and so does their share beside all classes together.
        """
        parts, names = [], self.label_names.get(task)
        for number, name in enumerate(self.class_names(task)):
            for source, labels_of_source in zip(sources, labels, strict=True):
                shards = [
                    only(shard, [i for i, each in enumerate(samples) if class_of(each.get(task), names) == number])
                    for shard, samples in zip(source.shards, labels_of_source, strict=True)
                ]
                if total := sum(len(shard) for shard in shards):
                    share = total / self.label_counts[task][number]
                    parts.append(replace(source, name=f"{source.name}/{task}={name}", shards=shards, weight=share))
        bare = self._without_label(labels, task)
        if any(bare):
            weights = [float(len(source)) if source.weight is None else source.weight for source in sources]
            classes = sum(count > 0 for count in self.label_counts[task])
            share = sum(weight for weight, none in zip(weights, bare, strict=True) if not none) / classes
            parts = [replace(part, weight=share * (part.weight or 0)) for part in parts]
            parts += [replace(sources[i], weight=weights[i]) for i in np.flatnonzero(bare)]
        return parts
