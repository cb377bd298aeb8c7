"""Callbacks for tests: what befalls a run in the middle, with its schedule unchanged."""

import os
import resource
import signal
from typing import Any

import pytorch_lightning as pl
import torch


class StopAfter(pl.Callback):
    """Ends the run after so many steps, as a time limit of the program itself would."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        if trainer.global_step >= self.steps:
            trainer.should_stop = True


class SignalAt(pl.Callback):
    """Sends this process, of one rank, a signal in the middle of a step."""

    def __init__(self, step: int, name: str, rank: int = 0) -> None:
        self.step, self.name, self.rank = step, name, rank

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: torch.Tensor) -> None:
        if trainer.global_step + 1 == self.step and trainer.global_rank == self.rank:
            os.kill(os.getpid(), signal.Signals[self.name])


class SignalAtStart(pl.Callback):
    """Sends this process a signal before the first step."""

    def __init__(self, name: str) -> None:
        self.name = name

    def setup(self, *args: Any, **options: Any) -> None:
        os.kill(os.getpid(), signal.Signals[self.name])


class FullDisk(pl.Callback):
    """No file can grow beyond 20 kB from step `first` to step `last`: what a full disk does to a checkpoint."""

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last = first, last

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        full = self.first <= trainer.global_step + 1 <= self.last
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000 if full else hard, hard))


class Clock(pl.Callback):
    """Lets each step take so many seconds of `Clock.now`, which a test reads in place of the system's clock."""

    now = 0.0

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def on_train_batch_start(self, *args: Any) -> None:
        Clock.now += self.seconds


class Measure(pl.Callback):
    """Logs val/told: one number after the other, at each validation; NaN for None."""

    def __init__(self, values: list[float | None]) -> None:
        self.values = iter(values)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking:
            value = next(self.values)
            pl_module.log("val/told", torch.tensor(torch.nan if value is None else value))


class Infinite(pl.Callback):
    """Makes the gradients of every step infinite, and leaves the loss as it is."""

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for parameter in pl_module.parameters():
            if parameter.grad is not None:
                parameter.grad.fill_(torch.inf)


class Poison(pl.Callback):
    """Makes the loss of the named steps not a number."""

    def __init__(self, steps: list[int]) -> None:
        self.steps = steps

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        objective = pl_module.objectives["one_to_k"]
        handle = objective.register_forward_hook(lambda module, inputs, loss: loss * float("nan"))
        if trainer.global_step + 1 not in self.steps:
            handle.remove()
        self.handle = handle

    def on_train_batch_end(self, *args: Any) -> None:
        self.handle.remove()
