"""What does 1-to-K give beside open_clip's loss and recipe, with the same towers, data and time?

    python -m benchmarks.emoji --train shards/noto --test shards/twemoji --minutes 10

Trains configs/pretrain/tiny.yaml on one maker's emoji for so many minutes each: with 1-to-K on K captions an image, and
with open_clip's own ClipLoss (open_clip_torch) on one caption of one random language an image. Both then look for the
other maker's pictures by name. A few steps are timed first, so that each schedule ends when its time is up. Prints
steps, samples, mean R@1 and R@10 over the languages, chance beside them.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from losses import Embeddings, Objective
from mmtrain.cli import main

CONFIG = Path(__file__).parents[1] / "configs" / "pretrain" / "tiny.yaml"
LANGUAGES = "en,lv,de,fr,es,ru,ar,hi,ja,zh,fi,tr"


class OpenClipObjective(Objective):
    """open_clip's ClipLoss as it is, on the first caption of each image, with its initial scale and clamp."""

    def __init__(self) -> None:
        super().__init__()
        from open_clip.loss import ClipLoss

        self.loss = ClipLoss()
        self.log_scale = nn.Parameter(torch.tensor(1 / 0.07).log())

    def forward(self, embeddings: Embeddings) -> Tensor:
        with torch.no_grad():
            self.log_scale.clamp_(0, torch.tensor(100.0).log())
        return self.loss(embeddings.image, embeddings.texts[:, 0], self.log_scale.exp())


RECIPES = {
    "1-to-K, K = 3": ["--data.captions_per_image=3"],
    "open_clip ClipLoss, one caption": [
        "--data.captions_per_image=1",
        "--model.objectives={clip: {class_path: benchmarks.emoji.OpenClipObjective}}",
    ],
}


def fit(run: Path, options: argparse.Namespace, steps: int, extra: list[str]) -> float:
    """Trains for `steps`; returns the seconds it took."""
    started = time.perf_counter()
    arguments = ["fit", "--config", str(CONFIG), f"--data.train={options.train}", f"--data.languages=[{LANGUAGES}]"]
    arguments += [f"--trainer.max_steps={steps}", f"--trainer.default_root_dir={run}", "--trainer.accelerator=cpu"]
    arguments += ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", *extra]
    if main(arguments) != 0:
        raise SystemExit(1)
    return time.perf_counter() - started


def recalls(run: Path, options: argparse.Namespace) -> tuple[float, float, int]:
    out = run / "report"
    if main(["evaluate", str(run), "--data", options.test, "--out", str(out), "--languages", f"[{LANGUAGES}]"]) != 0:
        raise SystemExit(1)
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    mean = metrics["text_to_image"]["mean"]
    return mean["R@1"], mean["R@10"], metrics["protocol"]["images"]


def run(options: argparse.Namespace) -> None:
    rows = []
    for name, extra in RECIPES.items():
        folder = Path(options.out) / name.split(",")[0].replace(" ", "_")
        # the difference of two runs leaves out imports and set-up
        short = fit(folder, options, 10, extra)
        step = (fit(folder, options, 110, extra) - short) / 100
        steps = int(60 * options.minutes / step)
        seconds = fit(folder, options, steps, extra)
        rows.append((name, steps, seconds, *recalls(folder, options)))
    images = rows[0][-1]
    print(f"\n{'recipe':34}{'steps':>8}{'minutes':>9}{'R@1':>7}{'R@10':>7}   (percent of {images} pictures, mean)")
    for name, steps, seconds, first, tenth, _ in rows:
        print(f"{name:34}{steps:8d}{seconds / 60:9.1f}{first:7.1f}{tenth:7.1f}")
    print(f"{'chance':34}{'':8}{'':9}{100 / images:7.1f}{1000 / images:7.1f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--out", default="runs/benchmark_emoji")
    run(parser.parse_args())
