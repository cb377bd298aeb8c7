"""What does 1-to-K give beside open_clip's loss and recipe, with the same towers, data and time?

    python -m benchmarks.emoji --train shards/noto --test shards/twemoji --minutes 10 --seeds 5

Trains configs/pretrain/tiny.yaml on one maker's emoji for so many minutes each: with 1-to-K on K captions an image, and
with open_clip's own ClipLoss (open_clip_torch) on one caption of one random language an image. Both then look for the
other maker's pictures by name. Minutes are those of processors, readers included; a few steps are timed first, so that
each schedule ends when its time is up. Prints steps, mean R@1 and R@10 over the languages, chance beside them, as means
over seeds with 95 % intervals, each seed's figures as soon as it is done.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.runs import CONFIGS, evaluated, fit_seconds, interval, say
from losses import Embeddings, Objective

LANGUAGES = "[en,lv,de,fr,es,ru,ar,hi,ja,zh,fi,tr]"
SHORT, TIMED = 10, 50  # steps before a step is timed, and those that are


class OpenClipObjective(Objective):
    """open_clip's ClipLoss as it is, on the first caption of each image, with its initial scale and clamp."""

    def __init__(self) -> None:
        super().__init__()
        from open_clip.loss import ClipLoss

        self.clip_loss = ClipLoss()
        self.log_scale = nn.Parameter(torch.tensor(1 / 0.07).log())

    def forward(self, embeddings: Embeddings) -> Tensor:
        with torch.no_grad():
            self.log_scale.clamp_(0, torch.tensor(100.0).log())
        return self.clip_loss(embeddings.image, embeddings.texts[:, 0], self.log_scale.exp())


RECIPES = {
    "1-to-K, K = 3": {"data.captions_per_image": 3},
    "open_clip ClipLoss, one caption": {
        "data.captions_per_image": 1,
        "model.objectives": {"clip": {"class_path": "benchmarks.emoji.OpenClipObjective"}},
    },
}


def run(options: argparse.Namespace) -> None:
    images, test = 0, Path(options.test)

    def seconds(name: str, steps: int, seed: int) -> float:
        settings = {"data.train": options.train, "data.languages": LANGUAGES, "trainer.max_steps": steps}
        settings |= {"seed_everything": seed, "data.seed": seed, **RECIPES[name]}
        return fit_seconds(CONFIGS / "pretrain" / "tiny.yaml", folder(name), settings)

    def folder(name: str) -> Path:
        return Path(options.out) / name.split(",")[0].replace(" ", "_")

    steps = {}
    for name in RECIPES:
        # the difference of two runs leaves out imports and set-up
        timed = seconds(name, SHORT + TIMED, 0) - seconds(name, SHORT, 0)
        steps[name] = round(60 * options.minutes * TIMED / timed)
    figures: dict[str, list[tuple[float, float, float]]] = {name: [] for name in RECIPES}
    for seed in range(options.seeds):
        for name in RECIPES:
            minutes = seconds(name, steps[name], seed) / 60
            metrics = evaluated(folder(name), test, "--languages", LANGUAGES)
            mean, images = metrics["text_to_image"]["mean"], metrics["protocol"]["images"]
            figures[name].append((minutes, mean["R@1"], mean["R@10"]))
            say(f"seed {seed}, {name}: " + ", ".join(f"{value:.1f}" for value in figures[name][-1]))
    say(f"\n| recipe | steps | minutes | R@1 | R@10 |   (percent of {images} pictures, {options.seeds} seeds)")
    say("|---|---|---|---|---|")
    for name, rows in figures.items():
        say(f"| {name} | {steps[name]} | " + " | ".join(map(interval, zip(*rows, strict=True))) + " |")
    say(f"| chance | | | {100 / images:.1f} | {1000 / images:.1f} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--out", default="runs/benchmark_emoji")
    run(parser.parse_args())
