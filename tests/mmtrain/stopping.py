"""A callback for tests: ends a run early, as a time limit would, with its schedule unchanged."""

from typing import Any

import pytorch_lightning as pl


class StopAfter(pl.Callback):
    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        if trainer.global_step >= self.steps:
            trainer.should_stop = True
