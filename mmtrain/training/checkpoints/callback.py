"""Checkpoints of a run folder: when they are written, and what reading one gives."""

import json
import math
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint as LightningCheckpoint
from pytorch_lightning.utilities import rank_zero_warn

from mmtrain.display.messages import first_line
from mmtrain.models.description import FORMAT
from mmtrain.models.spec import spec_of
from mmtrain.models.tokenizer_files import Files, carried
from mmtrain.towers import FeatureTower
from mmtrain.training.checkpoints.files import CheckpointFiles
from mmtrain.training.checkpoints.stopping import Stopped, StopSignals
from mmtrain.training.contrastive import ContrastiveModule
from mmtrain.training.data import logging_interval, write_account
from mmtrain.training.monitoring.loggers import Wandb
from mmtrain.training.waiting import told_by_first

VERSIONS = ("mmtrain", "torch", "pytorch-lightning", "timm", "transformers")


class Checkpoint(LightningCheckpoint):
    """Writes `checkpoints/last.ckpt` every so often and `checkpoints/best.ckpt` after the best validation.

    Lightning's ModelCheckpoint takes either steps or minutes, and numbers its files when a folder is used again; this
    takes both, and the two names always mean the newest. SIGTERM and SIGUSR2 end the training after the step at hand,
    behind a last.ckpt of that step.

    Args:
        every_n_steps: Write last.ckpt after every so many optimiser steps.
        every_minutes: Write last.ckpt when so many minutes went by since the last one.
        keep_last: How many to keep of last.ckpt: itself, then previous-1.ckpt and so on.
        asynchronous: Write in a thread beside the training, for the memory of one more copy. It pays where writing
            takes long: a large model, a slow file system.
        monitor: The figure that chooses best.ckpt.
        mode: max or min.
    """

    def __init__(
        self,
        every_n_steps: int | None = 1000,
        every_minutes: float | None = 30,
        keep_last: int = 2,
        asynchronous: bool = False,
        monitor: str = "val/mean_recall",
        mode: str = "max",
    ) -> None:
        if every_n_steps is not None and every_n_steps < 1:
            raise ValueError(f"checkpoint.every_n_steps: got {every_n_steps}, expected at least 1")
        if every_minutes is not None and every_minutes <= 0:
            raise ValueError(f"checkpoint.every_minutes: got {every_minutes}, expected more than 0")
        if keep_last < 1:
            raise ValueError(f"checkpoint.keep_last: got {keep_last}, expected at least 1")
        if mode not in ("max", "min"):
            raise ValueError(f"checkpoint.mode: got {mode!r}, expected max or min")
        self.every_n_steps = every_n_steps
        self.every_minutes = every_minutes
        self.monitor = monitor
        self.mode = mode
        self.best: float | None = None
        self.config: str = ""  # the complete config as YAML, set by the command line
        self.row: dict[str, float] | None = None
        self.files = CheckpointFiles(keep_last, asynchronous)
        self._tokenizer_files: Files | None = None
        self._signals = StopSignals()
        self._written_at = time.monotonic()
        self._written_step = -1

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        trainer.strategy.checkpoint_io = self.files

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._written_at = time.monotonic()
        # only now: Lightning puts a SIGTERM handler of its own before the training starts
        self._signals.listen()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        # Clocks and signals differ between processes: what one of them wants, all do, after the same step.
        late = self.every_minutes is not None and time.monotonic() - self._written_at > 60 * self.every_minutes
        wishes = [late, self._signals.received is not None]
        if trainer.world_size > 1:
            wishes = trainer.strategy.reduce(
                torch.tensor(wishes, device=pl_module.device).int(), reduce_op="sum"
            ).tolist()
        late, signalled = map(bool, wishes)
        # The last step here and not in on_train_end, before which a callback may have put averaged weights in place.
        ends = trainer.should_stop or step == trainer.max_steps or signalled
        if late or ends or (self.every_n_steps is not None and step % self.every_n_steps == 0):
            self._write(trainer, "last.ckpt", must=ends)
        if signalled and step != trainer.max_steps:
            raise Stopped(self._signals.received or "a signal to another process", step)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        if self.monitor not in trainer.callback_metrics:
            figures = sorted(name for name in trainer.callback_metrics if name.startswith("val/"))
            rank_zero_warn(
                f"checkpoint.monitor: validation did not measure {self.monitor}, so no best.ckpt is kept; it measured"
                f" {', '.join(figures) or 'nothing'}"
            )
            return
        value, before = float(trainer.callback_metrics[self.monitor]), self.best
        better = before is None or math.isnan(before) or (value > before if self.mode == "max" else value < before)
        if better and not math.isnan(value):
            self.best = value  # now, since the checkpoint holds it
            if not self._write(trainer, "best.ckpt"):
                self.best = before

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_step != self._written_step:
            self._write(trainer, "last.ckpt", must=True)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.files.wait()
        self._signals.restore()

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        assert isinstance(pl_module, ContrastiveModule)
        data = pl_module.data
        if self._tokenizer_files is None:
            self._tokenizer_files = carried(data.tokenizer)
        description = {
            "format": FORMAT,
            "model": spec_of(pl_module.model),
            "languages": list(data.languages),
            "similarity": pl_module.similarity,
            "tokenizer": spec_of(data.tokenizer),
            "images": None if isinstance(pl_module.model.image, FeatureTower) else spec_of(data.images),
            "objectives": list(pl_module.objectives),
        }
        for kind, (name, network) in pl_module.checkpoint_networks().items():
            description |= {kind: spec_of(network), f"{kind}_weights": f"{name}."}
        # JSON and YAML text, and bytes as tensors: nothing in a checkpoint needs a pickle that runs code
        checkpoint["mmtrain"] = {
            "description": json.dumps(description, ensure_ascii=False),
            "tokenizer_files": self._tokenizer_files,
            "config": self.config,
            "versions": {name: version(name) for name in VERSIONS},
            "world_size": trainer.world_size,
            "wandb": next((each.identity for each in trainer.loggers if isinstance(each, Wandb)), None),
            "row": json.dumps(self._row(trainer)),
        }

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self.row = json.loads(checkpoint["mmtrain"].get("row", "null"))

    def _row(self, trainer: pl.Trainer) -> dict[str, float] | None:
        """The step's row of metrics.csv: Lightning logs it only after the checkpoint, and may not come to it."""
        if trainer.global_step % logging_interval(trainer):
            return None
        figures = {name: float(value) for name, value in trainer.logged_metrics.items() if not name.startswith("val/")}
        return {"step": trainer.global_step - 1} | figures

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]

    def _write(self, trainer: pl.Trainer, name: str, must: bool = False) -> bool:
        """Whether it was written; one that `must` be is an OSError otherwise."""
        target = Path(trainer.default_root_dir) / "checkpoints" / name
        # with optimiser and cursor; trainer.save_checkpoint would wait for process 0 in a collective
        trainer.strategy.save_checkpoint(trainer._checkpoint_connector.dump_checkpoint(weights_only=False), target)
        told_by_first(lambda: None)
        if must:
            self.files.wait()
        failed = trainer.strategy.reduce_boolean_decision(self.files.error is not None, all=False)
        if failed and must:
            reason = first_line(self.files.error) if self.files.error else "process 0 says why"
            raise OSError(f"checkpoint: {target} could not be written: {reason}")
        if failed:
            return False
        write_account(trainer)
        if name == "last.ckpt":
            self._written_at, self._written_step = time.monotonic(), trainer.global_step
        return True
