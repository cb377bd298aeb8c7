"""What a run folder holds, and callbacks that disturb a run."""

import csv
import json
from pathlib import Path

import torch

from mmtrain.models.run_folder import read_checkpoint


def weights(run: Path, name: str = "last.ckpt") -> dict[str, torch.Tensor]:
    return read_checkpoint(run / "checkpoints" / name)["state_dict"]


def log(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def column(run: Path, name: str) -> list[float]:
    return [float(row[name]) for row in log(run) if row.get(name)]


def with_callback(which: str, **options: object) -> str:
    callback = {"class_path": f"tests.mmtrain.stopping.{which}", "init_args": options}
    return f"--trainer.callbacks={json.dumps([callback])}"


def step(path: Path) -> int:
    return read_checkpoint(path)["global_step"]
