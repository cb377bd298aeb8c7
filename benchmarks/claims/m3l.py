"""M3L beside PATR on a frozen multilingual text tower: English captions alone, other languages asked.

Aggarwal and Kale (2020) train projections on a frozen multilingual sentence encoder with English captions, and find
M3L ahead of positive-aware triplet ranking, with texts further apart. The encoder is made here: a byte GRU trained on
translation pairs of number words in 16 languages, without a picture. Its rows are read once; both projections have a
hidden layer. 1-to-K on English captions (CLIP's loss) stands beside them. The two losses' formulas are recalled.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.claims.numbers import DIMENSION, pair_shards, trained
from benchmarks.claims.pairs import OTHERS
from benchmarks.claims.record import CHOOSING_SEEDS, Claim, Expected, Figures, Recipe, Runs
from benchmarks.number_features import Corpus, Schedule, encoded, train
from datamodules.files import whole_file
from datamodules.numbers.corpus import numbers_of
from datamodules.reading.parts import Part
from losses import InfoNceLoss, M3lLoss, Objective, OneToKLoss, PatrLoss
from mmtrain.evaluation import retrieval_metrics
from mmtrain.towers import TextTower

ENCODER, ENCODER_RATE, ENCODER_SEED = Schedule(steps=300, batch=64), 8e-3, 200
SCHEDULE, RATES = Schedule(steps=500, batch=64), (2.5e-4, 1e-3, 4e-3)
OBJECTIVES: dict[str, Callable[[], Objective]] = {"M3L": M3lLoss, "PATR": PatrLoss, "CLIP": OneToKLoss}
OTHER, APART = "R@10, image from others", "distance of texts"


class Kept(TextTower):
    """Rows of a frozen encoder, by the number of the text."""

    def __init__(self, rows: Tensor) -> None:
        super().__init__(True)
        self.width = rows.shape[1]
        self.rows = nn.Embedding.from_pretrained(rows)

    def forward(self, tokens: Tensor, mask: Tensor, languages: Tensor | None = None) -> tuple[Tensor, Tensor]:
        rows = self.rows(tokens)
        return rows[:, 0], rows


def recipes(runs: Runs) -> dict[str, Recipe]:
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    corpus = Corpus.build(("en", *OTHERS), runs.pictures())
    rows = encoder_rows(runs, corpus)
    numbers = torch.arange(len(rows)).view(1000, -1, 1)
    kept = Corpus(corpus.pictures, corpus.languages, numbers, torch.ones_like(numbers, dtype=torch.bool))
    results = {name: partial(measured, kept, rows, objective) for name, objective in OBJECTIVES.items()}

    def chosen(name: str) -> tuple[float, ...]:
        options = [(rate,) for rate in RATES]
        return runs.choose(name, options, results[name], lambda found: found[OTHER], CHOOSING_SEEDS[:1])

    return {name: Recipe(result, chosen(name)) for name, result in results.items()}


@torch.no_grad()
def encoder_rows(runs: Runs, corpus: Corpus) -> Tensor:
    """Of every caption of the corpus, float [1000 K, W]; the encoder is trained once."""
    path = runs.folder / "texts.pt"
    if not path.is_file():
        torch.manual_seed(ENCODER_SEED)
        part = Part(pair_shards(runs.folder / "shards", numbers_of("train"), OTHERS), ENCODER.batch)
        with torch.enable_grad():
            model = trained({"pairs": part}, {"pairs": InfoNceLoss()}, ENCODER, ENCODER_RATE, ENCODER_SEED)
        texts = zip(corpus.tokens.flatten(0, 1).split(1000), corpus.mask.flatten(0, 1).split(1000), strict=True)
        with whole_file(path) as unfinished:
            torch.save(torch.cat([model.text(tokens, mask)[0] for tokens, mask in texts]), unfinished)
    return torch.load(path)


def measured(
    corpus: Corpus, rows: Tensor, objective: Callable[[], Objective], rate: float, seed: int, split: str
) -> Figures:
    """R@10 in percent, and 100 times the mean distance (1 - cosine) of the English texts of different numbers."""
    english = Corpus(corpus.pictures, ("en",), corpus.tokens[:, :1], corpus.mask[:, :1])
    model = train(
        english,
        partial(Kept, rows),
        objective,
        SCHEDULE,
        learning_rate=rate,
        dimension=DIMENSION,
        projection="mlp",
        seed=seed,
    )
    images, texts, *of_text = encoded(model, corpus, split)
    found = retrieval_metrics(images, texts, *of_text, bootstrap=0)["text_to_image"]
    cosines = texts[:: len(corpus.languages)] @ texts[:: len(corpus.languages)].T
    apart = 1 - cosines[~torch.eye(len(cosines), dtype=torch.bool)].mean()
    return {
        "R@10, image from en": found["en"]["R@10"],
        OTHER: sum(found[other]["R@10"] for other in OTHERS) / len(OTHERS),
        "R@1, image from others": sum(found[other]["R@1"] for other in OTHERS) / len(OTHERS),
        APART: 100 * float(apart),
    }


CLAIM = Claim(
    "M3L (Aggarwal and Kale 2020)",
    "on a frozen text tower M3L is ahead of PATR in languages without captions, and its texts are further apart",
    recipes,
    [("M3L", "PATR"), ("M3L", "CLIP")],
    [Expected("M3L over PATR", OTHER, above=0), Expected("M3L over PATR", APART, above=0)],
)
