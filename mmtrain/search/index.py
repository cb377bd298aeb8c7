"""An index folder, opened: DIR/index.json, index.faiss, rows.npy and items.sqlite."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmtrain.evaluation.ranking.nearest import import_faiss
from mmtrain.evaluation.ranking.tiles import Similarity, score_tile
from mmtrain.search.items import Items
from mmtrain.search.kinds import comparable
from mmtrain.search.tokens import TokenStore

DESCRIPTION, FAISS, ROWS, ITEMS = "index.json", "index.faiss", "rows.npy", "items.sqlite"
FORMAT = 1
FIELDS = {"kind": ("flat", "ivf", "hnsw", "pq"), "similarity": ("cosine", "asymmetric")}


class SearchIndex:
    """Images that can be searched.

    A flat index by cosine is exact. Every other one proposes candidates by inner product, which are then scored in full
    from their rows: scores are exact in any case, and only an image that was not proposed can be missed.

    Attributes:
        description: index.json.
        rows: float32 [N, D], on disk until read.
        items: Ids, captions and thumbnails by number.
        tokens: Token rows, where the index has them.

    Raises:
        ValueError: when the folder holds no index, or an incomplete one.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        try:
            self.description: dict[str, Any] = json.loads((self.folder / DESCRIPTION).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ValueError(f"DIR: {folder} holds no index; give a folder that `mmtrain index` wrote") from None
        except (OSError, ValueError) as error:
            raise ValueError(f"DIR: {self.folder / DESCRIPTION} cannot be read ({error}); index again") from error
        if not isinstance(self.description, dict) or self.description.get("format") != FORMAT:
            format = self.description.get("format") if isinstance(self.description, dict) else None
            raise ValueError(
                f"DIR: {folder} has format {format!r}, this version of mmtrain reads {FORMAT}; index again"
            )
        candidates = self.description.get("candidates")
        fields = {name: self.description.get(name) in values for name, values in FIELDS.items()}
        fields["candidates"] = isinstance(candidates, int) and candidates > 0
        if wrong := [name for name, valid in fields.items() if not valid]:
            value = self.description.get(wrong[0])
            raise ValueError(f"DIR: {self.folder / DESCRIPTION} has {wrong[0]} {value!r}; index again")
        faiss = import_faiss()
        try:
            self._faiss = faiss.read_index(str(self.folder / FAISS))
            # copied on write: torch wants rows that it might write to
            self.rows: np.ndarray = np.load(self.folder / ROWS, mmap_mode="c")
        except (RuntimeError, OSError, ValueError) as error:
            # FAISS names the place in its source first, then the reason
            reason = str(error).strip().splitlines()[-1].split("Error: ")[-1][:200]
            raise ValueError(f"DIR: {folder} is no complete index ({reason}); index again") from error
        found = (self._faiss.ntotal, self._faiss.d), self._faiss.metric_type
        if self.rows.dtype != np.float32 or found != (self.rows.shape, faiss.METRIC_INNER_PRODUCT):
            (count, width), metric = found
            by = "inner product" if metric == faiss.METRIC_INNER_PRODUCT else f"FAISS's metric {metric}"
            raise ValueError(
                f"DIR: {folder} is no complete index ({FAISS} has {count} rows of width {width} by {by}, {ROWS}"
                f" {self.rows.dtype} {list(self.rows.shape)} by inner product); index again"
            )
        self.tokens = TokenStore(self.folder, len(self.rows)) if self.description.get("tokens") else None
        self.items = Items(self.folder / ITEMS)
        self.similarity: Similarity = self.description["similarity"]
        self.exact = self.description["kind"] == "flat" and self.similarity == "cosine"

    def __len__(self) -> int:
        return len(self.rows)

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Scores float32 [Q, k] and item numbers int64 [Q, k], best first, of queries float32 [Q, D].

        A query is the more general side of an asymmetric similarity, as a caption is. Where fewer than k items were
        proposed, the rest is -inf and -1. Raises ValueError for queries of another width, or that are not finite.
        """
        width = self.rows.shape[1]
        if queries.ndim != 2 or queries.shape[1] != width:
            raise ValueError(f"query: rows of shape {list(queries.shape)}, the index has width {width}")
        if not np.isfinite(queries).all():
            raise ValueError("query: its row holds NaN or infinity; the model cannot encode it")
        k = min(k, len(self))
        if self.exact:
            return self._faiss.search(comparable(queries, self.similarity), k)
        proposals = self.propose(queries, max(k, self.description["candidates"]))
        scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
        numbers = np.full((len(queries), k), -1, dtype=np.int64)
        for query, row in enumerate(queries):
            candidates = np.sort(proposals[query][proposals[query] >= 0])  # in the order of the file
            full = self.scores(row, candidates)
            best = np.argsort(-full, kind="stable")[:k]
            scores[query, : len(best)], numbers[query, : len(best)] = full[best], candidates[best]
        return scores, numbers

    def search_late(self, query: np.ndarray, tokens: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Scores float32 [k] and item numbers int64 [k], best first, of a query float32 [1, D] with token rows [L, d].

        The rows propose as many items as the index has candidates; their token rows decide, by late interaction.
        """
        assert self.tokens is not None
        if tokens.shape[1:] != (self.tokens.width,):
            raise ValueError(f"query: token rows of width {tokens.shape[1]}, the index has {self.tokens.width}")
        if not len(tokens):
            raise ValueError("query: it has no token, expected at least one")
        _, (candidates,) = self.search(query, max(k, self.description["candidates"]))
        candidates = np.sort(candidates[candidates >= 0])  # in the order of the file
        scores = self.tokens.scores(tokens, candidates)
        best = np.argsort(-scores, kind="stable")[:k]
        return scores[best], candidates[best]

    def propose(self, queries: np.ndarray, count: int) -> np.ndarray:
        """What FAISS alone finds: item numbers int64 [Q, count], best first, -1 where it finds fewer."""
        return self._faiss.search(comparable(queries, self.similarity), min(count, len(self)))[1]

    def scores(self, query: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """Full scores float32 [C] of a query [D] and the items of these numbers [C]."""
        rows = torch.from_numpy(self.rows[numbers])
        return score_tile(rows, torch.from_numpy(query)[None], self.similarity)[:, 0].numpy()
