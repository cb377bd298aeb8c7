"""Do ITC and ITM beside the task help where labels are few, and on which posts?

    python -m benchmarks.few_labels [--labels 50 200] [--starts scratch frozen warm trained] [--seeds 5] [--out OUT]

Three made tasks, in which a feature vector shows one concept in noise, and a text of two names gives a concept and a
style: the label says whether the two concepts match; or is a function of the concept, which both show; or of the style,
which the text alone gives. For the last two there is a concept for every second label, so that many a one is new in the
test. "Extra" are 4,000 posts without a label whose text names the picture's concept; a step has 32 labelled posts and
64 of these, or the labelled ones alone. Towers are new (scratch), or pretrained by ITC for 400 steps on 4,000 further
such posts and then frozen, warm (a tenth of the learning rate) or trained (all of it). Macro F1 after 250 steps on
2,000 other samples: the task alone, and what each recipe adds, mean and 95 % interval over seeds (samples and weights),
paired by seed, in Markdown. OUT/scores.json keeps what was trained, so that a benchmark that was stopped goes on.
"""

import argparse
import io
import json
import random
from collections.abc import Iterator
from functools import cache, cached_property
from itertools import product
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks.runs import interval, say
from datamodules import Batch, RelationDataModule, ShardDataModule, Source
from datamodules.shards.encoding import encoded_sample
from datamodules.shards.writing import write_shards
from losses import OneToKLoss
from mmtrain.embedding.predictions import PredictedSplit
from mmtrain.evaluation.measuring.relation import relation_figures
from mmtrain.fusion import TextToImageAttention
from mmtrain.models.batches import embed_batch
from mmtrain.towers import ByteGRU, FeatureTower
from mmtrain.training.contrastive import ContrastiveModule
from mmtrain.training.relation import RelationModule

KINDS = ("match", "latent", "text")
STARTS: dict[str, dict[str, Any]] = {
    "scratch": {},
    "frozen": {"frozen": ("image", "text"), "tower_rate": 0.1},
    "warm": {"tower_rate": 0.1},
    "trained": {"tower_rate": 1.0},
}
BATCH, EXTRA, FEATURES, WIDTH, DIMENSION, RATE = 32, 64, 32, 64, 32, 3e-3
PRETRAINING, STEPS = 400, 250
MATCHED = 8  # concepts of the matching task, each with many pairs, since each has to be learned on both sides
TASK = "task alone"
ON_MATCHES = {"task": [1]}
PUBLISHED, SMALL = {"itc": 0.1, "itm": 0.1}, {"itc": 0.02, "itm": 0.1}
RECIPES: dict[str, tuple[bool, dict[str, Any]]] = {  # with extra posts or without, and the module's options
    TASK: (False, {"itc": 0.0, "itm": 0.0}),
    "published": (False, PUBLISHED),
    "ITC .1": (False, {"itc": 0.1, "itm": 0.0}),
    "ITC .02": (False, {"itc": 0.02, "itm": 0.0}),
    "ITM .1": (False, {"itc": 0.0, "itm": 0.1}),
    "ITC .1 on matches": (False, {"itc": 0.1, "itm": 0.0, "itc_on": ON_MATCHES}),
    "ITC .02, ITM .1": (False, SMALL),
    "ITC .02, ITM .1 on matches": (False, SMALL | {"itc_on": ON_MATCHES}),
    "ITC .1 on extra": (True, {"itc": 0.1, "itm": 0.0}),
    "ITC .02 on extra": (True, {"itc": 0.02, "itm": 0.0}),
    "published on extra": (True, PUBLISHED),
    "ITC .02, ITM .1 on extra": (True, SMALL),
}


def made(task: dict) -> Iterator[dict]:
    """The samples of a made task; those of the kind "extra" have no label."""
    concepts = task["concepts"]
    names = ["".join(pair) for pair in product("abcdefghijklmnopqrst", repeat=2)][:concepts]
    world = np.random.default_rng(0)  # the same for all splits and seeds
    shown = world.standard_normal((concepts, FEATURES))
    said = world.permutation(np.arange(concepts) % 2)
    draw, noise = random.Random(task["seed"]), np.random.default_rng(task["seed"])
    for number in range(task["samples"]):
        concept = other = draw.randrange(concepts)
        style = draw.randrange(concepts)
        matches = draw.random() < 0.5
        if task["kind"] == "match" and not matches:
            other = draw.choice([each for each in range(concepts) if each != concept])
        labels = {"match": int(matches), "latent": int(said[concept]), "text": int(said[style])}
        file = io.BytesIO()
        np.save(file, (shown[concept] + 0.7 * noise.standard_normal(FEATURES)).astype(np.float32))
        text = f"{names[other]}{names[style].upper()}"
        record: dict[str, Any] = {"id": f"s{number}", "image_id": f"s{number}", "captions": {"und": text}}
        if task["kind"] in labels:
            record["labels"] = {"task": labels[task["kind"]]}
        yield encoded_sample(number, record, file.getvalue(), "npy")


