"""What a step of the training starts with: randomness and a rate that follow from the samples seen."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from losses import ClipLoss
from mmtrain.towers import ByteGRU, FeatureTower
from mmtrain.training.contrastive import ContrastiveModule

BATCH = range(8)  # of a batch, the start of a step reads the length alone


def module_at(samples_seen: int, *, seed: int = 0, rank: int = 0, world: int = 1, **options) -> ContrastiveModule:
    torch.manual_seed(seed)
    module = ContrastiveModule(FeatureTower(4), ByteGRU(width=8), {"clip": ClipLoss()}, dimension=4, **options)
    module.samples_seen = samples_seen
    module.trainer = SimpleNamespace(
        world_size=world,
        global_rank=rank,
        estimated_stepping_batches=100,
        optimizers=[module.configure_optimizers()],
    )
    return module


def drawn(samples_seen: int, **options) -> tuple[float, ...]:
    """What torch, random and numpy draw first in the step."""
    module_at(samples_seen, **options).on_train_batch_start(BATCH, 0)
    return torch.rand(()).item(), random.random(), float(np.random.rand())


def test_a_step_draws_the_same_wherever_it_starts() -> None:
    assert drawn(16) == drawn(16)


@pytest.mark.parametrize(
    "other", [{"samples_seen": 24}, {"seed": 1}, {"rank": 1}], ids=["another step", "another seed", "another process"]
)
def test_no_two_steps_seeds_or_processes_draw_alike(other: dict[str, int]) -> None:
    one, two = drawn(16, world=2), drawn(**{"samples_seen": 16, "world": 2} | other)
    assert all(a != b for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize(("seen", "world", "share"), [(0, 1, 0.5 / 4), (16, 1, 2.5 / 4), (16, 2, 1.5 / 4)])
def test_the_rate_is_that_of_the_middle_of_the_step(seen: int, world: int, share: float) -> None:
    module = module_at(seen, world=world, learning_rate=0.2, warmup_steps=4)
    module.on_train_batch_start(BATCH, 0)
    groups = module.trainer.optimizers[0].param_groups
    assert [group["lr"] for group in groups] == pytest.approx([0.2 * share] * len(groups))
