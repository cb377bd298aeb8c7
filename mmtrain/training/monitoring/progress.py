"""How far a training is, where no terminal shows a bar."""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar

from datamodules.shards.progress import Lines
from mmtrain.training.contrastive import ContrastiveModule


class ProgressLines(ProgressBar):
    """Says on stderr every so often how many samples were seen of all, the rate, the time left and the loss."""

    def __init__(self) -> None:
        super().__init__()
        self._speaks = True

    def enable(self) -> None:
        self._speaks = True

    def disable(self) -> None:
        self._speaks = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, ContrastiveModule)
        self._training = Lines("training", None, done=pl_module.samples_seen)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        def figures() -> str:
            return "".join(f", {name} {value:.4g}" for name, value in trainer.progress_bar_metrics.items())

        assert isinstance(pl_module, ContrastiveModule)
        if self._speaks:
            self._training.total = pl_module.clock.end  # known from the first step on
            self._training.at(pl_module.samples_seen, figures)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._validation, self._validated = Lines("validation", int(sum(trainer.num_val_batches)), "batches"), 0

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._validated += 1
        if self._speaks:
            self._validation.at(self._validated)
