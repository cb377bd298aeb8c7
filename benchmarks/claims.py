"""Do papers' claims hold on the numbers corpus? What comes out is the finding, whichever way it points.

    python -m benchmarks.claims ranking     # PIVOT and PARALLEL, cosine and asymmetric; about an hour on one core
    python -m benchmarks.claims one_to_k    # 1-to-K, one random language, English as pivot; about 20 minutes
    python -m benchmarks.claims general     # both similarities where captions are more general; 15 minutes of CPU
    python -m benchmarks.claims published   # order embeddings there by the published recipe; 12 minutes of CPU
    python -m benchmarks.claims variants    # what hinders the asymmetric one there, on validation
    python -m benchmarks.claims rare_words  # German of rare words alone, and with English beside it; 20 minutes of CPU

ranking: Gella et al., EMNLP 2017, find asymmetric similarity ahead of cosine, and caption-caption ranking (PARALLEL) a
help beside image-caption ranking (PIVOT). A GRU a language over UTF-8 bytes, German and English.
one_to_k: Nie et al., KDD 2024, find that contrasting an image with its captions in all languages at once raises recall
and makes ranks more alike between languages (MRV), beside one random language an image, and beside English as pivot:
images are contrasted with English captions alone, English captions with those of the other languages. One bidirectional
GRU over bytes for eight languages. The others are told in benchmarks/general_captions.py and rare_words.py.

Pictures are features of a frozen network (benchmarks/number_features.py). All recipes of a claim see the same pictures
in the same steps; what a recipe may choose is chosen on the validation numbers with one or two seeds that are not in
the table, and the test numbers are looked at for the table alone. Tables are Markdown, intervals Student's over seeds.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from datetime import date
from functools import partial
from itertools import product
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from benchmarks.claim_tables import Figures, cells, choose, described, difference, markdown, timed
from benchmarks.general_captions import general, published, variants
from benchmarks.number_features import Corpus, Pictures, Schedule, measure, pictures_with_features, train
from benchmarks.rare_words import rare_words
from benchmarks.runs import interval
from losses import Embeddings, Objective, OneToKLoss, PivotRankingLoss, clip_loss
from losses.temperature import clamped_scale, log_scale_parameter
from mmtrain.towers import ByteGRU, WordGRU

Similarity = Literal["cosine", "asymmetric"]

DIMENSION, GRU_WIDTH, BYTE_WIDTH, BYTES = 128, 128, 32, 259

RANKING = Schedule(steps=500, batch=64)  # after 200 the order of the four still changes from seed to seed
RANKING_RATES = (8e-3, 16e-3, 32e-3)
MARGINS = {"cosine": (0.1, 0.2), "asymmetric": (0.02, 0.05)}
ARROWS = {"text_to_image": "image from", "image_to_text": "from image to"}
SHORT = {"cosine": "SYM", "asymmetric": "ASYM"}

CONTRAST = Schedule(steps=150, batch=64)
LANGUAGES = ("da", "de", "en", "es", "fr", "ja", "lv", "tr")
CONTRAST_RATES = (4e-3, 8e-3, 16e-3)
LONGER = 4  # times the steps: 1-to-K of eight captions takes about four times as long as one caption


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


def ranking(seeds: int) -> None:
    """PIVOT and PARALLEL with both similarities."""
    corpus = build(("de", "en"))
    chosen: dict[str, str] = {}
    figures: dict[str, list[Figures]] = {}
    for similarity, parallel in product(SHORT, (False, True)):
        name = f"{'PARALLEL' if parallel else 'PIVOT'}-{SHORT[similarity]}"
        result = partial(ranked, corpus, similarity, parallel)
        options = list(product(RANKING_RATES, MARGINS[similarity]))
        rate, margin = choose(name, options, result, lambda found: float(np.mean(list(found.values()))))
        chosen[name] = f"{rate:g}, {margin:g}"
        figures[name] = [timed(name, result, rate, margin, seed, "test") for seed in range(seeds)]
    print(f"\nR@1 in percent among {unseen(corpus)}, {described(RANKING, seeds)}.\n")
    columns = list(figures["PIVOT-SYM"][0])
    rows = [[name, chosen[name], *cells(figures[name], columns)] for name in figures]
    markdown(["objective", "rate, margin", *columns], rows)
    print("\nGains in points, paired by seed:\n")
    pairs = [(f"PARALLEL-{short}", f"PIVOT-{short}") for short in SHORT.values()]
    pairs += [(f"{name}-ASYM", f"{name}-SYM") for name in ("PIVOT", "PARALLEL")]
    rows = [[f"{a} over {b}", *cells(difference(figures[a], figures[b]), columns)] for a, b in pairs]
    markdown(["gain", *columns], rows)


def ranked(
    corpus: Corpus, similarity: Similarity, parallel: bool, rate: float, margin: float, seed: int, split: str
) -> Figures:
    """R@1 of one training in every direction, in the table's order."""
    model = train(
        corpus,
        partial(WordGRU, len(corpus.languages), BYTES, GRU_WIDTH, BYTE_WIDTH),  # one GRU a language, reading bytes
        partial(PivotRankingLoss, similarity, margin, parallel),
        RANKING,
        learning_rate=rate,
        dimension=DIMENSION,
        seed=seed,
    )
    pairs = [corpus.languages, corpus.languages[::-1]]
    metrics = measure(model, corpus, split, similarity=similarity, text_to_text=pairs)
    figures = {
        f"{arrow} {language}": metrics[direction][language]["R@1"]
        for direction, arrow in ARROWS.items()
        for language in corpus.languages
    }
    return figures | {pair.replace("->", " to "): found["R@1"] for pair, found in metrics["text_to_text"].items()}


