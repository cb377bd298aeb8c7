"""Stories as documents, by their words: questions in other languages to English pages, seconds a seed on one core.

MIRACL-VISION (Osmulski et al. 2025) keeps of each corpus the pages that an encoder finds nearest to some question, and
claims that models keep their order and nearly their figures, while a random corpus of the same size is easier. Here the
items are the English texts of a manifest of stories (the file that STORYBOOKS names in the environment, else
storybooks.jsonl), questions a sentence of a page of the split val in one of twelve other languages. Models are bags of
words, trained on the translations of the other stories. Five are one training after different steps; a sixth, of
another width and seed, chooses the nearest pages and is not measured.

Within their story the same questions are answered by BM25 too, and by the model that has seen most.
"""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import count
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.claims.record import Claim, Expected, Figures, Recipe, Runs
from benchmarks.number_features import Schedule, optimise
from datamodules.packing.questions import SENTENCE
from datamodules.tokenizers.words import split_words
from losses.clip import clip_loss
from mmtrain.evaluation.questions import Question
from mmtrain.evaluation.ranking.asked import Asked
from mmtrain.evaluation.ranking.bm25 import Bm25Scores, words
from mmtrain.evaluation.ranking.graded import EmbeddingScores, Scores

STORIES = Path(os.environ.get("STORYBOOKS", "storybooks.jsonl"))
LANGUAGES = ("sw", "af", "fr", "pt", "xh", "so", "zu", "nso", "de", "nb", "sv", "tn")
STEPS, BATCH, RATE, SCALE = (10, 20, 40, 80, 160), 256, 0.02, 20.0
WIDTH, CHOOSING_WIDTH = 128, 64
PER_LANGUAGE, NEAREST = 8, 50
MODELS = [f"{steps} steps" for steps in STEPS]
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
def vocabulary() -> dict[str, int]:
    """The words that the trained stories have twice, in any language."""
    texts = [text for page in pages() if page.train for text in (page.english, *page.others.values())]
    counts = Counter(word for text in texts for word in split_words(text))
    return {word: number for number, (word, often) in enumerate(counts.items()) if often > 1}


@cache
def known(text: str) -> list[int]:
    """The numbers of the words that are in the vocabulary."""
    return [vocabulary()[word] for word in split_words(text) if word in vocabulary()]


class WordBag(nn.Module):
    """Texts as unit rows [n, width]: the mean of their words' embeddings, the same word in any language."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed = nn.EmbeddingBag(len(vocabulary()), width)
        nn.init.normal_(self.embed.weight, std=0.1)

    def forward(self, texts: Sequence[str]) -> Tensor:
        numbers = [known(text) for text in texts]
        edges = torch.tensor([0, *np.cumsum([len(each) for each in numbers])[:-1]])
        flat = torch.tensor([number for each in numbers for number in each], dtype=torch.int64)
        return functional.normalize(self.embed(flat, edges), dim=1)


def trained(width: int, seed: int, look: Callable[[int, WordBag], None]) -> None:
    """Trains on translations of the other stories; `look` sees the model after each number of STEPS."""
    torch.manual_seed(seed)
    model, draws, done = WordBag(width), random.Random(seed), count()
    pairs = [(page.english, text) for page in pages() if page.train for text in page.others.values()]

    def loss() -> Tensor:
        if (step := next(done)) in STEPS:
            with torch.no_grad():
                look(step, model)
        english, others = zip(*draws.sample(pairs, BATCH), strict=True)
        return clip_loss(model(english), model(others), SCALE)

    optimise(list(model.parameters()), loss, Schedule(max(STEPS) + 1, BATCH), RATE)


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
    """Rows of all pages and of the questions, by each of MODELS and by the one that chooses, ""."""
    texts, found = [[page.english for page in pages()], [each.text for each in asked(seed)]], {}

    def look(steps: int, model: WordBag) -> None:
        found[f"{steps} steps"] = model(texts[0]), model(texts[1])

    trained(CHOOSING_WIDTH, 1000 + seed, look)
    found[""] = found[MODELS[-1]]
    trained(WIDTH, seed, look)
    return found


def corpus(name: str, seed: int) -> np.ndarray:
    """The numbers of the pages that are kept, the answers among them."""
    items, queries = encoded(seed)[""]
    answers = {page.id: number for number, page in enumerate(pages())}
    kept = {answers[item] for question in asked(seed) for item in question.right}
    near = kept.union(*(row.topk(NEAREST).indices.tolist() for row in queries @ items.T))
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
    partial(recipes, within, ("chance", "BM25", "bag of words")),
    [("bag of words", "BM25"), ("bag of words", "chance")],
    [Expected("bag of words over chance", "R@1", above=0), Expected("bag of words over BM25", "R@1", above=0)],
)
CLAIMS = {"smaller_corpus": SMALLER, "documents": WITHIN}
