"""The clock of a training: from samples seen to a place in the schedule, through every resume."""

import math
import random
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_info

from mmtrain.training.data import TrainingData
from mmtrain.training.optimisation import Schedule, rate_factor


@dataclass(frozen=True)
class Length:
    """How long a run is, and how far samples seen have brought it in its schedule.

    A schedule is laid out in samples. A run that goes on with another global batch and as many steps as before goes
    through what is left of it at another pace: the rate does not jump, and the last step is its end.

    Args:
        step: Samples of a step when the schedule was laid out; the warm-up is counted in them.
        schedule: Samples of the whole schedule, infinite where the run has no end.
        total: Samples seen at the end.
        max_steps: The trainer's, -1 without.
        max_epochs: The trainer's, -1 without.
        seen: Samples seen when the present pace began.
        place: Place in the schedule when it began.
    """

    step: int
    schedule: float
    total: float
    max_steps: int
    max_epochs: int
    seen: int = 0
    place: float = 0.0

    @property
    def pace(self) -> float:
        """How far in the schedule one sample leads."""
        return 1.0 if math.isinf(self.schedule) else (self.schedule - self.place) / (self.total - self.seen)

    def at(self, samples: float) -> float:
        """The place in the schedule after so many samples."""
        return self.place + (samples - self.seen) * self.pace

    def resumed(self, now: "Length", samples: int) -> "Length":
        """The length of a run that goes on after `samples`, where `now` is that of a run which always was like it.

        An end that stays where it was changes nothing. With as many steps or epochs as before, what is left keeps its
        place in the schedule; with another number it gets the place that it has in a run of that length.
        """
        if now.total == self.total:
            return replace(self, max_steps=now.max_steps, max_epochs=now.max_epochs)
        if (now.max_steps, now.max_epochs) == (self.max_steps, self.max_epochs):
            return replace(self, total=now.total, seen=samples, place=self.at(samples))
        return replace(now, step=self.step)


class Clock:
    """Gives each step its learning rate, by samples seen.

    Args:
        peak: The highest learning rate; it may be set anew between two steps.
        schedule: Its way down.
        warmup_steps: Steps of its way up.
        cooldown_steps: The last steps, of schedules that have them.

    Raises:
        ValueError: for a cooldown of a schedule that falls to 0 without.
    """

    def __init__(self, peak: float, schedule: Schedule, warmup_steps: int, cooldown_steps: int) -> None:
        if cooldown_steps and schedule in ("cosine", "linear"):
            raise ValueError(f"model.cooldown_steps: got {cooldown_steps}; {schedule} falls to 0 without, expected 0")
        self.peak, self._first_peak, self._schedule = peak, peak, schedule
        self._warmup_steps, self._cooldown_steps = warmup_steps, cooldown_steps
        self._length: Length | None = None
        self._restored = False

    @property
    def end(self) -> int | None:
        """Samples seen at the end of the run; None for one without an end, and before the first step."""
        return None if self._length is None or math.isinf(self._length.total) else round(self._length.total)

    def factor(self, trainer: pl.Trainer, data: TrainingData, seen: int, step: int) -> float:
        """The factor of the first peak rate in a step of `step` samples after `seen` samples."""
        if self._length is None or self._restored:
            before, now = self._length, _length(trainer, data, seen, step)
            self._length = now if before is None else before.resumed(now, seen)
            self._restored = False
            if math.isinf(now.schedule) and (self._schedule in ("cosine", "linear") or self._cooldown_steps):
                rank_zero_info(
                    f"trainer.max_steps and trainer.max_epochs do not say where the {self._schedule} schedule ends; its"
                    " rate does not fall"
                )
            if before is not None and before.schedule != self._length.schedule:
                was, rate = (f"{self.peak * self._factor(each, seen, step):.3g}" for each in (before, self._length))
                if was != rate:
                    rank_zero_info(
                        f"the run was {before.total:,.0f} samples long and is now {self._length.total:,.0f}:"
                        f" the learning rate goes from {was} to {rate}"
                    )
        factor = self._factor(self._length, seen, step)
        return factor if self.peak == self._first_peak else factor * self.peak / self._first_peak

    def _factor(self, length: Length, seen: int, step: int) -> float:
        return rate_factor(
            length.at(seen + step / 2),  # the middle of the step, so that neither the first nor the last is idle
            self._schedule,
            warmup_samples=self._warmup_steps * length.step,
            total_samples=length.schedule,
            cooldown_samples=self._cooldown_steps * step * length.pace,
        )

    def state_dict(self) -> dict[str, Any] | None:
        return None if self._length is None else asdict(self._length)

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Goes on where `state` was; None, of a checkpoint of an older version, is a run that is as it always was."""
        self._length, self._restored = None if state is None else Length(**state), True


def _length(trainer: pl.Trainer, data: TrainingData, seen: int, step: int) -> Length:
    """The length of a run as the trainer stands, as if it had been so from the beginning."""
    ends: list[float] = []
    max_epochs = -1 if trainer.max_epochs is None else trainer.max_epochs
    if trainer.max_steps >= 0:
        ends.append(seen + (trainer.max_steps - trainer.global_step) * step)
    if max_epochs >= 0:
        ends.append(seen + data.samples_to_come(max_epochs - trainer.current_epoch))
    end = min(ends, default=math.inf)
    return Length(step, end, end, trainer.max_steps, max_epochs)


def seed_step(*parts: int) -> None:
    """Seeds what a step draws at random (dropout, patch dropout) by seed, samples seen and rank alone.

    So a resumed run draws what the undisturbed one would have drawn.
    """
    seed = hash(parts) % 2**63
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)
