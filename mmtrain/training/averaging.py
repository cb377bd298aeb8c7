"""An average of the weights as they train."""

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import ModelParallelStrategy
from torch import Tensor, nn


class WeightAverage(pl.Callback):
    """Keeps an exponential moving average of the trained weights on their device, and validates with it.

    It begins as the weights after the first step, and follows each one: average + (1 - decay) (weight - average).
    Buffers are the model's own. A checkpoint's `state_dict` holds the average, `current_model_state` the weights, with
    which a run goes on, as with Lightning's EMAWeightAveraging. Training ends with the weights in place.

    Args:
        decay: Share of the average that one step leaves, from 0 to below 1.
        update_every_n_steps: Steps from one update to the next.
        update_starting_at_step: The first update, counted from 0.

    Raises:
        ValueError: for numbers out of range, or a strategy that shards the weights.
    """

    def __init__(
        self, decay: float = 0.999, update_every_n_steps: int = 1, update_starting_at_step: int | None = None
    ) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"WeightAverage: decay is {decay}, expected 0 to below 1")
        if update_every_n_steps < 1:
            raise ValueError(f"WeightAverage: update_every_n_steps is {update_every_n_steps}, expected at least 1")
        self.decay, self.every, self.first = decay, update_every_n_steps, update_starting_at_step or 0
        self._average: dict[str, Tensor] = {}  # empty before the first update
        self._restored: dict[str, Tensor] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if isinstance(trainer.strategy, ModelParallelStrategy):
            raise ValueError("WeightAverage: this strategy shards the weights; ddp, or mmtrain average of checkpoints")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step - 1
        if step < self.first or step % self.every:
            return
        weights = _trained(trainer, pl_module)
        if not self._average:
            self._average = {name: weight.detach().clone() for name, weight in weights.items()}
            return
        average = [self._average[name] for name in weights]
        torch._foreach_lerp_(average, [weight.detach() for weight in weights.values()], 1 - self.decay)

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._exchange(pl_module)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._exchange(pl_module)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if self._average:
            checkpoint["current_model_state"] = checkpoint["state_dict"]
            checkpoint["state_dict"] = checkpoint["state_dict"] | self._average
            checkpoint["averaging_state"] = {"decay": self.decay}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if "current_model_state" in checkpoint:
            self._restored = dict(checkpoint["state_dict"])
            pl_module.load_state_dict(checkpoint["current_model_state"])  # in the place of the average

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._restored:
            weights = _trained(trainer, pl_module)
            self._average = {name: self._restored[name].to(weight, copy=True) for name, weight in weights.items()}
            self._restored = {}

    def _exchange(self, pl_module: pl.LightningModule) -> None:
        for name, average in self._average.items():
            weight = pl_module.get_parameter(name)
            weight.data, self._average[name] = average, weight.data


def _trained(trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, nn.Parameter]:
    """The parameters that the optimiser has, by name."""
    ours = {id(weight) for group in trainer.optimizers[0].param_groups for weight in group["params"]}
    return {name: weight for name, weight in pl_module.named_parameters() if id(weight) in ours}
