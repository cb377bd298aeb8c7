"""The k best items of a few queries, by exact search: FAISS flat for cosine, tiles for asymmetric similarity."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmtrain.evaluation.ranking.tiles import TILE, Rows, Similarity, score_tile, unit_rows
from mmtrain.evaluation.ranking.token_rows import TokenRows

FlatSearch = Callable[[np.ndarray | Rows, int], tuple[np.ndarray, np.ndarray]]


def import_faiss() -> ModuleType:
    """FAISS, which comes with the extra `cpu` or `gpu`; ValueError naming them where it is missing."""
    try:
        import faiss
    except ImportError:
        raise ValueError(
            "faiss is not installed; install mmtrain[cpu], or mmtrain[gpu] where there is an NVIDIA GPU"
        ) from None
    return faiss


def flat_top_k(
    queries: np.ndarray | Rows,
    items: np.ndarray | Rows,
    k: int,
    similarity: Similarity = "cosine",
    *,
    turned: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Scores float32 [Q, k] and item numbers int64 [Q, k], best first, of queries [Q, D] among items [P, D].

    k is lowered to P. `turned` says that the queries are the second argument of an asymmetric similarity (captions
    looking for images), or of late interaction.
    """
    return flat_search(items, similarity, turned=turned)(queries, k)


def flat_search(items: np.ndarray | Rows, similarity: Similarity = "cosine", *, turned: bool = False) -> FlatSearch:
    """`flat_top_k` among these items, as a function of queries and k; the FAISS index is built once."""
    if similarity == "cosine" and not isinstance(items, TokenRows):
        index = import_faiss().IndexFlatIP(items.shape[1])
        for start in range(0, len(items), TILE):
            index.add(_float32(items[start : start + TILE], similarity).numpy())

        def search_index(queries: Any, k: int) -> tuple[np.ndarray, np.ndarray]:
            return index.search(_float32(queries, similarity).numpy(), min(k, len(items)))

        return search_index

    def search(queries: np.ndarray | Rows, k: int) -> tuple[np.ndarray, np.ndarray]:
        rows = _prepared(queries, similarity)
        scores, best = torch.empty(len(rows), 0), torch.empty(len(rows), 0, dtype=torch.int64)
        for start in range(0, len(items), TILE):
            block = _prepared(items[start : start + TILE], similarity)
            tile = score_tile(block, rows, similarity).T if turned else score_tile(rows, block, similarity)
            best = torch.cat([best, torch.arange(start, start + len(block)).expand(len(rows), -1)], 1)
            scores, places = torch.cat([scores, tile], 1).topk(min(k, best.shape[1]), dim=1)
            best = best.gather(1, places)
        return scores.numpy(), best.numpy()

    return search


def _prepared(rows: np.ndarray | Rows, similarity: Similarity) -> Rows:
    return rows.to("cpu") if isinstance(rows, TokenRows) else _float32(rows, similarity)


def _float32(rows: np.ndarray | Tensor, similarity: Similarity) -> Tensor:
    return unit_rows(torch.as_tensor(rows).detach().cpu(), similarity).float().contiguous()
