"""Towers frozen and unfrozen by a schedule, with weights of objectives and a learning rate of its own."""

from dataclasses import dataclass
from typing import Any, Literal

import pytorch_lightning as pl
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities import rank_zero_info

from mmtrain.models.adapters import TOWERS, adapter_of, train_adapters
from mmtrain.towers import Tower
from mmtrain.training.contrastive import ContrastiveModule
from mmtrain.training.optimisation import depths_of


@dataclass
class Phase:
    """What is trained from a step on, and how.

    Args:
        from_step: First optimiser step, 0 for the beginning.
        image: Blocks of the image tower that are trained, counted from the output; 0 freezes it, "all" trains it, None
            trains what the tower's own options and adapters leave to be trained.
        text: The same of the text tower.
        weights: Weights of objectives in the sum, by the names that the log has behind train/; of others, the module's.
        learning_rate: Peak of the learning rate; groups with a rate of their own keep their ratio to it. None takes
            the module's.
    """

    from_step: int
    image: int | Literal["all"] | None = None
    text: int | Literal["all"] | None = None
    weights: dict[str, float] | None = None
    learning_rate: float | None = None


class Phases(pl.Callback):
    """A callback that freezes and unfreezes towers, as LiT (Zhai et al. 2022: image 0 throughout) and CLIP-Italian
    (Bianchi et al. 2021: first the projections alone, then everything) do, and changes weights and learning rate.

    A tower that is frozen whole is in evaluation mode too. The learning rate's schedule, from warm-up to end, is that
    of the whole run, whatever its peak. A phase says all that it changes: nothing goes on from the one before it.

    Args:
        phases: In the order of their steps, the first from step 0.

    Raises:
        ValueError: for phases out of order, a block a tower lacks, weights that the optimiser does not get since the
            tower is frozen or has adapters, an objective that the module lacks, a weight or rate below 0, or a strategy
            that waits for frozen gradients.
    """

    def __init__(self, phases: list[Phase]) -> None:
        starts = [phase.from_step for phase in phases]
        if not starts or starts[0] != 0 or sorted(set(starts)) != starts:
            raise ValueError(f"phases: from_step is {starts}, expected numbers that rise from 0")
        for phase in phases:
            numbers = [*(phase.weights or {}).values(), *([] if phase.learning_rate is None else [phase.learning_rate])]
            if min(numbers, default=0) < 0:
                raise ValueError(
                    f"phases: from step {phase.from_step}: got {min(numbers)}, expected weights and rates from 0"
                )
        self.phases = phases
        self._current: Phase | None = None
        self._optimised: dict[str, set[str]] = {}  # by tower, the names of the parameters that the optimiser gets

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        strategy = trainer.strategy
        waits = isinstance(strategy, DDPStrategy) and not strategy._ddp_kwargs.get("find_unused_parameters")
        if stage == "fit" and waits and trainer.world_size > 1:
            raise ValueError(
                "phases: processes would wait for the gradients of frozen towers; --trainer.strategy"
                " ddp_find_unused_parameters_true"
            )
        for side in TOWERS:
            tower = getattr(pl_module.model, side)
            self._optimised[side] = {name for name, each in tower.named_parameters() if each.requires_grad}
            for phase in self.phases:
                self._trained(tower, side, phase)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, ContrastiveModule)
        self._weights, self._rate = dict(pl_module.weights), pl_module.learning_rate
        for phase in self.phases:
            if phase.learning_rate is not None and not self._rate:
                raise ValueError(
                    "phases: learning_rate: model.learning_rate is 0, and the groups' rates are ratios of it"
                )
            for name in phase.weights or {}:
                if name not in self._weights:
                    raise ValueError(f"phases: weights: {name!r} is none of the objectives {', '.join(self._weights)}")

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, ContrastiveModule)
        phase = [phase for phase in self.phases if phase.from_step <= trainer.global_step][-1]
        if phase is not self._current:
            pl_module.weights = self._weights | (phase.weights or {})
            pl_module.clock.peak = self._rate if phase.learning_rate is None else phase.learning_rate
            if phase.weights is not None or phase.learning_rate is not None:
                weights = ", ".join(f"{weight:g} {name}" for name, weight in pl_module.weights.items())
                rank_zero_info(
                    f"step {trainer.global_step}: {weights}; the learning rate's peak is {pl_module.clock.peak:g}"
                )
        for side in TOWERS:
            tower, trained = getattr(pl_module.model, side), getattr(phase, side)
            if phase is not self._current:
                names = self._trained(tower, side, phase)
                for name, parameter in tower.named_parameters():
                    parameter.requires_grad_(name in names)
                states = {"all": "trained", 0: "frozen", None: "trained as its options say"}
                state = states.get(trained, f"its last {trained} blocks are trained")
                rank_zero_info(f"step {trainer.global_step}: {side} tower: {state}")
            if trained == 0:
                tower.eval()  # each time: validation ends with all in training mode
            elif tower.frozen is False and phase is not self._current:
                adapted = bool(pl_module.model.bank.settings)  # whose base stays in evaluation mode
                tower.train(not adapted)
                if adapted:
                    train_adapters(tower)
        self._current = phase

    def _trained(self, tower: Tower, side: str, phase: Phase) -> set[str]:
        """The names of the parameters of a tower that a phase trains."""
        blocks, optimised = getattr(phase, side), self._optimised[side]
        if blocks is None:
            return optimised
        depths, count = depths_of(tower)
        if blocks not in ("all", 0) and not 0 < int(blocks) <= count:
            raise ValueError(
                f"phases: {side}: {blocks} blocks, {type(tower).__name__} has {count}; 0 to {count}, or all"
            )
        # what stands behind the blocks goes with the last of them, what stands before them only with all
        names = {name for name in depths if blocks == "all" or (blocks != 0 and depths[name] > count - int(blocks))}
        missing = sorted(names - optimised)
        if missing and (tower.frozen or any(map(adapter_of, optimised))):
            raise ValueError(
                f"phases: {side}: {blocks} from step {phase.from_step} would train {missing[0]}, which the optimiser"
                f" does not get: model.{side}.frozen or an adapter freezes it; leave {side} out"
            )
        return names & optimised
