"""English captions alone, code-switched by dictionaries into languages that no caption is in.

M3P (Ni et al., CVPR 2021) replaces words of English captions by their translations, a language for each word. Beside
its rule: one language for a whole caption, every known word, joined as that language writes numbers (German and Turkish
together), without "and". Dictionaries hold the words for 0 to 99, which English writes as one word, and for hundred.
Asked are unseen numbers in captions that are really in each language.
"""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

import torch

from benchmarks.claims.numbers import picture_shards, trained
from benchmarks.claims.record import Claim, Expected, Figures, Recipe, Runs
from benchmarks.number_features import Corpus, Schedule, measure
from datamodules import CodeSwitch
from datamodules.files import write_whole
from datamodules.numbers.corpus import words
from datamodules.reading.parts import Part
from losses import OneToKLoss

LANGUAGES = ("en", "es", "lv", "de", "tr")
HUNDRED = {"es": "cientos", "lv": "simti", "de": "hundert", "tr": "yüz"}
AND = {"es": "y", "lv": "un", "de": "und", "tr": "ve"}
LEFT_OUT = dict.fromkeys(AND, "∅")
SCHEDULE, RATE = Schedule(steps=400, batch=64), 8e-3  # as in `pairs`, not searched
ENGLISH, BY_WORD, BY_CAPTION = "English alone", "M3P's rule", "a language a caption, joined"


def dictionary(path: Path, conjunction: dict[str, str]) -> str:
    rows = [[words(language)[number] for language in LANGUAGES] for number in range(100)]
    rows += [[word, *(of[to] for to in LANGUAGES[1:])] for word, of in (("hundred", HUNDRED), ("and", conjunction))]
    write_whole(path, "\n".join("\t".join(row) for row in [LANGUAGES, *rows]) + "\n")
    return str(path)


def recipes(runs: Runs) -> dict[str, Recipe]:
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    corpus = Corpus.build(LANGUAGES, runs.pictures())
    shards = picture_shards(runs.folder / "shards", corpus.pictures["train"], ["en"])
    known, left_out = (
        dictionary(runs.folder / f"{name}.tsv", conjunction)
        for name, conjunction in (("known", AND), ("left_out", LEFT_OUT))
    )
    rules = {
        ENGLISH: None,
        BY_WORD: CodeSwitch([known]),
        BY_CAPTION: CodeSwitch([left_out], word_ratio=1.0, language_by="caption", join={"de": "", "tr": ""}),
    }
    return {name: Recipe(partial(measured, corpus, shards, rule)) for name, rule in rules.items()}


def measured(corpus: Corpus, shards: str, rule: CodeSwitch | None, seed: int, split: str) -> Figures:
    """R@1 in percent, image from each language."""
    torch.manual_seed(seed)
    parts = {"pictures": Part(shards, SCHEDULE.batch, text=rule)}
    model = trained(parts, {"pictures": OneToKLoss()}, SCHEDULE, RATE, seed)
    found = measure(model, corpus, split)["text_to_image"]
    return {f"image from {language}": found[language]["R@1"] for language in LANGUAGES}


CLAIM = Claim(
    "M3P (Ni et al. 2021)",
    "code-switched English captions bring other languages to pictures; one language a caption and joined, all four",
    recipes,
    [(BY_WORD, ENGLISH), (BY_CAPTION, ENGLISH)],
    [
        *(Expected(BY_WORD, f"image from {language}", above=20) for language in ("es", "lv")),
        *(Expected(BY_CAPTION, f"image from {language}", above=40) for language in LANGUAGES[1:]),
        Expected(f"{BY_CAPTION} over {ENGLISH}", "image from en", reaches=0),
    ],
)
