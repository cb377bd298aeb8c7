"""English captions beside translation pairs: languages without a picture, by text alone.

jina-clip-v2 (Koukounas et al. 2024) trains on image-caption and text-text pairs in each step, with a loss and a
temperature of its own each. Here 64 pictures with English captions stand beside 64 English number words with those of
one of 15 other languages; the same numbers, of which no picture has a caption in these languages. Asked are unseen
numbers: the picture of a text, and the English text of a text.
"""

from __future__ import annotations

import logging
from functools import partial

import torch
from torch import Tensor

from benchmarks.claims.numbers import DIMENSION, pair_shards, picture_shards, trained
from benchmarks.claims.record import Claim, Expected, Figures, Recipe, Runs
from benchmarks.number_features import Corpus, Schedule, encoded
from datamodules.batch import Batch, Batches
from datamodules.numbers.corpus import numbers_of
from datamodules.reading.parts import Part
from losses import Embeddings, InfoNceLoss, MatryoshkaLoss, Objective, OneToKLoss
from losses.objective import rows_of
from mmtrain import ContrastiveModule
from mmtrain.evaluation import retrieval_metrics

OTHERS = ("cs", "da", "de", "es", "fi", "fr", "hu", "it", "lv", "nl", "no", "pl", "pt", "sv", "tr")
SCHEDULE, RATE = Schedule(steps=600, batch=64), 8e-3  # of a probe on other runs, not searched
SHORT = DIMENSION // 4
ALONE, TWO, ONE_SCALE, MIXED, NESTED = (
    "pictures alone",
    "two losses",
    "two losses, one temperature",
    "one mixed matrix",
    "two losses, Matryoshka",
)


class MixedMatrix(ContrastiveModule):
    """Pictures and queries against captions and positives, in one matrix with one temperature."""

    def training_step(self, batch: Batch | Batches, batch_idx: int) -> Tensor:
        parts = {name: self.embed(own, name) for name, own in batch.parts.items()}
        inputs = {"pictures": ("image", "texts"), "pairs": ("query", "positive")}
        left, right = zip(*[[rows_of(parts[part], side) for side in inputs[part]] for part in inputs], strict=True)
        (rows, ids), (texts, text_ids) = (
            [torch.cat(each) for each in zip(*side, strict=True)] for side in (left, right)
        )
        return self.objectives["pictures"](Embeddings(rows, texts[:, None], image_ids=ids, text_ids=text_ids[:, None]))


def recipes(runs: Runs) -> dict[str, Recipe]:
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    pictures = runs.pictures()
    corpus = Corpus.build(("en", *OTHERS), pictures)
    shards = {
        "pictures": picture_shards(runs.folder / "shards" / "pictures", pictures["train"], ["en"]),
        "pairs": pair_shards(runs.folder / "shards" / "pairs", numbers_of("train"), OTHERS),
    }
    return {name: Recipe(partial(measured, corpus, shards, name)) for name in (ALONE, TWO, ONE_SCALE, MIXED, NESTED)}


def measured(corpus: Corpus, shards: dict[str, str], recipe: str, seed: int, split: str) -> Figures:
    """R@1 in percent, of the whole rows and of their first quarter."""
    torch.manual_seed(seed)
    objectives: dict[str, Objective] = {"pictures": OneToKLoss()}
    if recipe != ALONE:
        objectives["pairs"] = pairs = InfoNceLoss()
        if recipe == ONE_SCALE:
            pairs.log_scale = objectives["pictures"].log_scale
    if recipe == NESTED:
        objectives = {
            name: MatryoshkaLoss(each, [SHORT, DIMENSION // 2, DIMENSION]) for name, each in objectives.items()
        }
    read = ["pictures"] if recipe == ALONE else ["pictures", "pairs"]
    model = trained(
        {name: Part(shards[name], SCHEDULE.batch) for name in read},
        objectives,
        SCHEDULE,
        RATE,
        seed,
        module=MixedMatrix if recipe == MIXED else ContrastiveModule,
    )
    images, texts, image_of_text, language_of_text = encoded(model, corpus, split)
    figures: Figures = {}
    for name, width in (("", DIMENSION), (f", d = {SHORT}", SHORT)):
        rows = (images[:, :width], texts[:, :width], image_of_text, language_of_text)
        found = retrieval_metrics(*rows, bootstrap=0, text_to_text=[(other, "en") for other in OTHERS])
        of_image, of_text = found["text_to_image"], found["text_to_text"]
        figures[f"image from en{name}"] = of_image["en"]["R@1"]
        figures[f"image from others{name}"] = sum(of_image[other]["R@1"] for other in OTHERS) / len(OTHERS)
        figures[f"en from others{name}"] = sum(each["R@1"] for each in of_text.values()) / len(OTHERS)
    return figures


CLAIM = Claim(
    "jina-clip-v2 (Koukounas et al. 2024)",
    "translation pairs bring 15 languages to pictures that they have no captions of, and cost English nothing",
    recipes,
    [(TWO, ALONE), (TWO, ONE_SCALE), (TWO, MIXED), (NESTED, TWO)],
    [
        Expected(TWO, "image from others", above=40),
        Expected(TWO, "en from others", above=90),
        Expected(f"{TWO} over {ALONE}", "image from en", reaches=0),
    ],
)
