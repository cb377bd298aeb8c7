"""Do ITC and ITM beside the task help where labels are few?

    python -m benchmarks.few_labels --out runs/benchmark_few_labels [--labels 200 500] [--seeds 5]

Three made tasks, in which a feature vector shows one concept in noise, and a text of two names gives a concept and a
style: the label says whether the two concepts match; or is a function of the concept, which both show; or of the style,
which the text alone gives. For the last two there is a concept for every second label, so that many a one is new in the
test. Macro F1 on 2,000 other samples: the task alone beside + ITC, + ITM and both (weights 0.1, convex, as published),
mean and 95 % interval over seeds (samples and weights), differences paired by seed.
"""

import argparse
import io
import random
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np

from benchmarks.runs import CONFIGS, QUIET, evaluated, interval, run, say
from datamodules.shards.writing import encoded_sample, write_shards

KINDS = ("match", "latent", "text")
BATCH = 32
MATCHED = 8  # concepts of the matching task, each with many pairs, since each has to be learned on both sides
AUXILIARIES = {"task": (0.0, 0.0), "+ ITC": (0.1, 0.0), "+ ITM": (0.0, 0.1), "+ both": (0.1, 0.1)}


def made(task: dict) -> Iterator[dict]:
    """The samples of a made task."""
    concepts = task["concepts"]
    names = ["".join(pair) for pair in product("abcdefghijklmnopqrst", repeat=2)][:concepts]
    world = np.random.default_rng(0)  # the same for all splits and seeds
    shown = world.standard_normal((concepts, 32))
    said = world.permutation(np.arange(concepts) % 2)
    draw, noise = random.Random(task["seed"]), np.random.default_rng(task["seed"])
    for number in range(task["samples"]):
        concept = other = draw.randrange(concepts)
        style = draw.randrange(concepts)
        matches = draw.random() < 0.5
        if task["kind"] == "match" and not matches:
            other = draw.choice([each for each in range(concepts) if each != concept])
        label = {"match": int(matches), "latent": int(said[concept]), "text": int(said[style])}[task["kind"]]
        file = io.BytesIO()
        np.save(file, (shown[concept] + 0.7 * noise.standard_normal(32)).astype(np.float32))
        text = f"{names[other]}{names[style].upper()}"
        record = {"id": f"s{number}", "image_id": f"s{number}", "captions": {"und": text}, "labels": {"task": label}}
        yield encoded_sample(number, record, file.getvalue(), "npy")


def macro_f1(data: Path, place: Path, seed: int, itc: float, itm: float, steps: int) -> float:
    """Of a new run on the 2,000 test samples."""
    image = "{class_path: mmtrain.towers.FeatureTower, init_args: {width: 32}}"
    text = "{class_path: mmtrain.towers.ByteGRU, init_args: {width: 64, embedding: 32}}"
    fusion = "{class_path: mmtrain.fusion.TextToImageAttention, init_args: {width: 64}}"
    named = [f"--data.{split}={data / split}" for split in ("train", "val")]
    named += ["--data.workers=0", f"--data.batch_size={BATCH}", f"--data.seed={seed}", f"--seed_everything={seed}"]
    named += ["--model.image", image, "--model.text", text, "--model.fusion", fusion, "--model.dimension=32"]
    named += [f"--model.itc={itc}", f"--model.itm={itm}", "--model.learning_rate=0.003"]
    named += [f"--trainer.max_steps={steps}", f"--trainer.default_root_dir={place}", "--trainer.val_check_interval=50"]
    run("fit", "--config", CONFIGS / "finetune" / "relation_head.yaml", *QUIET, *named)
    metrics = evaluated(place, data / "test", "--languages", "[und]", "--batch_size", 500)
    return metrics["relation"]["mean"]["macro_f1"]


def few_labels(out: Path, labels: int, kind: str, seeds: int, epochs: int) -> None:
    found: dict[str, list[float]] = {name: [] for name in AUXILIARIES}
    concepts = MATCHED if kind == "match" else labels // 2
    steps = max(epochs * labels // BATCH, 1)
    for seed in range(seeds):
        data = out / f"{labels}_{kind}_{seed}"
        for part, (split, samples) in enumerate((("train", labels), ("val", 400), ("test", 2000))):
            task = {"kind": kind, "concepts": concepts, "samples": samples, "seed": 10 * seed + part}
            write_shards(data / split, [task], made)
        for name, weights in AUXILIARIES.items():
            found[name].append(macro_f1(data, data / name.replace("+ ", ""), seed, *weights, steps))
    for name, scores in found.items():
        gains = [a - b for a, b in zip(scores, found["task"], strict=True)]
        difference = "" if name == "task" else f"   difference {interval(gains)}"
        say(f"{labels} labels {kind:8}{name:10}{interval(scores):>16}{difference}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default="runs/benchmark_few_labels")
    parser.add_argument("--labels", type=int, nargs="+", default=[200, 500])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=40)
    options = parser.parse_args()
    for labels in options.labels:
        for kind in options.kinds:
            few_labels(options.out, labels, kind, options.seeds, options.epochs)
