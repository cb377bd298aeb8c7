"""What to do when a run goes wrong: stop before it spoils its checkpoints, or say what it looks like."""

import json
import math
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor, distributed
from torch.distributed.tensor import DTensor

from datamodules.files import write_whole
from mmtrain.training.contrastive import ContrastiveModule
from mmtrain.training.data import logging_interval
from mmtrain.training.sharding import whole
from mmtrain.training.waiting import Later

WARNED_AFTER = 20  # logging steps in a row


class Guard(pl.Callback):
    """Leaves out steps whose loss or gradient is not finite, and stops after too many of them in a row.

    Their sample ids are written to `nonfinite.json` in the run folder. Such a step changes no weight, so the last
    checkpoint stays good. Warns, once each and with the likely cause, of a loss stuck at its value for a model that
    knows nothing, of a temperature at its bound, and of embeddings that have all become one.

    In float16 a gradient is not finite where the loss was scaled too high, and the scale is halved: such steps count
    only once there is no scale left to halve, or where the loss itself is not finite.

    A fused optimiser is told on its device to leave the step out, and the guard reads and says so in the next step,
    before that changes a weight: no step waits for its device.

    Args:
        nonfinite_steps: How many steps in a row end the run.
    """

    def __init__(self, nonfinite_steps: int = 3) -> None:
        if nonfinite_steps < 1:
            raise ValueError(f"guard.nonfinite_steps: got {nonfinite_steps}, expected at least 1")
        self.nonfinite_steps = nonfinite_steps
        self._loss = torch.zeros(())
        self._ids: list[str] = []
        self._later, self._step = Later(), (-1, self._ids)
        self._in_a_row: list[dict[str, Any]] = []
        self._counts: dict[str, int] = {}
        self._warned: set[str] = set()

    # ---- numbers that are none

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._ids = batch.sample_ids

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        self._loss = loss.detach()

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        gradients = [parameter.grad for parameter in pl_module.parameters() if parameter.grad is not None]
        norm = whole(torch.nn.utils.get_total_norm(gradients))
        broken = (~(torch.isfinite(norm) & torch.isfinite(self._loss))).int()
        broken = trainer.strategy.reduce(broken, reduce_op="sum").clamp(max=1)
        seen = torch.stack([each.float() for each in (broken, self._loss, norm)])
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        if scaler is None and _leaves_out(optimizer):
            vars(optimizer)["found_inf"] = broken.float()  # as a GradScaler does
            before, numbers = self._step, self._later.exchange(seen)
            self._step = trainer.global_step, self._ids
        else:
            before, numbers = (trainer.global_step, self._ids), seen.tolist()
            if numbers[0] and scaler is not None and scaler.get_scale() > 1 and math.isfinite(numbers[1]):
                return  # float16 finds its scale by such steps: it leaves them out itself, and halves the scale
            if numbers[0]:
                for parameter in pl_module.parameters():
                    parameter.grad = None  # AdamW passes over parameters without one
        self._judge(trainer, before, numbers)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._judge(trainer, self._step, self._later.exchange(None))

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        if (numbers := self._later.exchange(None)) and numbers[0]:
            self._record(trainer, self._step, numbers)  # of this process: others may not be there

    def _judge(self, trainer: pl.Trainer, step: tuple[int, list[str]], numbers: list[float]) -> None:
        """Records a step, (its number, its sample ids), whose numbers (broken, loss, norm) say that it is broken."""
        if not numbers:
            return
        if not numbers[0]:
            self._in_a_row.clear()
            return
        if trainer.world_size > 1:
            gathered: list = [None] * trainer.world_size
            distributed.all_gather_object(gathered, step[1])
            step = step[0], [name for part in gathered for name in part]
        path = self._record(trainer, step, numbers)
        seen = f"loss {numbers[1]}, gradient norm {numbers[2]} in step {step[0]}"
        if len(self._in_a_row) >= self.nonfinite_steps:
            raise ValueError(
                f"guard.nonfinite_steps: {seen}, not finite {self.nonfinite_steps} times in a row; the samples are in"
                f" {path}, the last checkpoint is unharmed; try a lower model.learning_rate or bf16 instead of 16 bits"
            )
        rank_zero_warn(f"{seen}: not finite; the step is left out, its samples are in {path}")

    def _record(self, trainer: pl.Trainer, step: tuple[int, list[str]], numbers: list[float]) -> Path:
        row = {"step": step[0], "loss": str(numbers[1]), "gradient_norm": str(numbers[2]), "ids": step[1]}
        self._in_a_row.append(row)
        path = Path(trainer.default_root_dir) / "nonfinite.json"
        if trainer.is_global_zero and not getattr(trainer, "fast_dev_run", False):
            write_whole(path, json.dumps(self._in_a_row, ensure_ascii=False, indent=1))
        return path

    # ---- numbers that look wrong

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step % logging_interval(trainer) or not isinstance(pl_module, ContrastiveModule):
            return
        figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
        captions = figures.get("space/captions_per_image", 1.0)
        images = len(batch.parts[""]) * trainer.world_size if "" in batch.parts else 0  # parts' chances are not known
        for name, objective in pl_module.named_objectives():
            ignorance = None if images < 2 else objective.chance(images, captions)
            loss = figures.get(f"train/{name}", math.nan)
            self._warn(
                f"loss/{name}",
                f"{name}: the loss is stuck at {loss:.2f}, the value of a model that knows nothing",
                "captions that do not belong to their pictures, a learning rate far too high or low, frozen towers",
                ignorance is not None and abs(loss - ignorance) < 0.01 * ignorance,
            )
            scale = figures.get(f"{name}/scale", math.nan)
            self._warn(
                f"temperature/{name}",
                f"{name}: the temperature is at its bound (scale {scale:.1f})",
                "duplicates among the negatives, noisy pairs or a learning rate too high for the temperature",
                scale >= 99.9 or scale <= 1.001,
            )
        for side in ("image", "text"):
            uniformity = figures.get(f"space/uniformity_{side}", math.nan)
            self._warn(
                f"collapse/{side}",
                f"{side} embeddings have collapsed: all nearly the same (uniformity {uniformity:.3f}, 0 at worst)",
                "a learning rate too high, an objective without negatives, or a tower that sees blank input",
                uniformity > -0.01,
            )

    def _warn(self, key: str, what: str, cause: str, seen: bool) -> None:
        if key in self._warned:
            return
        self._counts[key] = self._counts.get(key, 0) + 1 if seen else 0
        if self._counts[key] == WARNED_AFTER:
            self._warned.add(key)
            rank_zero_warn(f"{what} for {WARNED_AFTER} logging steps; likely: {cause}")


def _leaves_out(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the optimiser itself leaves out a step whose `found_inf` is 1, moments and count of steps included."""
    groups = optimizer.param_groups
    fused = isinstance(optimizer, torch.optim.Adam) and all(group["fused"] for group in groups)
    return fused and not any(isinstance(each, DTensor) for group in groups for each in group["params"])