def towers() -> dict[str, Any]:
    return {"image": FeatureTower(FEATURES), "text": ByteGRU(WIDTH, embedding=32), "dimension": DIMENSION}


def fit(module: pl.LightningModule, data: pl.LightningDataModule, steps: int) -> None:
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=steps,
        limit_val_batches=0,
        log_every_n_steps=steps + 1,
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=data)


class Posts(RelationDataModule):
    """Labelled posts, with extra ones or without, in the same batches for every training: they are read once."""

    def __init__(self, folder: Path, extra: bool) -> None:
        sources = [Source(str(folder / "train"), BATCH, objectives=["task/task"] if extra else None)]
        if extra:
            sources.append(Source(str(folder / "extra"), EXTRA))
        size = BATCH + EXTRA if extra else BATCH
        super().__init__(sources, batch_size=size, workers=0, seed=int(folder.name))
        self.setup("fit")
        self._batches: list[Batch] = []
        while len(self._batches) < STEPS:
            for batch in super().train_dataloader():
                self.trained(batch)
                self._batches.append(batch)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(cast(Dataset, self._batches), batch_size=None)


class MadeTask:
    """A made task of one seed, and what trainings on it share."""

    def __init__(self, out: Path, labels: int, kind: str, seed: int) -> None:
        self.folder, self.seed = out / f"{labels}_{kind}" / str(seed), seed
        concepts = MATCHED if kind == "match" else labels // 2
        splits = (("train", kind, labels), ("test", kind, 2000), ("extra", "extra", 4000), ("space", "extra", 4000))
        for part, (split, what, samples) in enumerate(splits):
            task = {"kind": what, "concepts": concepts, "samples": samples, "seed": 10 * seed + part}
            write_shards(self.folder / split, [task], made)
        self.posts = cache(lambda extra: Posts(self.folder, extra))

    @cached_property
    def test(self) -> list[Batch]:
        data = RelationDataModule(test=str(self.folder / "test"), batch_size=500, workers=0)
        data.setup("test")
        return list(data.test_dataloader())

    @cached_property
    def space(self) -> ContrastiveModule:
        """Towers that ITC trained on posts like the extra ones."""
        pl.seed_everything(self.seed, verbose=False)
        module = ContrastiveModule(**towers(), objectives={"itc": OneToKLoss()}, learning_rate=RATE, warmup_steps=20)
        posts = ShardDataModule(str(self.folder / "space"), batch_size=EXTRA, workers=0, seed=self.seed)
        fit(module, posts, PRETRAINING)
        return module

    def macro_f1(self, start: str, recipe: str) -> float:
        """Of one training."""
        extra, weights = RECIPES[recipe]
        posts, space = self.posts(extra), None if start == "scratch" else self.space
        pl.seed_everything(self.seed, verbose=False)
        fusion = TextToImageAttention(WIDTH)
        module = RelationModule(**towers(), fusion=fusion, learning_rate=RATE, **STARTS[start], **weights)
        if space is not None:
            module.model.load_state_dict(space.model.state_dict())
            module.objectives["itc"].load_state_dict(space.objectives["itc"].state_dict())
        fit(module, posts, STEPS)
        split = PredictedSplit(module.eval().head)
        with torch.inference_mode():
            for batch in self.test:
                split.add(batch, embed_batch(module.model, batch, tokens=True))
        return relation_figures(split.gather(), posts.languages)["macro_f1"]


def few_labels(
    out: Path, labels: list[int], kinds: list[str], starts: list[str], recipes: list[str], seeds: range
) -> None:
    """Trains what scores.json does not hold yet, and prints the table."""
    file = out / "scores.json"
    scores: dict[str, dict[str, float]] = json.loads(file.read_text()) if file.is_file() else {}
    rows = list(product(labels, kinds, starts))
    for seed, (count, kind) in product(seeds, product(labels, kinds)):
        task: MadeTask | None = None
        for start, recipe in product(starts, recipes):
            found = scores.setdefault(f"{count} {kind}, {start}, {recipe}", {})
            if str(seed) not in found:
                task = task or MadeTask(out, count, kind, seed)
                found[str(seed)] = task.macro_f1(start, recipe)
                file.write_text(json.dumps(scores))
    say(f"| labels | towers | {' | '.join(recipes)} |")
    say("| --- " * (2 + len(recipes)) + "|")
    for count, kind, start in rows:
        by_recipe = [[scores[f"{count} {kind}, {start}, {name}"][str(seed)] for seed in seeds] for name in recipes]
        gains = [interval(np.subtract(values, by_recipe[0]).tolist()) for values in by_recipe[1:]]
        say(f"| {count} {kind} | {start} | {' | '.join([interval(by_recipe[0]), *gains])} |")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark_few_labels"))
    parser.add_argument("--labels", type=int, nargs="+", default=[50, 200])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--starts", nargs="+", choices=STARTS, default=list(STARTS))
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first_seed", type=int, default=0)
    options = parser.parse_args(arguments)
    recipes = [TASK, *(name for name in options.recipes if name != TASK)]
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    few_labels(options.out, options.labels, options.kinds, options.starts, recipes, seeds)


if __name__ == "__main__":
    main()
