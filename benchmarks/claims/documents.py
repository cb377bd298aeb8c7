"""Stories as documents, by their words: questions in other languages to English pages, seconds a seed on one core.

MIRACL-VISION (Osmulski et al. 2025) keeps of each corpus the pages that an encoder finds nearest to some question, and
claims that models keep their order and nearly their figures, while a random corpus of the same size is easier. Here the
items are the English texts of a manifest of stories (the file that STORYBOOKS names in the environment, else
storybooks.jsonl), questions a sentence of a page of the split val in one of twelve other languages. Models are word
spaces of pages with their translations (benchmarks/word_spaces.py). Five know more or fewer pages of the split train; a
sixth, narrower, of a thousand of them, chooses the nearest pages by `mmtrain mine` and is not measured.

Within their story the same questions are answered by BM25 too, and by the space that knows most.
"""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from benchmarks.claims.record import Claim, Expected, Figures, Recipe, Runs
from benchmarks.runs import run
from benchmarks.word_spaces import fit_words, word_encoder
from datamodules.files import write_whole
from datamodules.packing.questions import SENTENCE
from mmtrain.evaluation.questions import Question
from mmtrain.evaluation.ranking.asked import Asked
from mmtrain.evaluation.ranking.bm25 import Bm25Scores, words
from mmtrain.evaluation.ranking.graded import EmbeddingScores, Scores
from mmtrain.export.writing import write
from mmtrain.models.encoder import Encoder

STORIES = Path(os.environ.get("STORYBOOKS", "storybooks.jsonl"))
LANGUAGES = ("sw", "af", "fr", "pt", "xh", "so", "zu", "nso", "de", "nb", "sv", "tn")
KNOWN, WIDTH = (160, 320, 640, 1280, 2560), 100  # pages that a space knows
CHOOSING_KNOWN, CHOOSING_WIDTH = 1000, 60
PER_LANGUAGE, NEAREST = 8, 50
MODELS = [f"{known:,} pages known" for known in KNOWN]
ALL, NEAR, RANDOM = "all pages", "50 nearest of each question", "as many at random"


@dataclass(frozen=True)
class Page:
    """A page of a story: its English text and those in other languages."""

    id: str
    story: str
    train: bool
    english: str
    others: dict[str, str]


@cache
def pages() -> list[Page]:
    rows = [json.loads(line) for line in STORIES.read_text(encoding="utf-8").splitlines()]
    return [
        Page(
            row["id"],
            row["story"],
            row["split"] == "train",
            row["captions"]["en"],
            {language: row["captions"][language] for language in LANGUAGES if language in row["captions"]},
        )
        for row in rows
    ]


@cache
def asked(seed: int) -> list[Question]:
    """The questions of a seed, so many a language, each within its story."""
    draws, questions = random.Random(seed), list[Question]()
    for language in LANGUAGES:
        own = [page for page in pages() if not page.train and language in page.others]
        for page in draws.sample(own, min(PER_LANGUAGE, len(own))):
            sentence = draws.choice(SENTENCE.findall(page.others[language]))
            id = f"{page.id}/{language}"
            questions.append(Question(id, sentence, language, {page.id: 1.0}, pool=page.story))
    return questions


@cache
def space(name: str, seed: int) -> Encoder:
    """One of MODELS, or the space that chooses, ""."""
    known = [page for page in pages() if page.train]
    random.Random(seed).shuffle(known)
    some, width = (known[-CHOOSING_KNOWN:], CHOOSING_WIDTH) if not name else (known[: KNOWN[MODELS.index(name)]], WIDTH)
    with TemporaryDirectory() as folder:
        fit_words(((page.english, *page.others.values()) for page in some), width, Path(folder), seed)
        return word_encoder(Path(folder))


@cache
def encoded(name: str, seed: int) -> tuple[Tensor, Tensor]:
    """Rows of all pages and of the questions by a space."""
    texts = [page.english for page in pages()], [each.text for each in asked(seed)]
    items, queries = (torch.from_numpy(space(name, seed).encode_text(each)) for each in texts)
    return items, queries


@cache
def mined(folder: Path, seed: int) -> frozenset[str]:
    """The pages that `mmtrain mine --questions --pool` keeps, chosen by the space that is not measured."""
    folder = folder / f"mined{seed}"
    if not (folder / "pool" / "pool.jsonl").is_file():
        rows = [{"id": page.id, "captions": {"en": page.english}} for page in pages()]
        _write_lines(folder / "pages.jsonl", rows)
        lines = [{"id": each.id, "text": each.text, "language": each.language} for each in asked(seed)]
        lines = [line | {"relevant": each.relevant} for line, each in zip(lines, asked(seed), strict=True)]
        _write_lines(folder / "questions.jsonl", lines)
        write(space("", seed), "stories", folder / "model")
        run("pack", "jsonl", folder / "pages.jsonl", "--out", folder / "pages", "--workers", 1)
        options = ["--data", folder / "pages", "--questions", folder / "questions.jsonl", "--pool", NEAREST]
        run("mine", folder / "model", *options, "--out", folder / "pool", "--workers", 0, "--device", "cpu")
    lines = (folder / "pool" / "pool.jsonl").read_text(encoding="utf-8").splitlines()
    return frozenset(json.loads(line)["id"] for line in lines)


