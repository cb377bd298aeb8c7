"""What the report shows of single queries: right and wrong answers, score histograms, ranks across languages."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmtrain.evaluation.metrics.consistency import consistent_rows, language_similarity
from mmtrain.evaluation.ranking.nearest import flat_top_k
from mmtrain.evaluation.ranking.ranks import DIRECTIONS, Direction, RetrievalRanks
from mmtrain.evaluation.ranking.tiles import Rows, pair_scores
from mmtrain.evaluation.ranking.token_rows import TokenRows

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
    """One query with its best answers, its 1-based rank and a right answer (`wanted`)."""

    direction: Direction
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
    image_embeddings: np.ndarray | Rows,
    text_embeddings: np.ndarray | Rows,
    captions: Sequence[str],
    thumbnail: Callable[[int], bytes],
    *,
    per_language: int = 2,
    top: int = 5,
    rows: int = 20,
    seed: int = 0,
) -> Examples:
    """Draws, in each direction and language, `per_language` queries with a right first answer and as many without.

    captions [M] are the texts behind text_embeddings [M, D]; thumbnail(i) gives the bytes of image i as PNG, JPEG or
    WebP. The draw depends on the seed and the ranks alone. Where every language would take more than `PICTURES`
    pictures, fewer queries are drawn, then fewer languages, evenly from the best to the worst. The `top` answers come
    from FAISS flat search. `rows` images show their ranks in every language.
    """
    languages = sorted(ranks.languages, key=lambda language: -np.mean(ranks.text_to_image[language].rank == 0))
    cost = 2 * (top + 2)  # right and wrong in both directions: two rows of answers, a missed one, two queries
    if len(languages) * cost > PICTURES:
        spread = np.linspace(0, len(languages) - 1, PICTURES // cost).round().astype(int)
        languages = [languages[place] for place in np.unique(spread)]
    per_language = max(1, min(per_language, PICTURES // (cost * len(languages))))
    random = np.random.default_rng(seed)
    draws: dict[tuple[Direction, str], list[tuple[str, int, int]]] = {}  # captions of all languages search together
    for language in languages:
        for direction in DIRECTIONS:
            draw = draws.setdefault((direction, language if direction == "image_to_text" else "all"), [])
            outcome = ranks.of(direction)[language]
            for right in (True, False):
                places = random.permutation(np.flatnonzero((outcome.rank == 0) == right))[:per_language]
                draw += [(language, int(outcome.query[place]), int(outcome.rank[place]) + 1) for place in places]
    queries = [
        example
        for (direction, _), draw in draws.items()
        for example in _with_answers(direction, draw, ranks, image_embeddings, text_embeddings, captions, top)
    ]
    table = ranks.by_image("text_to_image")
    sample = random.permutation(np.flatnonzero(consistent_rows(table)))[:rows]
    sample = sample[np.argsort(np.nanmean(table[sample], 1), kind="stable")]
    items = (item for q in queries for item in (q.query, *q.answers, q.wanted))
    images = {item.image for item in items if item.image is not None} | set(sample.tolist())
    return Examples(queries, sample.tolist(), table[sample] + 1, {image: thumbnail(image) for image in sorted(images)})


def _with_answers(
    direction: Direction,
    draw: Sequence[tuple[str, int, int]],
    ranks: RetrievalRanks,
    image_embeddings: np.ndarray | Rows,
    text_embeddings: np.ndarray | Rows,
    captions: Sequence[str],
    top: int,
) -> list[Example]:
    """Examples of queries (language, number, 1-based rank); those of image_to_text are of one language."""
    if not draw:
        return []
    queries, similarity = np.array([query for _, query, _ in draw]), ranks.statement.similarity
    own = ranks.texts_of[draw[0][0]]
    of_query, of_answer = direction.split("_to_")

    def item(kind: str, number: int, **answer: Any) -> Item:
        if kind == "image":
            return Item(image=int(number), **answer)
        return Item(text=captions[number], language=str(ranks.language_of_text[number]), **answer)

    if of_answer == "image":
        scores, answers = flat_top_k(text_embeddings[queries], image_embeddings, top, similarity, turned=True)
        right = ranks.relevance.pairs(answers, np.broadcast_to(queries[:, None], answers.shape))
        targets = ranks.image_of_text[queries]
    else:
        pool = np.concatenate(list(ranks.texts_of.values())) if ranks.statement.one_pool else own
        scores, places = flat_top_k(image_embeddings[queries], text_embeddings[pool], top, similarity)
        answers = pool[places]
        right = ranks.relevance.pairs(np.broadcast_to(queries[:, None], answers.shape), answers)
        targets = np.array([own[ranks.image_of_text[own] == query][0] for query in queries])
    examples = []
    for row, (language, query, rank) in enumerate(draw):
        best = [
            item(of_answer, answer, score=float(score), right=bool(is_right))
            for answer, score, is_right in zip(answers[row], scores[row], right[row], strict=True)
        ]
        examples.append(Example(direction, language, rank, item(of_query, query), best, item(of_answer, targets[row])))
    return examples


def score_histogram(
    ranks: RetrievalRanks,
    image_embeddings: np.ndarray | Rows,
    text_embeddings: np.ndarray | Rows,
    *,
    bins: int = 60,
    sample: int = 50_000,
    seed: int = 0,
) -> dict[str, list[float]]:
    """Histograms of the scores of captions with their own image and with a wrong one drawn at random.

    Returns {"edges" [bins + 1], "positive" [bins], "negative" [bins]}; both are shares that add up to 1, from at most
    `sample` captions. Images that are right for the caption are left out of the negatives.
    """
    random = np.random.default_rng(seed)
    rows = np.sort(random.permutation(np.concatenate(list(ranks.texts_of.values())))[:sample])
    others = random.integers(0, ranks.images, len(rows))
    wrong = ~ranks.relevance.pairs(others, rows)
    images, texts = (
        rows if isinstance(rows, TokenRows) else torch.as_tensor(rows) for rows in (image_embeddings, text_embeddings)
    )
    similarity = ranks.statement.similarity
    positive = pair_scores(images, texts, ranks.image_of_text[rows], rows, similarity)
    negative = pair_scores(images, texts, others[wrong], rows[wrong], similarity)
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
    """What `write_report` shows besides the metrics, as keyword arguments for it.

    Args:
        ranks: Of images [N, D] and texts [M, D], which follow.
        captions: The M texts.
        thumbnail: Number of an image -> its picture as a file's bytes.
        seed: Of the examples and of the wrong pairs.
    """
    return {
        "examples": choose_examples(ranks, image_embeddings, text_embeddings, captions, thumbnail, seed=seed),
        "score_histogram": score_histogram(ranks, image_embeddings, text_embeddings, seed=seed),
        "similarity": language_similarity(ranks, text_embeddings),
    }


@dataclass(frozen=True)
class RelationExample:
    """One post of the report: its image as bytes, its text, its class and the predicted one."""

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
    """`metrics` for metrics.json, the tables of every task by system, and examples of `task`, that of "relation"."""

    task: str
    metrics: dict[str, Any]
    systems: dict[str, dict[str, dict[str, Any]]]
    examples: list[RelationExample]
