"""Captions that are hard to tell from the right one, given or mined as `negatives` of each picture.

jina-clip-v2 (Koukounas et al. 2024), as other retrieval models, ends with training on negatives that are hard. Here an
English caption has four negatives a step, all of trained numbers: drawn of those that differ in one digit, of those
that `mmtrain mine` finds with a model trained without negatives, or of all. Asked are unseen numbers: R@1 among all of
them, and of a picture the caption among those that differ in one digit.

Three claims share the trainings: given ones over none, mined ones over none, and either over random ones.
"""

from __future__ import annotations

import logging
import random
from functools import partial
from pathlib import Path

import torch

from benchmarks.claims.numbers import picture_shards, trained
from benchmarks.claims.record import Claim, Expected, Figures, Recipe, Runs
from benchmarks.number_features import Corpus, Schedule, encoded
from benchmarks.runs import run
from datamodules import ByteTokenizer, Texts
from datamodules.numbers.corpus import numbers_of, words
from datamodules.reading.parts import Part
from losses import InfoNceLoss
from mmtrain.evaluation import retrieval_metrics
from mmtrain.export.writing import write
from mmtrain.models.encoder import Encoder
from mmtrain.models.image_text import ImageTextModel

SCHEDULE, RATE = Schedule(steps=300, batch=64), 8e-3  # as in `pairs`, not searched
NEGATIVES = 4
NONE, RANDOM, HARD, MINED = "no negatives given", "random negatives", "negatives of one digit", "mined negatives"
MINING_SEED, NEAREST = 100, 16  # of a caption, as many as it has neighbours of one digit, or nearly


def neighbours(number: int) -> list[int]:
    """The numbers of as many digits that differ from this one in a single digit."""
    digits = str(number)
    changed = [digits[:place] + digit + digits[place + 1 :] for place in range(len(digits)) for digit in "0123456789"]
    return [int(other) for other in changed if other != digits and (other[0] != "0" or len(other) == 1)]


def recipes(runs: Runs) -> dict[str, Recipe]:
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    pictures, train = runs.pictures(), numbers_of("train")

    def near(number: int) -> list[int]:
        return [other for other in neighbours(number) if other in train]

    def far(number: int) -> list[int]:
        others = [other for other in train if other != number]
        return random.Random(number).sample(others, len(near(number)))

    def negatives(number: int) -> dict[str, dict[str, list[str]]]:
        drawn = {HARD: near(number), RANDOM: far(number)}
        return {key(name): {"en": [words("en")[other] for other in others]} for name, others in drawn.items()}

    shards = dict.fromkeys(
        (NONE, RANDOM, HARD), picture_shards(runs.folder / "shards", pictures["train"], ["en"], negatives)
    )
    shards[MINED] = mined(runs.folder, shards[NONE])
    corpus = Corpus.build(["en"], pictures)
    return {name: Recipe(partial(measured, corpus, shards[name], name)) for name in shards}


def mined(folder: Path, shards: str) -> str:
    """These shards with the negatives of `mmtrain mine`, by a model of a seed that no row has."""
    out = folder / "mined"
    if not (out / "mining.json").is_file():
        model = training(shards, NONE, MINING_SEED)
        exported = write(Encoder(model, ByteTokenizer(), None, ["en"], "cosine", NONE), NONE, folder / "model")
        run("mine", exported, "--data", shards, "--out", out, "--negatives", NEAREST, "--workers", 0)
    return str(out)


def key(recipe: str) -> str:
    """Of the record that holds them; `mmtrain mine` writes negatives."""
    return "negatives" if recipe == MINED else recipe.replace(" ", "_")


def training(shards: str, recipe: str, seed: int) -> ImageTextModel:
    torch.manual_seed(seed)
    fields = None if recipe == NONE else {"wrong": Texts(key(recipe), NEGATIVES)}
    part = Part(shards, SCHEDULE.batch, fields=fields)
    loss = InfoNceLoss("image", "texts", None if recipe == NONE else "wrong")
    return trained({"pictures": part}, {"pictures": loss}, SCHEDULE, RATE, seed)


def measured(corpus: Corpus, shards: str, recipe: str, seed: int, split: str) -> Figures:
    model = training(shards, recipe, seed)
    found = retrieval_metrics(*encoded(model, corpus, split), bootstrap=0)
    return {
        "image from en": found["text_to_image"]["en"]["R@1"],
        "from image to en": found["image_to_text"]["en"]["R@1"],
        "among one-digit neighbours": among_neighbours(model, corpus, split),
    }


@torch.no_grad()
def among_neighbours(model: ImageTextModel, corpus: Corpus, split: str) -> float:
    """How often, in percent, a picture's caption is nearer than those of all numbers that differ in one digit."""
    pictures = corpus.pictures[split]
    texts = model.encode_text(corpus.tokens[:, 0], corpus.mask[:, 0])
    scores = model.encode_image(pictures.features) @ texts.T
    numbers = pictures.numbers.tolist()
    right = [bool((row[number] > row[neighbours(number)]).all()) for number, row in zip(numbers, scores, strict=True)]
    return 100 * sum(right) / len(right)


def claim(sentence: str, *gains: tuple[str, str]) -> Claim:
    """All gains are reported; the verdict depends on these."""
    expected = [Expected(f"{first} over {second}", "image from en", above=0) for first, second in gains]
    return Claim("jina-clip-v2 (Koukounas et al. 2024)", sentence, recipes, GAINS, expected, "hard_negatives")


GAINS = [(hard, other) for hard in (HARD, MINED) for other in (NONE, RANDOM)]
CLAIMS = {
    "hard_negatives": claim("negatives that differ in one digit raise R@1 among unseen numbers", (HARD, NONE)),
    "mined_negatives": claim("negatives that `mmtrain mine` finds raise R@1 among unseen numbers", (MINED, NONE)),
    "hard_over_random": claim(
        "negatives of one digit, and mined ones, raise R@1 more than random ones", (HARD, RANDOM), (MINED, RANDOM)
    ),
}
