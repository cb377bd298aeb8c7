"""`mmtrain evaluate --similarity late` and `--rerank_by late`: a split's token rows."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.batch import Batch
from losses import Embeddings, MultiEmbeddings
from mmtrain.embedding.collected import Embedded, real_captions
from mmtrain.evaluation.measuring.reranking import sorted_by
from mmtrain.evaluation.ranking.ranks import RetrievalRanks, rank_retrieval
from mmtrain.evaluation.ranking.token_rows import TokenRows, pair_token_scores


class ManyRows:
    """Token rows of every image and caption in float32, without padding."""

    def __init__(self) -> None:
        self._read: dict[int, Tensor] = {}
        self._images, self._rows = TokenRows.of([]), np.array([], np.int64)
        self._texts: list[tuple[Tensor, list[Tensor]]] = []

    def add(self, batch: Batch, embeddings: Embeddings) -> None:
        images, (b, k) = embeddings.multi["image"], real_captions(batch)
        every = torch.arange(len(batch.rows))
        for row, rows in zip(batch.rows.tolist(), token_rows(images, every), strict=True):
            if row >= 0:
                self._read[row] = rows
        if len(b):
            self._texts.append((batch.rows[b], token_rows(embeddings.multi["texts"], b, k)))

    def images(self, rows: Sequence[int] | np.ndarray) -> TokenRows:
        """Of the images of some samples, by their places in the split; of all in their order they are no copy."""
        if self._read:
            self._rows = np.array(sorted(self._read))
            self._images, self._read = TokenRows.of(self._read[int(row)] for row in self._rows), {}
        places = np.searchsorted(self._rows, rows)
        return self._images if np.array_equal(places, np.arange(len(self._rows))) else self._images[places]

    def of(self, split: Embedded) -> tuple[TokenRows, TokenRows]:
        """Of the split's images [N] and captions [M]; forgets the captions."""
        rows = torch.cat([rows for rows, _ in self._texts])
        texts = [each for _, part in self._texts for each in part]
        self._texts = []
        return self.images(split.rows), TokenRows.of([texts[place] for place in rows.argsort(stable=True).tolist()])


def token_rows(many: MultiEmbeddings, b: Tensor, k: Tensor | None = None) -> list[Tensor]:
    """The rows [l, d] that there are of samples b, values k; of pictures the one value."""
    k = torch.zeros_like(b) if k is None else k
    rows = many.rows[b, k].float().cpu()
    if many.mask is None:
        return list(rows)
    return [each[there] for each, there in zip(rows, many.mask[b, k].cpu(), strict=True)]


def rerank_by_late(
    ranks: RetrievalRanks, split: Embedded, rows: tuple[TokenRows, TokenRows], k: int, device: torch.device
) -> dict[str, Any]:
    """`rerank_retrieval` with late interaction in the place of the head. Beside each R@k stand that of late interaction
    with every item, `R@k_exact`, and how much of it the best K lose, `R@k_lost`.
    """

    def judge(images: np.ndarray, texts: np.ndarray) -> np.ndarray:
        return pair_token_scores(*rows, images.ravel(), texts.ravel()).reshape(images.shape)

    everything = rank_retrieval(
        *rows,
        ranks.image_of_text,
        ranks.language_of_text,
        recall_at=ranks.recall_at,
        captions=ranks.statement.captions,
        similarity="late",
        languages=ranks.languages,
        device=device,
    )
    return {"by": "late"} | sorted_by(judge, ranks, split, k, everything)
