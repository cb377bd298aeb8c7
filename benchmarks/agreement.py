"""Do two benchmarks order languages and models alike? Class accuracy over number words beside retrieval.

    python -m benchmarks.agreement --pictures runs/claims/pictures.pt

Babel-ImageNet (Geigle et al. 2023) takes the class names of a language, at hand for more languages than captions are,
as a benchmark of its own. Here six spaces of handwritten numbers (benchmarks/number_features.py) and their words, read
as bytes, are trained by different recipes and measured in 16 languages. Classes are the words of the 100 validation
numbers, retrieval is text to image over the 200 test numbers: neither numbers nor scans are shared with each other or
with the training. Each space gets its metrics.json and zero_shot.json; `mmtrain compare --metrics` does the rest.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.claims.one_to_k import EnglishPivotLoss
from benchmarks.number_features import Corpus, Pictures, Schedule, encoded, kept_pictures, train
from benchmarks.runs import run, say
from datamodules.files import write_whole
from losses import Objective, OneToKLoss, PivotRankingLoss
from mmtrain.evaluation import retrieval_metrics
from mmtrain.evaluation.metrics.zero_shot import Classes, zero_shot_metrics
from mmtrain.models.image_text import ImageTextModel
from mmtrain.towers import ByteGRU

LANGUAGES = ("cs", "da", "de", "en", "es", "fi", "fr", "hu", "id", "it", "ja", "lt", "lv", "nl", "pl", "tr")
FOUR = ("de", "en", "es", "fi")
FIGURES = ("accuracy.mean.accuracy@1", "text_to_image.mean.R@1")
DIMENSION, GRU_WIDTH, BYTE_WIDTH, BATCH, RATE = 128, 128, 32, 64, 8e-3  # as in benchmarks/claims, not searched


@dataclass(frozen=True)
class Space:
    """A recipe: what it is trained by, in which languages, on how many captions of each picture (None: all)."""

    objective: Callable[[], Objective]
    languages: tuple[str, ...] = LANGUAGES
    captions: int | None = 4
    steps: int = 400

    def trained(self, pictures: dict[str, Pictures], seed: int) -> ImageTextModel:
        return train(
            Corpus.build(self.languages, pictures),
            partial(ByteGRU, GRU_WIDTH, BYTE_WIDTH),
            self.objective,
            Schedule(self.steps, BATCH),
            learning_rate=RATE,
            dimension=DIMENSION,
            captions=self.captions,
            seed=seed,
        )


SPACES = {
    "English alone": Space(OneToKLoss, ("en",), None),
    "English as pivot of four": Space(partial(EnglishPivotLoss, FOUR.index("en")), FOUR, None),
    "1-to-K of four": Space(OneToKLoss, FOUR, None),
    "1-to-K, 4 of 16": Space(OneToKLoss, steps=200),
    "1-to-K, 4 of 16, half of the steps": Space(OneToKLoss, steps=100),
    "ranking, 4 of 16": Space(partial(PivotRankingLoss, "cosine"), steps=200),
}


def measured(name: str, model: ImageTextModel, corpus: Corpus, out: Path) -> list[Path]:
    """Writes zero_shot.json of the validation numbers and metrics.json of the test numbers, of one space."""
    retrieval = retrieval_metrics(*encoded(model, corpus, "test"), bootstrap=0)
    images, texts, image_of_text, language_of_text = encoded(model, corpus, "val")
    labels = [str(number) for number in corpus.pictures["val"].numbers.tolist()]
    classes = {
        language: Classes(labels, labels, _words_of(texts, image_of_text, language_of_text == language), 1)
        for language in corpus.languages
    }
    accuracy = zero_shot_metrics(images.numpy(), labels, classes, bootstrap=0)
    files = []
    for file, metrics in (("zero_shot.json", accuracy), ("metrics.json", retrieval)):
        metrics["protocol"] = metrics.get("protocol", {}) | {"model": name}
        files.append(out / name.replace(" ", "_").replace(",", "") / file)
        write_whole(files[-1], json.dumps(metrics))
    means = np.mean([accuracy["accuracy"][each]["accuracy@1"] for each in LANGUAGES])
    say(f"{name}: class accuracy {means:.1f}, text to image R@1 {retrieval['text_to_image']['mean']['R@1']:.1f}")
    return files


def _words_of(texts: Tensor, image_of_text: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Rows [C, D] of a language's words, in the order of the pictures."""
    return texts[own][np.argsort(image_of_text[own])].numpy()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=Path, default=Path("runs/claims/pictures.pt"), help="made where it is not")
    parser.add_argument("--seed", type=int, default=0, help="of the trainings")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark_agreement"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    corpus, files, start = Corpus.build(LANGUAGES, kept_pictures(options.pictures)), list[Path](), time.process_time()
    for name, space in SPACES.items():
        files += measured(name, space.trained(corpus.pictures, options.seed), corpus, options.out)
    say(f"{time.process_time() - start:.0f} seconds of a processor")
    run("compare", *files, "--metrics", "--figure", FIGURES[0], "--with", FIGURES[1], "--out", options.out)
