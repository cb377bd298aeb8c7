"""`mmtrain evaluate --similarity late` and `--rerank_by late`: a split's token rows."""

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
        self._images: dict[int, Tensor] = {}
        self._texts: list[tuple[Tensor, list[Tensor]]] = []

    def add(self, batch: Batch, embeddings: Embeddings) -> None:
        images, (b, k) = embeddings.multi["image"], real_captions(batch)
        every = torch.arange(len(batch.rows))
        for row, rows in zip(batch.rows.tolist(), token_rows(images, every), strict=True):
            if row >= 0:
                self._images[row] = rows
        if len(b):
            self._texts.append((batch.rows[b], token_rows(embeddings.multi["texts"], b, k)))

    def of(self, split: Embedded) -> tuple[TokenRows, TokenRows]:
        """Of the split's images [N] and captions [M]; empties the collector."""
        rows = torch.cat([rows for rows, _ in self._texts])
        texts = [each for _, part in self._texts for each in part]
        images = TokenRows.of([self._images[int(row)] for row in split.rows])
        self._images, self._texts = {}, []
        return images, TokenRows.of([texts[place] for place in rows.argsort(stable=True).tolist()])


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
