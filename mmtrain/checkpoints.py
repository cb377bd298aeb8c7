"""Checkpoints of a run folder: when they are written, and what reading one gives."""

import json
import os
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint as LightningCheckpoint
from pytorch_lightning.utilities import rank_zero_info

from mmtrain.spec import spec_of
from mmtrain.towers import FeatureTower

VERSIONS = ("mmtrain", "torch", "pytorch-lightning", "timm", "transformers")


class Checkpoint(LightningCheckpoint):
    """Writes `checkpoints/last.ckpt` every so often and `checkpoints/best.ckpt` after the best validation.

    Lightning's ModelCheckpoint takes either steps or minutes, and numbers its files when a folder is used again; this
    takes both, and the two names always mean the newest. Files are written beside their place and then renamed.

    Args:
        every_n_steps: Write last.ckpt after every so many optimiser steps.
        every_minutes: Write last.ckpt when so many minutes went by since the last one.
        monitor: The figure that chooses best.ckpt.
        mode: max or min.
    """

    def __init__(
        self,
        every_n_steps: int | None = 1000,
        every_minutes: float | None = 30,
        monitor: str = "val/mean_recall",
        mode: str = "max",
    ) -> None:
        if every_n_steps is not None and every_n_steps < 1:
            raise ValueError(f"checkpoint.every_n_steps: got {every_n_steps}, expected at least 1")
        if every_minutes is not None and every_minutes <= 0:
            raise ValueError(f"checkpoint.every_minutes: got {every_minutes}, expected more than 0")
        if mode not in ("max", "min"):
            raise ValueError(f"checkpoint.mode: got {mode!r}, expected max or min")
        self.every_n_steps = every_n_steps
        self.every_minutes = every_minutes
        self.monitor = monitor
        self.mode = mode
        self.best: float | None = None
        self.config: str = ""  # the complete config as YAML, set by the command line
        self._written_at = time.monotonic()
        self._written_step = -1

    def folder(self, trainer: pl.Trainer) -> Path:
        return Path(trainer.default_root_dir) / "checkpoints"

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._written_at = time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        due = self.every_n_steps is not None and step % self.every_n_steps == 0
        # Clocks differ between processes, so one decides for all; asking every tenth step keeps the collective cheap.
        if not due and self.every_minutes is not None and step % 10 == 0:
            due = trainer.strategy.broadcast(time.monotonic() - self._written_at > 60 * self.every_minutes)
        if due:
            self._write(trainer, "last.ckpt")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit" or self.monitor not in trainer.callback_metrics:
            return
        value = float(trainer.callback_metrics[self.monitor])
        if self.best is None or (value > self.best if self.mode == "max" else value < self.best):
            self.best = value
            self._write(trainer, "best.ckpt")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_step != self._written_step:
            self._write(trainer, "last.ckpt")

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        data = trainer.datamodule
        description = {
            "model": pl_module.spec(),
            "languages": list(data.languages),
            "similarity": pl_module.similarity,
            "tokenizer": spec_of(data.tokenizer),
            "images": None if isinstance(pl_module.model.image, FeatureTower) else spec_of(data.images),
        }
        # JSON and YAML text: nothing in a checkpoint needs a pickle that runs code
        checkpoint["mmtrain"] = {
            "description": json.dumps(description, ensure_ascii=False),
            "config": self.config,
            "versions": {name: version(name) for name in VERSIONS},
            "world_size": trainer.world_size,
        }

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]

    def write_account(self, trainer: pl.Trainer) -> None:
        """skipped.json: what was left out so far, by shard and cause, on all processes together."""
        account = getattr(trainer.datamodule, "account", None)
        if account is not None:
            account = account.merged()
            if trainer.is_global_zero:
                account.write(Path(trainer.default_root_dir) / "skipped.json")

    def _write(self, trainer: pl.Trainer, name: str) -> None:
        target = self.folder(trainer) / name
        temporary = target.with_name(name + ".tmp")
        trainer.save_checkpoint(temporary, weights_only=False)  # with optimiser and cursor
        if trainer.is_global_zero:
            os.replace(temporary, target)
        trainer.strategy.barrier("checkpoint")
        self.write_account(trainer)
        if name == "last.ckpt":
            self._written_at, self._written_step = time.monotonic(), trainer.global_step


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """A checkpoint's contents, without running any code in it.

    Raises:
        ValueError: when the file is truncated, holds a pickle that wants more than tensors and plain data, or is no
            checkpoint of mmtrain.
    """
    import pickle

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError as error:
        raise ValueError(f"checkpoint: {path} does not exist") from error
    except pickle.UnpicklingError as error:
        raise ValueError(f"checkpoint: {path} holds more than weights and plain data; it is not loaded") from error
    except (RuntimeError, EOFError, OSError) as error:
        raise ValueError(f"checkpoint: {path} cannot be read, it may be truncated ({_first_line(error)})") from error
    if not isinstance(checkpoint, dict) or "mmtrain" not in checkpoint:
        raise ValueError(f"checkpoint: {path} was not written by mmtrain")
    return checkpoint


def describe(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """What builds the encoder of a checkpoint again."""
    return json.loads(checkpoint["mmtrain"]["description"])


def resolve_run(folder: Path) -> Path:
    """A run folder's best checkpoint, else its last.

    Raises:
        ValueError: when it has neither.
    """
    for name in ("best.ckpt", "last.ckpt"):
        path = folder / "checkpoints" / name
        if path.is_file():
            rank_zero_info(f"{folder}: using {path}")
            return path
    raise ValueError(f"{folder}: no checkpoints/best.ckpt and no checkpoints/last.ckpt in it")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
