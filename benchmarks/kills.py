"""Is a run that is killed again and again the run that was left alone?

    python -m benchmarks.kills --kills 20

Trains tiny towers on generated pictures, writing a checkpoint at every step, so that many kills (SIGKILL, the one that
cannot be caught) fall into the writing of one. Each time the same command goes on with --ckpt_path last. At the end
the weights must equal, bit for bit, those of the run that nobody killed, and metrics.csv must hold each step once with
the same losses. Prints how far each life came and how long a resumed run takes to its first step.
"""

import argparse
import csv
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

CONFIG = Path(__file__).parents[1] / "configs" / "pretrain" / "tiny.yaml"
STEPS = 120
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220), "grey": (128, 128, 128)}
IMAGE = (
    "{class_path: mmtrain.towers.TimmTower, init_args: {name: vit_tiny_patch16_224, image_size: 32,"
    " options: {patch_size: 16, embed_dim: 64, depth: 2, num_heads: 2}}}"
)


@dataclass
class Outcome:
    same: bool
    kills: int
    steps: list[int]  # of last.ckpt after each kill
    first_steps: list[float]  # seconds from the start of a resumed run to its first checkpoint


def command(shards: Path, run: Path) -> list[str]:
    options = {
        "data.train": shards,
        "trainer.default_root_dir": run,
        "trainer.accelerator": "cpu",
        "trainer.max_steps": STEPS,
        "trainer.log_every_n_steps": 1,
        "trainer.enable_progress_bar": "false",
        "trainer.enable_model_summary": "false",
        "data.batch_size": 12,
        "data.captions_per_image": 1,
        "data.images": "{class_path: datamodules.ImagePipeline, init_args: {size: 32}}",
        "model.image": IMAGE,
        "model.text": "{class_path: mmtrain.towers.ByteGRU, init_args: {width: 64}}",
        "checkpoint.every_n_steps": 1,
        "ckpt_path": "last",
    }
    return [sys.executable, "-m", "mmtrain.cli", "fit", "--config", str(CONFIG)] + [
        f"--{name}={value}" for name, value in options.items()
    ]


def pictures(folder: Path) -> Path:
    generator = np.random.default_rng(0)
    rows = []
    for index in range(100):
        name, colour = list(COLOURS.items())[index % 4]
        pixels = (np.array(colour) + generator.integers(-20, 20, (40, 40, 3))).clip(0, 255).astype("uint8")
        Image.fromarray(pixels).save(folder / f"{index}.png")
        rows.append(f'{{"id": "{index}", "image": "{index}.png", "captions": {{"en": "{name} {index}"}}}}')
    (folder / "rows.jsonl").write_text("\n".join(rows), encoding="utf-8")
    subprocess.run(
        [sys.executable, "-m", "mmtrain.cli", "pack", "jsonl", str(folder / "rows.jsonl"), "--out", str(folder / "s")],
        check=True,
        capture_output=True,
    )
    return folder / "s"


def killed_run(folder: Path, kills: int, seed: int) -> Outcome:
    """Trains once undisturbed and once with so many kills at random moments, and compares."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    shards, alone, killed = pictures(folder), folder / "alone", folder / "killed"
    subprocess.run(command(shards, alone), check=True, capture_output=True, env=environment)
    moments, steps, first_steps = random.Random(seed), [], []
    last = killed / "checkpoints" / "last.ckpt"
    while len(steps) < kills:
        before = last.stat().st_mtime_ns if last.exists() else 0
        started = time.monotonic()
        process = subprocess.Popen(
            command(shards, killed), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment
        )
        while process.poll() is None and not (last.exists() and last.stat().st_mtime_ns > before):
            time.sleep(0.01)
        first_steps.append(time.monotonic() - started)
        time.sleep(moments.uniform(0, 0.5))
        if process.poll() is not None:
            if process.returncode:
                raise RuntimeError(process.stderr.read().decode()[-2000:])
            break  # it came to its end before the kill
        process.send_signal(signal.SIGKILL)
        process.wait()
        steps.append(torch.load(last, weights_only=True)["global_step"])
    subprocess.run(command(shards, killed), check=True, capture_output=True, env=environment)
    weights = [
        torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for run in (alone, killed)
    ]
    same = all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
    return Outcome(same and log(alone) == log(killed), len(steps), steps, first_steps[1:])


def log(run: Path) -> list[tuple[str, str]]:
    with (run / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return [(row["step"], row["train/loss"]) for row in csv.DictReader(file)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outcome = killed_run(Path(folder), options.kills, options.seed)
    print(f"{outcome.kills} kills after steps {outcome.steps} of {STEPS}")
    print(f"a resumed run's first step: {min(outcome.first_steps):.1f} to {max(outcome.first_steps):.1f} s")
    print("the same run" if outcome.same else "NOT the same run")
    sys.exit(not outcome.same)
