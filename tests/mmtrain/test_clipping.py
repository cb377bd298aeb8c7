"""Adaptive gradient clipping: row by row, alike on one process and on two, with an optimiser of timm's."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mmtrain.training.optimisation import clip_adaptively
from tests.mmtrain.runs import weights
from tests.mmtrain.small import ENVIRONMENT, arguments, fit

ADABELIEF = "{class_path: timm.optim.AdaBelief, init_args: {eps: 1.0e-8}}"
OPTIONS = [f"--model.optimizer={ADABELIEF}", "--model.learning_rate=0.01", "--trainer.max_steps=3"]
CLIPPED = ["--model.adaptive_clipping=0.01"]


def test_each_row_is_clipped_by_its_own_length() -> None:
    layer = torch.nn.Linear(4, 3)
    with torch.no_grad():
        layer.weight[1].zero_()
    (layer(torch.randn(8, 4)) * torch.tensor([1e-4, 10.0, 10.0])).sum().backward()
    before = layer.weight.grad.clone(), layer.bias.grad.clone()
    clip_adaptively([*layer.parameters(), torch.nn.Parameter(torch.ones(2))], 0.01)
    for row in range(3):
        limit = 0.01 * max(layer.weight[row].norm().item(), 1e-3)
        right = before[0][row] * min(1.0, limit / before[0][row].norm().item())
        torch.testing.assert_close(layer.weight.grad[row], right)
    assert torch.equal(layer.weight.grad[0], before[0][0])
    limit = 0.01 * layer.bias.norm().item()
    torch.testing.assert_close(layer.bias.grad, before[1] * limit / before[1].norm())


def test_a_run_with_adabelief_and_clipping(shards: Path, tmp_path: Path) -> None:
    assert fit(shards, tmp_path / "plain", *OPTIONS) == 0
    assert fit(shards, tmp_path / "clipped", *OPTIONS, *CLIPPED) == 0
    plain, clipped = weights(tmp_path / "plain"), weights(tmp_path / "clipped")
    assert any(not torch.equal(each, clipped[name]) for name, each in plain.items())


@pytest.mark.system
def test_two_processes_clip_as_one_does(shards: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    assert fit(shards, one, *OPTIONS, *CLIPPED) == 0
    both = ["--data.batch_size=4", "--trainer.devices=2", "--trainer.strategy=ddp"]
    command = [sys.executable, "-m", "mmtrain.cli", *arguments(shards, two, *OPTIONS, *CLIPPED, *both)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr[-3000:]
    other = weights(two)
    for name, each in weights(one).items():
        torch.testing.assert_close(other[name], each, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.adaptive_clipping=0"], "model.adaptive_clipping: got 0.0, expected a ratio above 0"),
        ([*CLIPPED, "--trainer.gradient_clip_val=0.5"], "got 0.01 beside trainer.gradient_clip_val 0.5; expected one"),
        ([*CLIPPED, "--trainer.strategy=fsdp2"], "fsdp2 divides the weights that it compares with; use ddp"),
    ],
)
def test_what_cannot_be_clipped_is_one_line(
    options: list[str], message: str, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit(shards, tmp_path, "--trainer.max_steps=1", *options) != 0
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and message in lines[0], lines
