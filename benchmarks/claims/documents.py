"""Stories as documents, by their words: questions in other languages to English pages, seconds a seed on one core.

MIRACL-VISION (Osmulski et al. 2025) keeps of each corpus the pages that an encoder finds nearest to some question, and
claims that models keep their order and nearly their figures, while a random corpus of the same size is easier. Here the
items are the English texts of a manifest of stories (the file that STORYBOOKS names in the environment, else
storybooks.jsonl), questions a sentence of a page of the split val in one of twelve other languages. Models are word
spaces by latent semantic indexing of pages with their translations (Dumais et al. 1997), the singular vectors of their
words. Five know more or fewer pages of the split train; a sixth, narrower, of a thousand of them, chooses the nearest
pages and is not measured.

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

import numpy as np
import torch
from scipy.sparse import csr_array
from scipy.sparse.linalg import svds
from scipy.stats import spearmanr
from torch import Tensor
from torch.nn import functional

from benchmarks.claims.record import Claim, Expected, Figures, Recipe, Runs
from datamodules.packing.questions import SENTENCE
from datamodules.tokenizers.words import split_words
from mmtrain.evaluation.questions import Question
from mmtrain.evaluation.ranking.asked import Asked
from mmtrain.evaluation.ranking.bm25 import Bm25Scores, words
from mmtrain.evaluation.ranking.graded import EmbeddingScores, Scores

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
def counts(text: str) -> Counter[str]:
    return Counter(split_words(text))


class WordSpace:
    """Texts of any language as rows [n, width], by the words of some pages with all their translations."""

    def __init__(self, known: Sequence[Page], width: int, seed: int) -> None:
        documents = [sum((counts(text) for text in (page.english, *page.others.values())), Counter()) for page in known]
        often = Counter(word for each in documents for word in each)
        self._number = {word: place for place, word in enumerate(word for word, n in often.items() if n > 1)}
        self._weight = np.log(len(known) / np.array([often[word] for word in self._number]))
        self._directions = svds(self._table(documents), width, random_state=seed)[2].T  # [words, width]

    def __call__(self, texts: Sequence[str]) -> Tensor:
        return torch.from_numpy((self._table([counts(text) for text in texts]) @ self._directions).astype(np.float32))

    def _table(self, documents: Sequence[Counter[str]]) -> csr_array:
        """Weighted counts [n, words]: the logarithm of how often, times that of how rare."""
        entries = [
            (row, self._number[word], np.log1p(often))
            for row, each in enumerate(documents)
            for word, often in each.items()
            if word in self._number
        ]
        rows, columns, values = (np.array(column) for column in zip(*entries, strict=True))
        return csr_array((values * self._weight[columns], (rows, columns)), (len(documents), len(self._number)))


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
def encoded(seed: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Rows of all pages and of the questions, by each of MODELS and by the space that chooses, ""."""
    known = [page for page in pages() if page.train]
    random.Random(seed).shuffle(known)
    spaces = {name: WordSpace(known[:count], WIDTH, seed) for name, count in zip(MODELS, KNOWN, strict=True)}
    spaces[""] = WordSpace(known[-CHOOSING_KNOWN:], CHOOSING_WIDTH, seed)
    texts = [page.english for page in pages()], [each.text for each in asked(seed)]
    return {name: (space(texts[0]), space(texts[1])) for name, space in spaces.items()}


def corpus(name: str, seed: int) -> np.ndarray:
    """The numbers of the pages that are kept, the answers among them."""
    items, queries = encoded(seed)[""]
    answers = {page.id: number for number, page in enumerate(pages())}
    kept = {answers[item] for question in asked(seed) for item in question.right}
    near = kept.union(*(row.topk(NEAREST).indices.tolist() for row in queries @ functional.normalize(items).T))
    if name == ALL:
        return np.arange(len(pages()))
    if name == RANDOM:
        others = sorted(set(range(len(pages()))) - kept)
        near = kept.union(random.Random(seed).sample(others, len(near) - len(kept)))
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


def smaller(name: str, seed: int, split: str) -> Figures:
    """nDCG@10 of each model among the kept pages, and how that stands to all pages."""

    def of_models(kept: np.ndarray) -> list[float]:
        rows = (encoded(seed)[model] for model in MODELS)
        return [figures(EmbeddingScores(items[kept], queries), kept, seed, False)["nDCG@10"] for items, queries in rows]

    kept = corpus(name, seed)
    found, whole = of_models(kept), of_models(corpus(ALL, seed))
    changes = np.subtract(found, whole)
    result = {f"nDCG@10, {model}": value for model, value in zip(MODELS, found, strict=True)} | {"pages": len(kept)}
    result |= {"Spearman": float(spearmanr(found, whole).statistic)}
    return result | {"largest change": float(np.abs(changes).max()), "mean change": float(changes.mean())}


def within(name: str, seed: int, split: str) -> Figures:
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
        scores = EmbeddingScores(*encoded(seed)[MODELS[-1]])
    found = figures(scores, every, seed, True)
    return {name: found[name] for name in ("R@1", "R@5")}


def recipes(result: Callable[..., Figures], names: Sequence[str], runs: Runs) -> dict[str, Recipe]:
    return {name: Recipe(partial(result, name)) for name in names}


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
