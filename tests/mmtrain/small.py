"""`mmtrain fit` with towers small enough for a test."""

import os
from pathlib import Path

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
