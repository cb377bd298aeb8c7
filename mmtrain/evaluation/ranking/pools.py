"""Grouped pools: images and captions ranked only among those of their own group.

A fold of COCO, the images that one language describes, the pages of one document are all pools. The ranks of the pools
are joined into one `RetrievalRanks`, so that intervals, rank variance and the paired bootstrap work as they do without.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mmtrain.evaluation.ranking.protocol_statement import PoolCount
from mmtrain.evaluation.ranking.queries import QueryRanks
from mmtrain.evaluation.ranking.ranks import DIRECTIONS, RetrievalRanks, rank_retrieval
from mmtrain.evaluation.ranking.relevance import Relevance
from mmtrain.evaluation.ranking.tiles import Rows


@dataclass(frozen=True)
class Pool:
    """Images int64 [n], by their number in the split, with their captions in `languages` (None: in all languages)."""

    name: str
    images: np.ndarray
    languages: tuple[str, ...] | None = None


def folds(images: int, size: int) -> list[Pool]:
    """The images in their order, `size` in each pool; the last pool is smaller where they do not divide."""
    return [Pool(f"fold {1 + s // size}", np.arange(s, min(s + size, images))) for s in range(0, images, size)]


def own_images(image_of_text: np.ndarray, language_of_text: np.ndarray) -> list[Pool]:
    """One pool a language: its captions and the images they describe."""
    return [
        Pool(str(language), np.unique(image_of_text[language_of_text == language]), (str(language),))
        for language in np.unique(language_of_text)
    ]


def rank_pools(
    image_embeddings: np.ndarray | Rows,
    text_embeddings: np.ndarray | Rows,
    image_of_text: np.ndarray,
    language_of_text: np.ndarray,
    pools: Sequence[Pool],
    *,
    languages: Sequence[str] | None = None,
    image_groups: np.ndarray | None = None,
    text_groups: np.ndarray | None = None,
    **options: Any,
) -> tuple[RetrievalRanks, list[RetrievalRanks]]:
    """`rank_retrieval` within each pool, with its arguments: all queries of all pools together, and pool by pool.

    Queries keep their numbers in the split. Pools without any caption have no query; they are left out and counted in
    the protocol. Raises ValueError for an empty pool, and when no pool has a caption.
    """
    languages = np.unique(language_of_text).tolist() if languages is None else list(languages)
    parts: list[RetrievalRanks] = []
    joined: dict[str, dict[str, list[QueryRanks]]] = {name: {each: [] for each in languages} for name in DIRECTIONS}
    for pool in pools:
        if not len(pool.images):
            raise ValueError(f"pool {pool.name!r} is empty; a pool needs at least one image")
        images = np.sort(pool.images)
        of_languages = np.isin(language_of_text, languages if pool.languages is None else pool.languages)
        texts = np.flatnonzero(of_languages & np.isin(image_of_text, images))
        present = [language for language in languages if language in language_of_text[texts]]
        if not present:
            continue
        ranks = rank_retrieval(
            image_embeddings[images],
            text_embeddings[texts],
            np.searchsorted(images, image_of_text[texts]),
            language_of_text[texts],
            languages=present,
            image_groups=None if image_groups is None else image_groups[images],
            text_groups=None if text_groups is None else text_groups[texts],
            **options,
        )
        parts.append(ranks)
        for direction, queries in zip(DIRECTIONS, (texts, images), strict=True):
            for language, part in ranks.of(direction).items():
                numbered = replace(part, query=queries[part.query], image=images[part.image])
                joined[direction][language].append(numbered)
    missing = [language for language in languages if not joined["text_to_image"][language]]
    if missing:
        raise ValueError(f"no pool has a caption in {', '.join(missing)}; name other languages")
    directions = {
        name: {language: QueryRanks.joined(ranks) for language, ranks in table.items()}
        for name, table in joined.items()
    }
    sizes = [len(pool.images) for pool in pools]
    pool_count = PoolCount(len(pools), min(sizes), max(sizes), len(pools) - len(parts))
    whole = RetrievalRanks(
        images=len(image_embeddings),
        languages=languages,
        image_of_text=image_of_text,
        language_of_text=language_of_text,
        # "first" captions only are queries of text to image; their numbers say which took part
        texts_of={language: ranks.query for language, ranks in directions["text_to_image"].items()},
        relevance=Relevance.of(image_of_text, len(image_embeddings), image_groups, text_groups),
        recall_at=parts[0].recall_at,
        text_to_image=directions["text_to_image"],
        image_to_text=directions["image_to_text"],
        text_to_text={},
        statement=replace(parts[0].statement, pools=pool_count),
    )
    return whole, parts


def mean_over_pools(metrics: dict[str, Any], parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The figures of `summarise` with recall, MRR, nDCG and ranks replaced by their means over pools.

    metrics are those of the joined ranks, parts those of each pool. Each language is averaged over the pools that have
    it. Query counts and intervals stay those of all queries together: a mean over few folds has no interval of its own.
    """
    metrics = metrics | {"mean_recall": float(np.mean([part["mean_recall"] for part in parts]))}
    for direction in DIRECTIONS:
        table = {
            language: figures | _means([part[direction][language] for part in parts if language in part[direction]])
            for language, figures in metrics[direction].items()
            if language != "mean"
        }
        metrics[direction] = table | {"mean": metrics[direction]["mean"] | _means(list(table.values()))}
    return metrics


def _means(tables: Sequence[dict[str, Any]]) -> dict[str, float]:
    names = [name for name in tables[0] if name != "queries" and not name.endswith("_ci95")]
    return {name: float(np.mean([each[name] for each in tables])) for name in names}
