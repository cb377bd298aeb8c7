"""Parameter groups and the schedule."""

import math

import pytest
import torch

from mmtrain.towers import TimmTower
from mmtrain.training.optimisation import Schedule, parameter_groups, rate_factor


def test_the_learning_rate_rises_then_falls() -> None:
    at = [rate_factor(n, "cosine", warmup_samples=100, total_samples=1100) for n in (0, 50, 100, 600, 1100, 2000)]
    assert at == pytest.approx([0.0, 0.5, 1.0, 0.5, 0.0, 0.0])
    assert rate_factor(10**9, "cosine", warmup_samples=100, total_samples=math.inf) == 1.0


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("linear", [0.5, 1.0, 0.5, 0.0, 0.0]),
        ("constant", [0.5, 1.0, 1.0, 0.0, 0.0]),
        ("rsqrt", [0.5, 1.0, math.sqrt(100 / 600), 0.0, 0.0]),
    ],
)
def test_other_schedules(schedule: Schedule, expected: list[float]) -> None:
    def factor(n: int, cooldown: int = 0) -> float:
        return rate_factor(n, schedule, warmup_samples=100, total_samples=1100, cooldown_samples=cooldown)

    assert [factor(n, 200) for n in (50, 100, 600, 1100, 2000)] == pytest.approx(expected)
    if schedule != "linear":
        assert factor(1000, 200) == pytest.approx(factor(1000) / 2)  # half of the way down
        assert rate_factor(10**9, schedule, warmup_samples=10**9, total_samples=math.inf) == 1.0


def test_gains_and_biases_are_not_decayed() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.LayerNorm(4))
    module[0].bias.requires_grad_(False)
    groups = parameter_groups({"head": module}, learning_rate=0.1, weight_decay=0.2)
    decayed = {group["weight_decay"]: len(group["params"]) for group in groups}
    assert decayed == {0.2: 1, 0.0: 2}  # the frozen bias is in neither


def test_layer_decay_lowers_the_rate_towards_the_input() -> None:
    tower = TimmTower("test_vit")
    depth = len(tower.network.blocks)
    groups = parameter_groups({"image": tower}, learning_rate=1.0, weight_decay=0.1, layer_decay=0.5)
    rate = {id(parameter): group["base_lr"] for group in groups for parameter in group["params"]}
    blocks = [rate[id(block.attn.qkv.weight)] for block in tower.network.blocks]
    assert blocks == [0.5 ** (depth - index) for index in range(depth)]
    assert rate[id(tower.network.patch_embed.proj.weight)] == 0.5 ** (depth + 1)
    assert rate[id(tower.network.norm.weight)] == 1.0
