"""1-to-K, one random language, English as pivot; about 20 minutes.

Nie et al., KDD 2024, find that contrasting an image with its captions in all languages at once raises recall and makes
ranks more alike between languages (MRV), beside one random language an image, and beside English as pivot: images are
contrasted with English captions alone, English captions with those of the other languages. One bidirectional GRU over
bytes for eight languages. MRV var is the variance of 0-based ranks over languages, std its root image by image.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from itertools import product

from torch import Tensor

from benchmarks.claims.record import Claim, Expected, Figures, Recipe, Runs
from benchmarks.number_features import Corpus, Schedule, measure, train
from losses import Embeddings, Objective, OneToKLoss, clip_loss
from losses.temperature import clamped_scale, log_scale_parameter
from mmtrain.towers import ByteGRU

DIMENSION, GRU_WIDTH, BYTE_WIDTH = 128, 128, 32
SCHEDULE = Schedule(steps=150, batch=64)
LANGUAGES = ("da", "de", "en", "es", "fr", "ja", "lv", "tr")
RATES = (4e-3, 8e-3, 16e-3)
LONGER = 4  # times the steps: 1-to-K of eight captions takes about four times as long as one caption
ARROWS = {"text_to_image": "image from", "image_to_text": "from image to"}
FULL, RANDOM, PIVOT = f"1-to-K, K = {len(LANGUAGES)}", "one random language", "English as pivot"
RANDOM_LONGER = f"{RANDOM}, {LONGER} x the steps"


class EnglishPivotLoss(Objective):
    """clip_loss(image, English) plus the mean over the other languages of clip_loss(English, caption).

    One temperature for both, learned as in `OneToKLoss`; slot `pivot` of the captions is English.
    """

    def __init__(self, pivot: int) -> None:
        super().__init__()
        self.pivot = pivot
        self.log_scale = log_scale_parameter(1 / 0.07, learnable=True)

    def forward(self, embeddings: Embeddings) -> Tensor:
        scale, ids = clamped_scale(self.log_scale), embeddings.image_ids
        english = embeddings.texts[:, self.pivot]
        others = [text for k, text in enumerate(embeddings.texts.unbind(1)) if k != self.pivot]
        translation = sum(clip_loss(english, text, scale, image_ids=ids) for text in others) / len(others)
        return clip_loss(embeddings.image, english, scale, image_ids=ids) + translation


def recipes(runs: Runs) -> dict[str, Recipe]:
    corpus = Corpus.build(LANGUAGES, runs.pictures())
    results = {
        FULL: partial(contrasted, corpus, OneToKLoss, None, SCHEDULE),
        RANDOM: partial(contrasted, corpus, OneToKLoss, 1, SCHEDULE),
        PIVOT: partial(contrasted, corpus, partial(EnglishPivotLoss, LANGUAGES.index("en")), None, SCHEDULE),
    }
    chosen = {
        name: Recipe(result, runs.choose(name, [(r,) for r in RATES], result, lambda found: found["mean recall"]))
        for name, result in results.items()
    }
    # a rate chosen by three more trainings of four times the steps would cost too much
    longer = partial(contrasted, corpus, OneToKLoss, 1, Schedule(SCHEDULE.steps * LONGER, SCHEDULE.batch))
    return chosen | {RANDOM_LONGER: Recipe(longer, chosen[RANDOM].settings)}


def contrasted(
    corpus: Corpus,
    objective: Callable[[], Objective],
    captions: int | None,
    schedule: Schedule,
    rate: float,
    seed: int,
    split: str,
) -> Figures:
    """R@1 of one training by language, mean recall, MRV and CPU seconds."""
    start = time.process_time()
    model = train(
        corpus,
        partial(ByteGRU, GRU_WIDTH, BYTE_WIDTH),
        objective,
        schedule,
        learning_rate=rate,
        dimension=DIMENSION,
        captions=captions,
        seed=seed,
    )
    seconds = time.process_time() - start
    metrics = measure(model, corpus, split)
    figures = {
        f"R@1, {arrow} {language}": metrics[direction][language]["R@1"]
        for direction, arrow in ARROWS.items()
        for language in corpus.languages
    }
    figures |= {f"mean R@1, {arrow} text": metrics[direction]["mean"]["R@1"] for direction, arrow in ARROWS.items()}
    figures["mean recall"] = metrics["mean_recall"]
    for kind, (direction, arrow) in product(("var", "std"), ARROWS.items()):
        figures[f"MRV {kind}, {arrow} text"] = metrics["mean_rank_variance"][direction][kind]
    return figures | {"CPU seconds": seconds}


CLAIM = Claim(
    "1-to-K (Nie et al. 2024)",
    "1-to-K has higher recall and more alike ranks than one random language and than English as pivot, step for step",
    recipes,
    [(FULL, other) for other in (RANDOM, PIVOT, RANDOM_LONGER)],
    [
        expected
        for other in (RANDOM, PIVOT)
        for expected in (
            Expected(f"{FULL} over {other}", "mean recall", above=0),
            Expected(f"{FULL} over {other}", "MRV var, image from text", below=0),
            Expected(f"{FULL} over {other}", "MRV var, from image to text", below=0),
        )
    ],
)
