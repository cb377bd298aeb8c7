"""The table of one device, shrunken: every row runs here, and what it counts is right."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.capped_rows import Line
from benchmarks.device import reached, rows
from benchmarks.device_steps import SMALL, batch_of, flops_of, work_of

ROOT = Path(__file__).parents[2]
APART = {"step, compiled", "loader", "search", "step, FSDP2"}  # slow, or what a GPU alone has


def test_rows_run_here_and_measure() -> None:
    for row in rows(small=True):
        if row.name not in APART:
            lines = list(row.measure())
            assert lines and not any("not measured" in line.note for line in lines), (row.name, lines)


@pytest.mark.system
def test_the_whole_table_runs_here() -> None:
    command = [sys.executable, "-m", "benchmarks.device", "--small"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    said = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=900, check=True)
    table = [line.split(" | ") for line in said.stdout.splitlines() if line.startswith("| ")]
    assert {cells[0].removeprefix("| ") for cells in table} == {"what", *(row.name for row in rows(small=True))}
    assert [cells[0] for cells in table if any("not measured" in cell for cell in cells)] == ["| search"]


@pytest.mark.system
def test_steps_import_little() -> None:
    absent = ("open_clip", "webdataset", "jsonargparse", "wandb", "faiss", "pytorch_lightning", "lightning_fabric")
    script = (
        f"import sys; sys.modules.update(dict.fromkeys({absent}))\n"
        "from benchmarks.device_steps import SMALL, loss_row, step_row\n"
        "lines = [next(step_row(SMALL, 4, 4)), *loss_row(64, 16)]\n"
        "print(*('not measured' in line.note for line in lines))"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    said = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["False", "False", "True"]  # open_clip's loss


def test_operations_are_counted() -> None:
    layer = nn.Linear(8, 16)
    assert flops_of(layer, torch.ones(4, 8)) == 2 * 2 * 4 * 8 * 16  # forward, and the weight's gradient
    queries = torch.ones(1, 2, 5, 8, requires_grad=True)
    assert flops_of(nn.functional.scaled_dot_product_attention, queries, queries, queries) == 3 * 2 * 2 * 2 * 5 * 5 * 8


def test_padding_and_repetition() -> None:
    batch, model = batch_of(SMALL, 3, 2), SMALL.model()
    (once, tokens), (twice, more) = work_of(model, batch), work_of(model, batch, 2)
    assert tokens == 3 * 5 + batch.token_mask.sum() and more == tokens + 3 * 5
    batch.token_mask = torch.nn.functional.pad(batch.token_mask, (0, 50))
    assert work_of(model, batch) == (once, tokens) and once < twice < 2 * once


def test_the_figures_to_reach() -> None:
    found = {
        ("step, ViT-B/16, K = 1", "ours"): Line("ours", 500, 2048),
        ("step, ViT-B/16, K = 1", "open_clip, 77 tokens"): Line("open_clip", 1000, 1024),
        ("loss, B = 65,536", "ours"): Line("ours", 320),
    }
    one, four, large, share = reached(found)
    assert ": 2.00 (wanted: 1.3)" in one and ": not measured" in four and ": not measured" in large
    assert ": 1.0% (wanted" in share