def one_to_k(seeds: int) -> None:
    """1-to-K, one random language an image, English as pivot; and one random language for as long as 1-to-K takes."""
    corpus = build(LANGUAGES)
    longer = Schedule(CONTRAST.steps * LONGER, CONTRAST.batch)
    english = partial(EnglishPivotLoss, LANGUAGES.index("en"))
    recipes: dict[str, tuple[Callable[[], Objective], int | None, Schedule]] = {
        f"1-to-K, K = {len(LANGUAGES)}": (OneToKLoss, None, CONTRAST),
        "one random language": (OneToKLoss, 1, CONTRAST),
        "English as pivot": (english, None, CONTRAST),
        f"one random language, {LONGER} x the steps": (OneToKLoss, 1, longer),
    }
    rates: dict[str, float] = {}
    figures: dict[str, list[Figures]] = {}
    for name, recipe in recipes.items():
        result = partial(contrasted, corpus, *recipe)
        if recipe[-1] is longer:  # a rate chosen by three more trainings of four times the steps would cost too much
            rates[name] = rates["one random language"]
        else:
            (rates[name],) = choose(name, [(r,) for r in CONTRAST_RATES], result, lambda found: found["mean recall"])
        figures[name] = [timed(name, result, rates[name], seed, "test") for seed in range(seeds)]
    print(f"\nAmong {unseen(corpus)}, {described(CONTRAST, seeds)}; recall in percent.")
    print("MRV var is the variance of 0-based ranks over languages, std its root image by image.\n")
    columns = list(figures["one random language"][0])
    rows = [["learning rate", *(f"{rates[name]:g}" for name in figures)]]
    rows += [
        [column, *(interval([found[column] for found in figures[name]]) for name in figures)] for column in columns
    ]
    markdown(["", *figures], rows)
    print("\nWhat 1-to-K adds to the others, paired by seed:\n")
    first, *others = figures
    gains = {name: difference(figures[first], figures[name]) for name in others}
    columns = [column for column in columns if column.startswith(("mean", "MRV"))]
    rows = [[f"over {name}", *cells(gains[name], columns)] for name in others]
    markdown(["gain", *columns], rows)


def contrasted(
    corpus: Corpus,
    objective: Callable[[], Objective],
    captions: int | None,
    schedule: Schedule,
    rate: float,
    seed: int,
    split: str,
) -> Figures:
    """R@1 of one training by language, mean recall, MRV and CPU seconds, in the table's order."""
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


def build(languages: Sequence[str]) -> Corpus:
    return Corpus.build(languages, pictures())


def pictures() -> dict[str, Pictures]:
    found, accuracy = pictures_with_features()
    told = ", ".join(f"{name} {value:.1f}" for name, value in accuracy.items())
    print(f"The frozen network reads single digits right (percent): {told}.\n", flush=True)
    return found


def unseen(corpus: Corpus) -> str:
    return f"{len(corpus.pictures['test'].numbers)} unseen numbers in unseen hands"


CLAIMS: dict[str, Callable[[int], None]] = {
    "ranking": ranking,
    "one_to_k": one_to_k,
    "general": lambda seeds: general(pictures(), seeds),
    "published": lambda seeds: published(pictures(), seeds),
    "variants": lambda seeds: variants(pictures(), seeds),
    "rare_words": lambda seeds: rare_words(pictures(), seeds),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("claim", choices=CLAIMS)
    parser.add_argument("--seeds", type=int, default=5, help="trainings behind each row, at least 2")
    options = parser.parse_args()
    torch.set_num_threads(1)
    start = time.perf_counter()
    print(f"`python -m benchmarks.claims {options.claim}`, {date.today()}, torch {torch.__version__}, one thread of")
    print(f"{os.cpu_count()} cores; load {os.getloadavg()[0]:.1f} at the start.", flush=True)
    CLAIMS[options.claim](options.seeds)
    print(f"\n{(time.perf_counter() - start) / 60:.1f} minutes; load {os.getloadavg()[0]:.1f} at the end.")


if __name__ == "__main__":
    main()