def corpus(name: str, folder: Path, seed: int) -> np.ndarray:
    """The numbers of the pages that are kept, the answers among them."""
    if name == ALL:
        return np.arange(len(pages()))
    near = {number for number, page in enumerate(pages()) if page.id in mined(folder, seed)}
    if name == RANDOM:
        answers = {item for question in asked(seed) for item in question.right}
        right = {number for number, page in enumerate(pages()) if page.id in answers}
        others = sorted(set(range(len(pages()))) - right)
        near = right.union(random.Random(seed).sample(others, len(near) - len(right)))
    return np.array(sorted(near))


def figures(scores: Scores, kept: np.ndarray, seed: int, within: bool) -> dict[str, float]:
    """Mean figures of the questions, among the kept pages or within their stories, in percent."""
    questions = [Question(each.id, each.text, each.language, each.relevant) for each in asked(seed)]
    there = [pages()[number] for number in kept]
    stories: dict[str, list[int]] = {}
    for number, page in enumerate(there):
        stories.setdefault(page.story, []).append(number)
    of_pages = Asked.of(asked(seed) if within else questions, [page.id for page in there], stories)
    values = of_pages.values(of_pages.ranks(scores))
    return {name: 100 * float(np.mean(each)) for name, each in values.items()}


def smaller(name: str, folder: Path, seed: int, split: str) -> Figures:
    """nDCG@10 of each model among the kept pages, and how that stands to all pages."""

    def of_models(kept: np.ndarray) -> list[float]:
        rows = (encoded(model, seed) for model in MODELS)
        return [figures(EmbeddingScores(items[kept], queries), kept, seed, False)["nDCG@10"] for items, queries in rows]

    kept = corpus(name, folder, seed)
    found, whole = of_models(kept), of_models(corpus(ALL, folder, seed))
    changes = np.subtract(found, whole)
    result = {f"nDCG@10, {model}": value for model, value in zip(MODELS, found, strict=True)} | {"pages": len(kept)}
    result |= {"Spearman": float(spearmanr(found, whole).statistic)}
    return result | {"largest change": float(np.abs(changes).max()), "mean change": float(changes.mean())}


def within(name: str, folder: Path, seed: int, split: str) -> Figures:
    """Top-1 and top-5 within a story."""
    every = np.arange(len(pages()))
    if name == "chance":
        sizes = Counter(page.story for page in pages())
        return {
            f"R@{k}": float(np.mean([100 * min(1, k / sizes[str(each.pool)]) for each in asked(seed)])) for k in (1, 5)
        }
    if name == "BM25":
        texts = [
            [words(page.english, "en") for page in pages()],
            [words(each.text, each.language) for each in asked(seed)],
        ]
        scores: Scores = Bm25Scores(*texts)
    else:
        scores = EmbeddingScores(*encoded(MODELS[-1], seed))
    found = figures(scores, every, seed, True)
    return {name: found[name] for name in ("R@1", "R@5")}


def _write_lines(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    write_whole(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def recipes(result: Callable[..., Figures], names: Sequence[str], runs: Runs) -> dict[str, Recipe]:
    return {name: Recipe(partial(result, name, runs.folder)) for name in names}


SMALLER = Claim(
    "MIRACL-VISION (Osmulski et al. 2025)",
    "of the pages nearest to some question models keep their order and their figures; a random corpus is easier",
    partial(recipes, smaller, (ALL, NEAR, RANDOM)),
    [],
    [
        Expected(NEAR, "Spearman", above=0.9),
        Expected(NEAR, "largest change", below=2),
        Expected(RANDOM, "mean change", above=0),
    ],
)
WITHIN = Claim(
    "VisR-Bench (Chen et al. 2025), the text of pages alone",
    "a page is found within its document by words of another language, and better than by equal words",
    partial(recipes, within, ("chance", "BM25", "word space")),
    [("word space", "BM25"), ("word space", "chance")],
    [Expected("word space over chance", "R@1", above=0), Expected("word space over BM25", "R@1", above=0)],
)
CLAIMS = {"smaller_corpus": SMALLER, "documents": WITHIN}
