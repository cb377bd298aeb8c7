"""`mmtrain fit` with towers small enough for a test."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mmtrain.cli import main

ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}  # for processes of their own
TINY = str(ROOT / "configs" / "pretrain" / "tiny.yaml")
IMAGE = (
    "{class_path: mmtrain.towers.TimmTower, init_args: {name: vit_tiny_patch16_224, image_size: 32,"
    " options: {patch_size: 16, embed_dim: 32, depth: 1, num_heads: 2}}}"
)
SMALL = [
    "--model.image",
    IMAGE,
    "--model.text",
    "{class_path: mmtrain.towers.ByteGRU, init_args: {width: 32}}",
    "--data.images",
    "{class_path: datamodules.ImagePipeline, init_args: {size: 32}}",
    "--data.batch_size=8",
    "--data.workers=0",
    "--model.dimension=16",
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.val_check_interval=4",
    "--trainer.log_every_n_steps=2",
]


def arguments(shards: Path, run: Path, *options: str) -> list[str]:
    places = [f"--data.train={shards}", f"--data.val={shards}", f"--trainer.default_root_dir={run}"]
    return ["fit", "--config", TINY, *places, *SMALL, *options]


def fit(shards: Path, run: Path, *options: str) -> int:
    return main(arguments(shards, run, *options))


def in_two_processes(command: list[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs a command that must succeed as torchrun does, twice at once: process 1 is this one. What process 0 said."""
    launched = {"TORCHELASTIC_RUN_ID": "test", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}  # what torchrun sets
    first = subprocess.Popen(
        [sys.executable, "-m", "mmtrain.cli", *command],
        env=ENVIRONMENT | launched | {"RANK": "0", "LOCAL_RANK": "0"},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    for name, value in (launched | {"RANK": "1", "LOCAL_RANK": "1"}).items():
        monkeypatch.setenv(name, value)
    assert main(command) == 0
    said, _ = first.communicate(timeout=300)
    assert first.returncode == 0, said
    return said
