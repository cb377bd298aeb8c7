"""Do two benchmarks order languages and models alike? Class accuracy over number words beside retrieval.

    python -m benchmarks.agreement --pictures runs/claims/pictures.pt

Babel-ImageNet (Geigle et al. 2023) takes the class names of a language, at hand for more languages than captions are,
as a benchmark of its own. Here pictures of handwritten numbers are features of a frozen network
(benchmarks/number_features.py), and texts of each of 16 languages are mapped to them by ridge regression on their
n-grams; six spaces know more or fewer of the training numbers. Classes are the words of the 100 validation numbers,
retrieval is text to image over the 200 test numbers: neither numbers nor scans are shared with each other or with the
training. Each space gets its metrics.json and zero_shot.json; `mmtrain compare --metrics` does the rest. One minute.
"""

import argparse
import json
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import torch
from scipy.sparse import csr_array

from benchmarks.number_features import Pictures, kept_pictures
from benchmarks.runs import run, say
from datamodules.files import write_whole
from datamodules.numbers.corpus import numbers_of, words
from mmtrain.evaluation import retrieval_metrics
from mmtrain.evaluation.metrics.zero_shot import Classes, zero_shot_metrics

LANGUAGES = ("cs", "da", "de", "en", "es", "fi", "fr", "hu", "id", "it", "ja", "lt", "lv", "nl", "pl", "tr")
FIGURES = ("accuracy.mean.accuracy@1", "text_to_image.mean.R@1")
KNOWN = (44, 88, 175, 350, 525, 700)  # numbers that a space has seen
LENGTHS, STRENGTH = range(2, 7), 1.0  # of n-grams; of the ridge


@cache
def similarities(language: str) -> np.ndarray:
    """Products [1000, 1000] of the unit rows of all numbers' words, counts of n-grams with the blanks around words."""
    texts = [f" {word} " for word in words(language)]
    counts = [Counter(text[i : i + n] for n in LENGTHS for i in range(len(text) - n + 1)) for text in texts]
    number = {gram: place for place, gram in enumerate({gram for each in counts for gram in each})}
    rows = np.repeat(np.arange(len(texts)), [len(each) for each in counts])
    columns = [number[gram] for each in counts for gram in each]
    values = np.concatenate([np.array(list(each.values()), float) for each in counts])
    table = csr_array((values, (rows, columns)))
    products = (table @ table.T).toarray()
    norms = np.sqrt(np.diag(products))
    return products / norms[:, None] / norms


def text_rows(language: str, known: np.ndarray, targets: np.ndarray, asked: list[int]) -> np.ndarray:
    """Rows [n, F] of the words of the asked numbers, by kernel ridge regression on the targets of those known."""
    products = similarities(language)
    weights = np.linalg.solve(products[np.ix_(known, known)] + STRENGTH * np.eye(len(known)), targets)
    return products[np.ix_(asked, known)] @ weights


def measured(pictures: dict[str, Pictures], count: int, out: Path, seed: int) -> list[Path]:
    """Writes metrics.json of the test numbers and zero_shot.json of the validation numbers, of one space."""
    shown, numbers = (each.numpy() for each in (pictures["train"].features, pictures["train"].numbers))
    centre = shown.mean(0)
    known = np.random.default_rng(seed).permutation(numbers_of("train"))[:count]
    targets = np.stack([shown[numbers == number].mean(0) for number in known]) - centre
    asked = {split: pictures[split].numbers.tolist() for split in ("val", "test")}
    rows = {
        split: {language: text_rows(language, known, targets, asked[split]) for language in LANGUAGES}
        for split in asked
    }
    images = {split: pictures[split].features.numpy() - centre for split in asked}
    retrieval = retrieval_metrics(
        images["test"].astype(np.float32),
        np.concatenate(list(rows["test"].values())).astype(np.float32),
        np.tile(np.arange(len(asked["test"])), len(LANGUAGES)),
        np.repeat(LANGUAGES, len(asked["test"])),
        bootstrap=0,
    )
    labels = [str(number) for number in asked["val"]]
    classes = {language: Classes(labels, labels, each, 1) for language, each in rows["val"].items()}
    accuracy = zero_shot_metrics(images["val"], labels, classes, bootstrap=0)
    files = []
    for name, metrics in (("metrics.json", retrieval), ("zero_shot.json", accuracy)):
        metrics["protocol"] = metrics.get("protocol", {}) | {"model": f"{count} numbers"}
        files.append(out / f"{count}_numbers" / name)
        write_whole(files[-1], json.dumps(metrics))
    mean = np.mean([accuracy["accuracy"][language]["accuracy@1"] for language in LANGUAGES])
    say(
        f"{count} numbers: class accuracy {mean:.1f}, text to image R@1 {retrieval['text_to_image']['mean']['R@1']:.1f}"
    )
    return files


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=Path, default=Path("runs/claims/pictures.pt"), help="made where it is not")
    parser.add_argument("--seed", type=int, default=0, help="of the numbers that are known")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark_agreement"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    pictures = kept_pictures(options.pictures)
    files = [file for count in KNOWN for file in measured(pictures, count, options.out, options.seed)]
    run("compare", *files, "--metrics", "--figure", FIGURES[0], "--with", FIGURES[1], "--out", options.out)
