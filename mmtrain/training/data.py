"""What the training modules ask of their data module."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, runtime_checkable

import pytorch_lightning as pl

from datamodules.account import SkipAccount
from datamodules.batch import Batch
from datamodules.images import ImagePipeline
from datamodules.tokenizers import Tokenizer
from losses import Objective
from losses.objective import ALL_FIELDS, needs_of
from mmtrain.models.image_text import ImageTextModel

FROM_TOWERS = {"tokens", "multi"}  # what an objective may need that comes from the model and not from the data
LONG = "a " * 2048  # a caption beyond every limit
COMMON = {"image", "texts", "labels"}  # of the samples, no fields


@runtime_checkable
class TrainingData(Protocol):
    """A LightningDataModule of batches; `datamodules.ShardDataModule` is one."""

    tokenizer: Tokenizer
    images: ImagePipeline
    account: SkipAccount

    @property
    def languages(self) -> list[str]: ...

    @property
    def brings(self) -> frozenset[str]: ...

    def count_for(self, objectives: Sequence[str]) -> dict[str, list[bool]]: ...

    def trained(self, batch: Batch) -> None: ...

    def evaluated(self, batch: Batch) -> None: ...

    def drawn(self) -> dict[str, float]: ...


@runtime_checkable
class LabelledData(TrainingData, Protocol):
    """One whose samples have labels; `datamodules.RelationDataModule` is one."""

    classes: dict[str, int]
    label_counts: dict[str, list[int]]
    balanced_task: str | None

    def class_names(self, task: str) -> list[str]: ...


def training_data(trainer: pl.Trainer) -> TrainingData:
    """The trainer's data module. Raises ValueError, one line, for one that lacks a method."""
    data = getattr(trainer, "datamodule", None)
    if not isinstance(data, TrainingData):
        raise ValueError(f"data: got {type(data).__name__}, expected datamodules.ShardDataModule or its methods")
    return data


def logging_interval(trainer: pl.Trainer) -> int:
    """Steps from one row of the log to the next."""
    return trainer.log_every_n_steps  # type: ignore[attr-defined]  # Lightning sets it in a connector


def check_needs(objectives: Mapping[str, Objective], data: TrainingData) -> None:
    """Refuses objectives that need what the data do not bring, and fields that no objective reads.

    Raises:
        ValueError: one line, naming both.
    """
    fields = data.brings - COMMON
    for name, objective in objectives.items():
        needs = needs_of(objective) - FROM_TOWERS
        if missing := needs - data.brings - {ALL_FIELDS}:
            raise ValueError(
                f"model.objectives.{name}: needs {_listed(missing)}, the data bring {_listed(data.brings)}"
            )
    read = set().union(*(needs_of(objective) for objective in objectives.values()))
    if ALL_FIELDS not in read and (unread := fields - read):
        raise ValueError(f"data.fields: no objective reads {_listed(unread)}; the objectives read {_listed(read)}")


def check_fits(model: ImageTextModel, data: TrainingData) -> None:
    """Refuses towers that cannot read what the data module may bring, before one long caption ends the run.

    Raises:
        ValueError: one line, naming the options of both sides.
    """
    ids, known = data.tokenizer.vocabulary_size, model.text.vocabulary_size
    if ids > known:
        raise ValueError(
            f"data.tokenizer has {ids} token ids, the text tower knows {known}: set model.text.vocabulary_size or take"
            " the tower's own tokenizer"
        )
    tokens, _ = data.tokenizer([LONG] * len(data.languages), data.languages)
    if model.text.positions is not None and tokens.shape[1] > model.text.positions:
        raise ValueError(
            f"data.tokenizer.max_length: a long caption has {tokens.shape[1]} tokens, the text tower model.text has"
            f" {model.text.positions} positions; set data.tokenizer.max_length to at most that"
        )
    if model.image is not None:
        model.image.check_size(data.images.size)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
