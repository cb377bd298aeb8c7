"""How fast a run is, and what it waits for."""

import resource
import sys
import time
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.throughput import get_available_flops, measure_flops

from mmtrain.training.data import logging_interval


class Throughput(pl.Callback):
    """Logs with every logging step, over the steps since the last one:

    speed/samples_per_second (all processes), speed/seconds_per_step, speed/data_wait_share (the part of the time spent
    waiting for the next batch; above about 0.1 more workers help), memory/process_gib (peak resident memory of this
    process, its workers apart), and on CUDA memory/cuda_gib (peak allocated) and, with `mfu`, speed/mfu.

    Args:
        mfu: Measure the model's floating-point operations once, in the first step, and log model FLOPs utilisation:
            their share of what the device can do at best (CUDA only).
    """

    def __init__(self, mfu: bool = False) -> None:
        self.mfu = mfu
        self._flops: int | None = None  # of one step of one process, forward and backward
        self._started = self._last_end = time.perf_counter()
        self._waited, self._samples, self._steps = 0.0, 0, 0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begin()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begin()  # validation is no part of a training step

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._waited += time.perf_counter() - self._last_end
        if self.mfu and self._flops is None and torch.cuda.is_available():
            step = partial(pl_module.training_step, batch, batch_idx)
            self._flops = measure_flops(pl_module, lambda: torch.as_tensor(step()), lambda loss: loss)
            pl_module.zero_grad(set_to_none=True)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._steps += 1
        self._samples += batch.samples * trainer.world_size
        if trainer.global_step % logging_interval(trainer) == 0:
            pl_module.log_dict(self._figures(pl_module.device))
            self._begin()
        self._last_end = time.perf_counter()

    def _begin(self) -> None:
        self._started = self._last_end = time.perf_counter()
        self._waited, self._samples, self._steps = 0.0, 0, 0

    def _figures(self, device: torch.device) -> dict[str, float]:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - self._started
        # Linux counts in KiB, macOS in bytes
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        figures = {
            "speed/samples_per_second": self._samples / seconds,
            "speed/seconds_per_step": seconds / self._steps,
            "speed/data_wait_share": min(self._waited / seconds, 1.0),
            "memory/process_gib": peak / 2**30,
        }
        if device.type == "cuda":
            figures["memory/cuda_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
            available = get_available_flops(device, torch.bfloat16) if self._flops else None
            if available and self._flops:
                figures["speed/mfu"] = self._flops * self._steps / seconds / available
        return figures
