"""Do two benchmarks order languages and models alike? Class accuracy over number words beside retrieval.

    python -m benchmarks.agreement --pictures pictures.pt --out runs/benchmark_agreement

Babel-ImageNet (Geigle et al. 2023) takes the class names of a language, at hand for more languages than captions are,
as a benchmark of its own. Here one training on handwritten numbers in 16 languages (features of a frozen network,
benchmarks/number_features.py) is looked at after different numbers of steps: six spaces. Classes are the words of the
100 validation numbers, retrieval is text to image over the 200 test numbers: neither numbers nor scans are shared with
each other or with the training. Each space gets its metrics.json and zero_shot.json; `mmtrain compare --metrics` does
the rest.
"""

import argparse
import json
from itertools import count
from pathlib import Path

import numpy as np
import torch

from benchmarks.claims.numbers import BYTE_WIDTH, DIMENSION, GRU_WIDTH
from benchmarks.number_features import BUCKETS, WIDTH, Corpus, Schedule, Step, encoded, fit, kept_pictures
from benchmarks.runs import run, say
from datamodules.files import write_whole
from losses import OneToKLoss
from mmtrain.evaluation import retrieval_metrics
from mmtrain.evaluation.metrics.zero_shot import Classes, zero_shot_metrics
from mmtrain.models.image_text import ImageTextModel
from mmtrain.towers import ByteGRU, FeatureTower

LANGUAGES = ("cs", "da", "de", "en", "es", "fi", "fr", "hu", "id", "it", "ja", "lt", "lv", "nl", "pl", "tr")
FIGURES = ("accuracy.mean.accuracy@1", "text_to_image.mean.R@1")
BATCH, CAPTIONS, RATE = 64, 2, 8e-3


def spaces(corpus: Corpus, steps: list[int], out: Path, seed: int) -> list[Path]:
    """Trains once, and measures each time so many steps are done; the files that were written."""
    torch.manual_seed(seed)
    text = ByteGRU(GRU_WIDTH, BYTE_WIDTH)
    model = ImageTextModel(FeatureTower(WIDTH, normalise=True), text, DIMENSION, "linear", buckets=BUCKETS)
    pictures, draws, done = corpus.pictures["train"], torch.Generator().manual_seed(seed), count()
    files: list[Path] = []

    def draw() -> Step:
        if (step := next(done)) in steps:
            files.extend(measured(model, corpus, f"{step} steps", out))
            model.train()
        batch = torch.randint(len(pictures.numbers), (BATCH,), generator=draws)
        languages = torch.rand(BATCH, len(LANGUAGES), generator=draws).argsort(1)[:, :CAPTIONS]
        numbers = pictures.numbers[batch]
        shown, present = (numbers[:, None], languages), torch.ones_like(languages, dtype=torch.bool)
        return Step(pictures.features[batch], numbers, corpus.tokens[shown], corpus.mask[shown], languages, present)

    fit(model, OneToKLoss(), draw, Schedule(max(steps) + 1, BATCH), RATE)
    return files


def measured(model: ImageTextModel, corpus: Corpus, name: str, out: Path) -> list[Path]:
    """metrics.json of the test numbers and zero_shot.json of the validation numbers, of one space."""
    images, texts, image_of_text, language_of_text = encoded(model, corpus, "test")
    retrieval = retrieval_metrics(images, texts, image_of_text, language_of_text, bootstrap=0)
    images, texts, image_of_text, language_of_text = encoded(model, corpus, "val")
    numbers = [str(number) for number in corpus.pictures["val"].numbers.tolist()]
    classes = {
        language: Classes(numbers, numbers, texts[np.flatnonzero(language_of_text == language)].numpy(), 1)
        for language in LANGUAGES
    }
    accuracy = zero_shot_metrics(images.numpy(), numbers, classes, bootstrap=0)
    folder, files = out / name.replace(" ", "_"), []
    for file, metrics in (("metrics.json", retrieval), ("zero_shot.json", accuracy)):
        metrics["protocol"] = metrics.get("protocol", {}) | {"model": name}
        write_whole(folder / file, json.dumps(metrics))
        files.append(folder / file)
    said = [np.mean([accuracy["accuracy"][each]["accuracy@1"] for each in LANGUAGES])]
    said.append(retrieval["text_to_image"]["mean"]["R@1"])
    say(f"{name}: class accuracy {said[0]:.1f}, text to image R@1 {said[1]:.1f}, mean of {len(LANGUAGES)} languages")
    return files


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=Path, default=Path("runs/claims/pictures.pt"), help="made where it is not")
    parser.add_argument("--steps", type=int, nargs="+", default=[100, 150, 200, 300, 400, 600])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark_agreement"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    corpus = Corpus.build(LANGUAGES, kept_pictures(options.pictures))
    files = spaces(corpus, options.steps, options.out, options.seed)
    run("compare", *files, "--metrics", "--figure", FIGURES[0], "--with", FIGURES[1], "--out", options.out)
