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

from pytorch_lightning.utilities import rank_zero_info

from datamodules.module import ShardDataModule
from datamodules.packing.as_shards import Manifest, as_shards
from datamodules.reading.labels import UNLABELLED, Labels, check_labels, classes_of, labels_of, only, tasks_shown
from datamodules.reading.splits import Splits
from datamodules.shards.locations import weighted_parts
from datamodules.stream.mixture import Source, SurveyedSource


class RelationDataModule(ShardDataModule):
    """`ShardDataModule` of samples with `labels`, whose classes it counts. A sample without a label of a task, or with
    -1, takes no part in that task.

    Args:
        train: Shards, or a manifest (.csv, .tsv, .jsonl), which is packed once beside the cached shards. One manifest
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
    """

    def __init__(
        self,
        train: str | None = None,
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
        own = {"train": train_languages, "val": val_languages, "test": test_languages}
        if languages is None and any(own.values()):
            languages = list(dict.fromkeys(name for names in own.values() for name in names or ()))
        for split, names in own.items():
            unknown = [name for name in names or () if name not in (languages or ())]
            if unknown:
                raise ValueError(f"data.{split}_languages: {unknown[0]!r} is not in data.languages, {languages}")
        named = {"train": train, "val": val, "test": test}
        super().__init__(train, val, test, languages=languages, seed=seed, **options)
        self._named, self._own, self._manifest = named, own, manifest
        self._splits.elsewhere = list(languages or []) if any(own.values()) else []
        self._task, self._examples, self._sampling, self._declared = task, examples_per_class, sampling, classes or {}
        self._draws = seed
        self.classes: dict[str, int] = {}
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
        for split, named in self._named.items():
            if named is None:
                continue
            field, own = f"data.{split}", self._own[split]
            shared = list(self._named.values()).count(named) > 1
            shards = as_shards(named, field, self._manifest, split if shared else None, self._reading.cache_dir)
            self._splits.specs[split] = (
                shards if own is None else [Source(part, weight, own) for part, weight in weighted_parts(shards, field)]
            )

    def surveyed(self, splits: Splits, new: Sequence[str]) -> None:
        check_labels(splits, self._declared)
        self.classes = classes_of(splits, self._declared)
        if "train" in new:
            self._choose_examples(splits)
        known = {name for source in splits.sources.get("train", ()) for name in source.captions}
        for split in set(new) - {"train"}:
            captions = set().union(*(source.captions for source in splits.sources[split]))
            unknown = sorted(captions & set(splits.languages) - known) if known else []
            if unknown:
                rank_zero_info(f"{split}: {', '.join(unknown)} not trained on; measured by transfer")

    def _choose_examples(self, splits: Splits) -> None:
        sources = splits.sources["train"]
        chooses = self._examples is not None or self._sampling == "balanced"
        task = self._main_task() if chooses or self._task is not None else ""
        labels = [[labels_of(shard, self._reading) for shard in source.shards] for source in sources]
        if self._examples is not None:
            labels = self._few(sources, labels, task, self._examples)
        self.label_counts = {name: self._count(labels, name) for name in self.classes}
        for name, counts in self.label_counts.items():
            if missing := [self.class_names(name)[c] for c, count in enumerate(counts) if not count]:
                rank_zero_info(f"train: task {name} has no sample of class {', '.join(missing)}: it is never predicted")
        if self._sampling == "balanced":
            splits.sources["train"] = self._by_class(sources, labels, task)
            self.balanced_task = task

    def class_names(self, task: str) -> list[str]:
        """The classes of a task in words: its strings, or its numbers."""
        return self.label_names.get(task) or [str(number) for number in range(self.classes[task])]

    def _main_task(self) -> str:
        if self._task is not None:
            if self._task not in self.classes:
                raise ValueError(f"data.task: nobody labelled {self._task!r}; labelled are {tasks_shown(self.classes)}")
            return self._task
        if "relation" not in self.classes and len(self.classes) != 1:
            raise ValueError(f"data.task: name the task to draw examples by; labelled are {tasks_shown(self.classes)}")
        return "relation" if "relation" in self.classes else next(iter(self.classes))

    def _number(self, task: str, label: int | str | None) -> int:
        """The class that a label says."""
        if label is None:
            return UNLABELLED
        names = self.label_names.get(task)
        return int(label) if names is None else names.index(str(label)) if str(label) in names else UNLABELLED

    def _count(self, labels: list[list[list[Labels]]], task: str) -> list[int]:
        found = Counter(
            self._number(task, sample.get(task)) for source in labels for shard in source for sample in shard
        )
        return [found[number] for number in range(self.classes[task])]

    def _few(self, sources: list[SurveyedSource], labels: list, task: str, count: int) -> list:
        """Leaves `count` samples of each class in the sources; returns their labels."""
        places: dict[int, list[tuple[int, int, int]]] = {number: [] for number in range(self.classes[task])}
        for s, source in enumerate(labels):
            for h, shard in enumerate(source):
                for place, sample in enumerate(shard):
                    if (number := self._number(task, sample.get(task))) != UNLABELLED:
                        places[number].append((s, h, place))
        kept: set[tuple[int, int, int]] = set()
        for number, candidates in places.items():
            if len(candidates) < count:
                raise ValueError(
                    f"data.examples_per_class: {count}, but class {self.class_names(task)[number]} of task"
                    f" {task} has {len(candidates)} training samples"
                )
            kept.update(random.Random(f"{self._draws}/{number}").sample(candidates, count))
        chosen = []
        for s, source in enumerate(sources):
            picked = [
                [place for place in range(len(shard)) if (s, h, place) in kept] for h, shard in enumerate(source.shards)
            ]
            source.shards = [only(shard, some) for shard, some in zip(source.shards, picked, strict=True)]
            chosen.append([[labels[s][h][place] for place in some] for h, some in enumerate(picked)])
        return chosen

    def _by_class(self, sources: list[SurveyedSource], labels: list, task: str) -> list[SurveyedSource]:
        """A source for each class, all of the same weight: exact quotas, however rare a class is."""
        parts = []
        for number in range(self.classes[task]):
            if not self.label_counts[task][number]:
                continue
            for source, found in zip(sources, labels, strict=True):
                shards = [
                    only(shard, [i for i, each in enumerate(some) if self._number(task, each.get(task)) == number])
                    for shard, some in zip(source.shards, found, strict=True)
                ]
                if any(len(shard) for shard in shards):
                    share = sum(len(shard) for shard in shards) / self.label_counts[task][number]
                    name = f"{source.name}/{task}={self.class_names(task)[number]}"
                    parts.append(replace(source, name=name, shards=shards, weight=share))
        return parts
