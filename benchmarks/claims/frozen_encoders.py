"""What a frozen encoder gives a captioner: pretrained by classes, or by captions; a minute a training.

PaLI-3 (Chen et al. 2023) finds an encoder trained by SigLIP better for a captioner behind it than one trained to
classify, though it classifies less well. Both encoders, a layer of attention over the three places of a number, see the
same pictures in the same steps: one learns which of the trained numbers each shows, the other its captions in four
languages. Frozen, each is read by a decoder that learns to write these captions. Asked are unseen numbers: how many
captions are written word for word. Beside it a linear probe of the encoder's pooled vector for the numbers below 100,
in hands that training does not show.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.claims.numbers import picture_shards, trained
from benchmarks.claims.record import Claim, Expected, Figures, Recipe, Runs
from benchmarks.number_features import HIDDEN, PLACES, Pictures, Schedule, small_bert, word_tokenizer
from datamodules import Tokenizer
from datamodules.numbers.corpus import words
from datamodules.reading.parts import Part
from losses import Objective, SiglipLoss
from mmtrain.evaluation.metrics.probe import LabelledRows, probe_figures
from mmtrain.fusion.decoder import contents
from mmtrain.objectives import Captioner, Classification
from mmtrain.towers import ImageTower, TransformersTower

LANGUAGES = "en", "es", "fr", "lv"
BATCH, RATE, STEPS = 64, 2e-3, 400  # not searched
WIDTH, HEADS, BELOW = 96, 4, 100
Pretraining = Literal["classes", "captions", "nothing"]
BY_CLASSES, BY_CAPTIONS, BY_NOTHING = "by classes", "by captions (SigLIP)", "not pretrained"
RECIPES: dict[str, Pretraining] = {BY_CLASSES: "classes", BY_CAPTIONS: "captions", BY_NOTHING: "nothing"}
WRITTEN, PROBED, HANDS = "captions written", "number below 100, by a probe", "trained numbers, test scans"


class Places(ImageTower):
    """A layer of attention over the places of features [N, 192] and the mean of what it gives."""

    def __init__(self) -> None:
        super().__init__()
        self.width = WIDTH
        self.read = nn.Linear(HIDDEN, WIDTH)
        self.place = nn.Parameter(torch.randn(PLACES, WIDTH) * WIDTH**-0.5)
        self.layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 2 * WIDTH, dropout=0.0, batch_first=True, norm_first=True)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.layer(self.read(images.unflatten(1, (PLACES, HIDDEN))) + self.place)
        return tokens.mean(1), tokens


def recipes(runs: Runs) -> dict[str, Recipe]:
    pictures = runs.pictures()

    def labelled(number: int) -> dict:
        return {"labels": {"number": number}}

    shards = picture_shards(runs.folder / "shards", pictures["train"], LANGUAGES, labelled)
    return {name: Recipe(partial(measured, pictures, shards, how)) for name, how in RECIPES.items()}


def measured(pictures: dict[str, Pictures], shards: str, how: Pretraining, seed: int, split: str) -> Figures:
    """In percent."""
    torch.manual_seed(seed)
    tokenizer = word_tokenizer({language: words(language) for language in LANGUAGES})
    tower, captioner = Places(), Captioner(parallel=0.0)
    stages: list[Objective] = [captioner]
    if how != "nothing":
        stages.insert(0, Classification("number", 1000) if how == "classes" else SiglipLoss())
    for objective in stages:
        tower.requires_grad_(objective is not captioner)
        trained(
            {"": Part(shards, BATCH)},
            {"it": objective},
            Schedule(STEPS, BATCH),
            RATE,
            seed,
            image=tower,
            text=TransformersTower(config=small_bert(tokenizer.vocabulary_size, WIDTH)),
            reading={"tokenizer": tokenizer, "captions_per_image": "all"},
        )
    return asked(tower, captioner, tokenizer, pictures, split)


@torch.no_grad()
def asked(
    tower: Places, captioner: Captioner, tokenizer: Tokenizer, pictures: dict[str, Pictures], split: str
) -> Figures:
    tower.eval()
    captioner.eval()
    numbers, tokens = pictures[split].numbers.tolist(), tower(pictures[split].features)[1]
    right = []
    for place, language in enumerate(captioner.decoder.languages):
        said = [words(language)[number] for number in numbers]
        ids, mask = contents(*tokenizer(said, [language] * len(said)), captioner.special)
        written = captioner.decoder.write(tokens, torch.full((len(said),), place), without=tokenizer.special_ids)
        right += [found == row[there].tolist() for found, row, there in zip(written, ids, mask, strict=True)]
    learnt, unseen = (small(tower, pictures[name]) for name in ("train", HANDS))
    return {WRITTEN: 100 * float(np.mean(right)), PROBED: probe_figures(learnt, unseen, bootstrap=10)["accuracy"]}


def small(tower: Places, pictures: Pictures) -> LabelledRows:
    """Pooled vectors of the pictures of numbers below 100, labelled by number."""
    chosen = pictures.numbers < BELOW
    rows = tower(pictures.features[chosen])[0].numpy()
    return LabelledRows(rows, pictures.numbers[chosen].numpy(), np.arange(len(rows)))


CLAIM = Claim(
    "PaLI-3 (Chen et al. 2023)",
    "behind a frozen encoder a captioner writes more captions right where SigLIP pretrained it than where classes did,"
    " and a probe of classes is not ahead there",
    recipes,
    [(BY_CLASSES, BY_CAPTIONS), (BY_CLASSES, BY_NOTHING), (BY_CAPTIONS, BY_NOTHING)],
    [
        Expected(f"{BY_CLASSES} over {BY_CAPTIONS}", WRITTEN, below=0),
        Expected(f"{BY_CLASSES} over {BY_CAPTIONS}", PROBED, reaches=0),
    ],
)
