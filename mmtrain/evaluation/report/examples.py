"""What the report shows of single queries: right and wrong answers, the scatter of scores, ranks across languages."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from mmtrain.evaluation.metrics.consistency import consistent_rows, language_similarity
from mmtrain.evaluation.ranking.nearest import flat_top_k
from mmtrain.evaluation.ranking.ranks import DIRECTIONS, RetrievalRanks
from mmtrain.evaluation.ranking.tiles import pair_scores

PICTURES = 800  # pictures in one report: at 3 kB each they stay well under its 5 MB


@dataclass(frozen=True)
class Item:
    """An image by its number, or a caption with its language; score and right are set where it is an answer."""

    image: int | None = None
    text: str | None = None
    language: str | None = None
    score: float | None = None
    right: bool = False


@dataclass(frozen=True)
class Example:
    """One query with its best answers; rank is 1-based, `wanted` a right answer."""

    direction: Literal["text_to_image", "image_to_text"]
    language: str
    rank: int
    query: Item
    answers: list[Item]
    wanted: Item


@dataclass(frozen=True)
class Examples:
    """Queries, the ranks of some images in every language (float [rows, K], 1-based, NaN where missing), and their
    pictures.
    """

    queries: list[Example]
    rank_images: list[int]
    rank_table: np.ndarray
    pictures: dict[int, bytes]


def choose_examples(
    ranks: RetrievalRanks,
    image_embeddings: np.ndarray | Tensor,
    text_embeddings: np.ndarray | Tensor,
    captions: Sequence[str],
    thumbnail: Callable[[int], bytes],
    *,
    per_language: int = 2,
    top: int = 5,
    rows: int = 20,
    seed: int = 0,
) -> Examples:
    """Draw, in each direction and language, `per_language` queries that were right at rank 1 and as many that were
    wrong.

    captions [M] are the texts behind text_embeddings [M, D]; thumbnail(i) gives the bytes of image i as PNG, JPEG or
    WebP. The draw depends on the seed and the ranks alone. Where every language would take more than `PICTURES`
    pictures, fewer queries are drawn, then fewer languages, evenly from the best to the worst. The top answers come
    from FAISS flat search.
    """
    languages = sorted(ranks.languages, key=lambda language: -np.mean(ranks.text_to_image[language].rank == 0))
    cost = 2 * (top + 2)  # right and wrong in both directions: two rows of answers, a missed one, two queries
    if len(languages) * cost > PICTURES:
        spread = np.linspace(0, len(languages) - 1, PICTURES // cost).round().astype(int)
        languages = [languages[place] for place in np.unique(spread)]
    per_language = max(1, min(per_language, PICTURES // (cost * len(languages))))
    random = np.random.default_rng(seed)
    picked = []
    for language in languages:
        for direction in DIRECTIONS:
            outcome = ranks.of(direction)[language]
            for right in (True, False):
                places = np.flatnonzero((outcome.rank == 0) == right)
                for place in random.permutation(places)[:per_language]:
                    picked.append((direction, language, int(outcome.query[place]), int(outcome.rank[place]) + 1))
    queries = [
        *_image_answers(
            [p for p in picked if p[0] == "text_to_image"], ranks, image_embeddings, text_embeddings, captions, top
        ),
        *_text_answers(
            [p for p in picked if p[0] == "image_to_text"], ranks, image_embeddings, text_embeddings, captions, top
        ),
    ]
    table = ranks.by_image("text_to_image")
    comparable = np.flatnonzero(consistent_rows(table))
    shown = random.permutation(comparable)[:rows]
    shown = shown[np.argsort([np.nanmean(table[image]) for image in shown], kind="stable")] if len(shown) else shown
    items = (item for q in queries for item in (q.query, *q.answers, q.wanted))
    needed = {item.image for item in items if item.image is not None} | set(shown.tolist())
    return Examples(queries, shown.tolist(), table[shown] + 1, {image: thumbnail(image) for image in sorted(needed)})


def _image_answers(
    picked: list[tuple],
    ranks: RetrievalRanks,
    images: np.ndarray | Tensor,
    texts: np.ndarray | Tensor,
    captions: Sequence[str],
    top: int,
) -> list[Example]:
    if not picked:
        return []
    asked = np.array([query for _, _, query, _ in picked])
    scores, found = flat_top_k(texts[asked], images, top, ranks.statement.similarity, turned=True)
    right = ranks.relevance.texts[asked] @ ranks.relevance.images.T
    return [
        Example(
            "text_to_image",
            language,
            rank,
            Item(text=captions[query], language=language),
            [
                Item(image=int(image), score=float(score), right=bool(right[row, image]))
                for image, score in zip(found[row], scores[row], strict=True)
            ],
            Item(image=int(ranks.image_of_text[query])),
        )
        for row, (_, language, query, rank) in enumerate(picked)
    ]


def _text_answers(
    picked: list[tuple],
    ranks: RetrievalRanks,
    images: np.ndarray | Tensor,
    texts: np.ndarray | Tensor,
    captions: Sequence[str],
    top: int,
) -> list[Example]:
    examples = []
    for language in dict.fromkeys(language for _, language, _, _ in picked):
        of_language = [each for each in picked if each[1] == language]
        asked = np.array([query for _, _, query, _ in of_language])
        own = ranks.texts_of[language]
        pool = np.concatenate(list(ranks.texts_of.values())) if ranks.statement.one_pool else own
        scores, found = flat_top_k(images[asked], texts[pool], top, ranks.statement.similarity)
        right = ranks.relevance.images[asked] @ ranks.relevance.texts[pool].T
        for row, (direction, _, query, rank) in enumerate(of_language):
            answers = [
                Item(
                    text=captions[pool[place]],
                    language=str(ranks.language_of_text[pool[place]]),
                    score=float(score),
                    right=bool(right[row, place]),
                )
                for place, score in zip(found[row], scores[row], strict=True)
            ]
            wanted = Item(text=captions[own[ranks.image_of_text[own] == query][0]], language=language)
            examples.append(Example(direction, language, rank, Item(image=query), answers, wanted))
    return examples


def score_histogram(
    ranks: RetrievalRanks,
    image_embeddings: np.ndarray | Tensor,
    text_embeddings: np.ndarray | Tensor,
    *,
    bins: int = 60,
    sample: int = 50_000,
    seed: int = 0,
) -> dict[str, list[float]]:
    """How the scores of captions with their own image, and with an image drawn at random, are spread.

    Returns {"edges" [bins + 1], "positive" [bins], "negative" [bins]}; both are shares that add up to 1, from at most
    `sample` captions. Images that are right for the caption are left out of the negatives.
    """
    random = np.random.default_rng(seed)
    used = np.concatenate(list(ranks.texts_of.values()))
    chosen = np.sort(random.permutation(used)[:sample])
    images, texts = torch.as_tensor(image_embeddings), torch.as_tensor(text_embeddings)
    drawn = random.integers(0, ranks.images, len(chosen))
    table = ranks.relevance
    wrong = table.texts[chosen].multiply(table.images[drawn]).sum(1) == 0
    similarity = ranks.statement.similarity
    positive = pair_scores(images, texts, ranks.image_of_text[chosen], chosen, similarity)
    negative = pair_scores(images, texts, drawn[wrong], chosen[wrong], similarity)
    edges = np.histogram_bin_edges(np.concatenate([positive, negative]), bins)
    counts = [np.histogram(scores, edges)[0] / max(1, len(scores)) for scores in (positive, negative)]
    return {"edges": edges.tolist(), "positive": counts[0].tolist(), "negative": counts[1].tolist()}


def report_parts(
    ranks: RetrievalRanks,
    image_embeddings: np.ndarray | Tensor,
    text_embeddings: np.ndarray | Tensor,
    captions: Sequence[str],
    thumbnail: Callable[[int], bytes],
    *,
    seed: int = 0,
) -> dict[str, Any]:
    """What `write_report` shows besides the metrics, as keyword arguments for it; see `choose_examples`."""
    return {
        "examples": choose_examples(ranks, image_embeddings, text_embeddings, captions, thumbnail, seed=seed),
        "score_histogram": score_histogram(ranks, image_embeddings, text_embeddings, seed=seed),
        "similarity": language_similarity(ranks, text_embeddings),
    }


@dataclass(frozen=True)
class RelationExample:
    """One post of the report: its picture as bytes, its text, and what was said of it."""

    picture: bytes
    text: str
    language: str
    label: str
    predicted: str
    confidence: float

    @property
    def right(self) -> bool:
        return self.label == self.predicted


@dataclass(frozen=True)
class RelationResults:
    """`metrics` goes into metrics.json; `task` is the one under its key "relation"; `systems` are the tables of every
    task, the trained head's first; `examples` are of `task`.
    """

    task: str
    metrics: dict[str, Any]
    systems: dict[str, dict[str, dict[str, Any]]]
    examples: list[RelationExample]
