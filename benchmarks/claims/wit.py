"""WIT's fields: what is under a picture, what its own page says, and its alternative text, as captions.

WIT (Srinivasan et al. 2021) has three texts of a picture; the paper's order, recalled, is reference before attribution
before alternative text. The release is not at hand: a stand-in in its own files is packed by `mmtrain pack wit --join`.
Each picture has a page in each of four languages. The reference is the number's word in the page's language, the
attribution its word in one of the others, as files are described once for all pages, the alternative text the word of
its hundreds. Pages have the fields as often as the release's rows do. Asked are the references of unseen numbers.
"""

from __future__ import annotations

import logging
import random
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.claims.numbers import trained
from benchmarks.claims.record import Claim, Expected, Figures, Recipe, Runs
from benchmarks.number_features import Corpus, Pictures, Schedule, measure
from datamodules import Source
from datamodules.files import write_whole
from datamodules.numbers.corpus import words
from datamodules.packing import pack_rows, read_wit
from datamodules.packing.wit import CAPTION_COLUMNS, COLUMNS
from datamodules.reading.parts import Part
from losses import OneToKLoss

LANGUAGES = ("de", "en", "es", "lv")
SHARES = {"reference": 16.9 / 37.1, "attribution": 34.8 / 37.1, "alt": 5.3 / 37.1}  # of the release's rows
WEIGHTS = {"reference": 4.0, "attribution": 2.0, "alt": 1.0}  # of configs/pretrain/wit.yaml
PICTURES = 2_800  # four of each trained number
SCHEDULE, RATE = Schedule(steps=300, batch=64), 8e-3  # as in `hard_negatives`, not searched
EVENLY, WEIGHTED = "all drawn evenly", "all drawn 4 to 2 to 1"


def written(folder: Path, pictures: Pictures) -> None:
    """WIT's file and its pictures, as features."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rng, lines = random.Random(0), ["\t".join(COLUMNS)]
    for place, number in enumerate(pictures.numbers[:PICTURES].tolist()):
        np.save(folder / "images" / f"n{place}.npy", pictures.features[place].numpy())
        for language in LANGUAGES:
            other = rng.choice([each for each in LANGUAGES if each != language])
            texts = {
                "reference": words(language)[number],
                "attribution": words(other)[number],
                "alt": words(language)[number // 100 * 100],
            }
            row = {CAPTION_COLUMNS[name]: text for name, text in texts.items() if rng.random() < SHARES[name]}
            row |= {
                "language": language,
                "image_url": f"https://host/n{place}.npy",
                "attribution_passes_lang_id": "true",
            }
            lines.append("\t".join(row.get(column, "") for column in COLUMNS))
    write_whole(folder / "pages.tsv", "\n".join(lines) + "\n")


def recipes(runs: Runs) -> dict[str, Recipe]:
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    corpus = Corpus.build(LANGUAGES, runs.pictures())
    written(runs.folder, corpus.pictures["train"])

    def packed(name: str, *fields: str) -> str:
        rows = read_wit(runs.folder / "pages.tsv", caption_fields=fields, join=True)
        pack_rows(rows, runs.folder / "shards" / name, images=runs.folder / "images", title=name)
        return str(runs.folder / "shards" / name)

    sources = {field: Source(packed(field, field)) for field in SHARES}
    every = packed("all", *SHARES)
    sources |= {EVENLY: Source(every), WEIGHTED: Source(every, caption_fields=WEIGHTS)}
    return {name: Recipe(partial(measured, corpus, source)) for name, source in sources.items()}


def measured(corpus: Corpus, source: Source, seed: int, split: str) -> Figures:
    """Percent, the mean of the languages; WIT counts at 1, 3 and 5."""
    torch.manual_seed(seed)
    model = trained({"pictures": Part([source], SCHEDULE.batch)}, {"pictures": OneToKLoss()}, SCHEDULE, RATE, seed)
    found = measure(model, corpus, split, recall_at=(1, 3, 5))
    figures = {f"R@{k}, image from reference": found["text_to_image"]["mean"][f"R@{k}"] for k in (1, 3, 5)}
    return figures | {"R@1, from image to reference": found["image_to_text"]["mean"]["R@1"]}


CLAIM = Claim(
    "WIT (Srinivasan et al. 2021)",
    "as captions references are ahead of attributions, and these of alternative texts",
    recipes,
    [("reference", "attribution"), ("attribution", "alt"), (WEIGHTED, EVENLY), (WEIGHTED, "reference")],
    [
        Expected("reference over attribution", "R@1, image from reference", above=0),
        Expected("attribution over alt", "R@1, image from reference", above=0),
    ],
)
