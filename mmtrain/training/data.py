"""What the training modules ask of their data module."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import pytorch_lightning as pl
from torch.utils.data import DataLoader

from datamodules.account import SkipAccount
from datamodules.batch import Batch, Batches
from datamodules.images import ImagePipeline
from datamodules.tokenizers import Tokenizer


@runtime_checkable
class TrainingData(Protocol):
    """A LightningDataModule of batches; `datamodules.ShardDataModule` is one."""

    tokenizer: Tokenizer
    images: ImagePipeline
    account: SkipAccount
    classes: dict[str, int]

    @property
    def languages(self) -> list[str]: ...

    @property
    def brings(self) -> dict[str, frozenset[str]]: ...

    @property
    def kinds(self) -> frozenset[str]: ...

    @property
    def picture_shapes(self) -> set[tuple[int, ...]]: ...

    @property
    def tokenizers(self) -> dict[str, Tokenizer]: ...

    @property
    def validated(self) -> list[str]: ...

    def count_for(self, objectives: Sequence[str]) -> dict[str, list[bool]]: ...

    def samples_to_come(self, epochs: int) -> int: ...

    def trained(self, batch: Batch | Batches) -> None: ...

    def evaluated(self, batch: Batch) -> None: ...

    def drawn(self) -> dict[str, float]: ...


@runtime_checkable
class WholeData(TrainingData, Protocol):
    """One whose training split can be read in order."""

    def train_samples(self) -> DataLoader[Batch]: ...


@runtime_checkable
class AdaptedData(TrainingData, Protocol):
    """One that says by part and source which adapter reads its samples."""

    @property
    def adapters(self) -> dict[str, list[str | None]]: ...


@runtime_checkable
class LabelledData(WholeData, Protocol):
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


def write_account(trainer: pl.Trainer) -> None:
    """Writes skipped.json, of all processes; each of them must come here."""
    account = training_data(trainer).account.merged()
    if trainer.is_global_zero:
        account.write(Path(trainer.default_root_dir) / "skipped.json")


def logging_interval(trainer: pl.Trainer) -> int:
    """Steps from one row of the log to the next."""
    return trainer.log_every_n_steps  # type: ignore[attr-defined]  # Lightning sets it in a connector
