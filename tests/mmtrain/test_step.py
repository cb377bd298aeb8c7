"""What a step of the training starts with: randomness and a rate that follow from the samples seen."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from datamodules import ShardDataModule
from losses import ClipLoss
from mmtrain.towers import ByteGRU, FeatureTower
from mmtrain.training.checks import check_batch_norm
from mmtrain.training.contrastive import ContrastiveModule

BATCH = SimpleNamespace(samples=8)  # of a batch, the start of a step reads no more


def module_at(samples_seen: int, *, seed: int = 0, rank: int = 0, world: int = 1, **options) -> ContrastiveModule:
    torch.manual_seed(seed)
    module = ContrastiveModule(FeatureTower(4), ByteGRU(width=8), {"clip": ClipLoss()}, dimension=4, **options)
    module.samples_seen = samples_seen
    module.trainer = SimpleNamespace(
        world_size=world,
        global_rank=rank,
        accumulate_grad_batches=1,
        max_steps=100,
        max_epochs=-1,
        global_step=0,
        datamodule=ShardDataModule(),
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


def test_callbacks_do_not_accumulate_either() -> None:
    module = module_at(0)
    module.trainer.accumulate_grad_batches = 2
    with pytest.raises(ValueError, match="trainer.accumulate_grad_batches: got 2, expected 1.* --model.micro_batch"):
        module.on_train_batch_start(BATCH, 0)


@pytest.mark.parametrize(
    ("layer", "processes", "said"), [("BatchNorm2d", 2, 1), ("SyncBatchNorm", 2, 0)] + [("BatchNorm2d", 1, 0)]
)
def test_normalising_over_a_part_of_the_batch_is_said(
    layer: str, processes: int, said: int, caplog: pytest.LogCaptureFixture
) -> None:
    model = torch.nn.Sequential(getattr(torch.nn, layer)(4), torch.nn.BatchNorm1d(4).eval())
    with caplog.at_level("INFO"):
        check_batch_norm(model, processes)
    assert sum("model.0 normalises over each process's part" in message for message in caplog.messages) == said


@pytest.mark.parametrize(("seen", "world", "share"), [(0, 1, 0.5 / 4), (16, 1, 2.5 / 4), (16, 2, 1.5 / 4)])
def test_the_rate_is_that_of_the_middle_of_the_step(seen: int, world: int, share: float) -> None:
    module = module_at(seen, world=world, learning_rate=0.2, warmup_steps=4)
    module.on_train_batch_start(BATCH, 0)
    groups = module.trainer.optimizers[0].param_groups
    assert [group["lr"] for group in groups] == pytest.approx([0.2 * share] * len(groups))
