"""`mmtrain evaluate --rerank K`: the best K answers by similarity, sorted again by the matching head or another judge.

Letters: N pictures, M captions, Q queries, K answers of a query.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmtrain.embedding.collected import Embedded
from mmtrain.embedding.one_pass import Features, padded
from mmtrain.evaluation.ranking.nearest import flat_top_k
from mmtrain.evaluation.ranking.ranks import DIRECTIONS, Direction, RetrievalRanks
from mmtrain.evaluation.ranking.tiles import pair_scores, score_steps
from mmtrain.fusion import MatchingHead, RelationHead
from mmtrain.models.encoder import Encoder

PAIRS_AT_ONCE = 512
NUMBERS_AT_ONCE = 2**25  # of the features of pictures that meet their texts together
QUERIES_AT_ONCE = 4096
Judge = Callable[[np.ndarray, np.ndarray], np.ndarray]  # numbers of pictures and of captions, of one shape -> scores


def rerank_retrieval(
    encoder: Encoder, ranks: RetrievalRanks, split: Embedded, features: Features, k: int
) -> dict[str, Any]:
    """{"k": K, direction: {language or "mean": {"R@1": after, "R@1_before": by similarity alone, ..., "queries": n}}},
    in percent.

    What lies behind the best K keeps its place, so R@k beyond K does not change. Both follow the tie rule of
    `rank_retrieval`.

    Args:
        encoder: With the head.
        ranks: Of the split, by similarity.
        split: Its rows.
        features: Its token features, for a head that reads them.
        k: K.
    """
    return sorted_by(matcher_of(encoder, split, features), ranks, split, k)


def sorted_by(
    judge: Judge, ranks: RetrievalRanks, split: Embedded, k: int, everything: RetrievalRanks | None = None
) -> dict[str, Any]:
    """`rerank_retrieval` by whatever scores pairs; `everything` are its ranks among all items, where they are known."""
    k = min(k, len(split.images))
    results: dict[str, Any] = {"k": k}
    for direction in DIRECTIONS:
        table: dict[str, dict[str, float]] = {}
        for language, queries in ranks.of(direction).items():
            after = np.empty_like(queries.rank)
            for start in range(0, len(after), QUERIES_AT_ONCE):
                part = slice(start, start + QUERIES_AT_ONCE)
                after[part] = _reranked(direction, ranks, split, language, part, k, judge)
            table[language] = {
                name: value
                for at in ranks.recall_at
                for name, value in (
                    (f"R@{at}", 100 * float((after < at).mean())),
                    (f"R@{at}_before", 100 * float((queries.rank < at).mean())),
                )
            }
            if everything is not None:
                for at in ranks.recall_at:
                    exact = 100 * float((everything.of(direction)[language].rank < at).mean())
                    table[language] |= {f"R@{at}_exact": exact, f"R@{at}_lost": exact - table[language][f"R@{at}"]}
            table[language]["queries"] = len(after)
        names = next(iter(table.values()))
        table["mean"] = {name: float(np.mean([each[name] for each in table.values()])) for name in names}
        results[direction] = table
    return results


def checked_head(encoder: Encoder) -> MatchingHead | RelationHead:
    """The encoder's head with a layer for matching. Raises ValueError when it has none."""
    head = encoder.head
    if head is None or (isinstance(head, RelationHead) and head.matching is None):
        raise ValueError(f"--rerank: {encoder.source} has no matching head; train one with an objective losses.ItmLoss")
    return head


def matcher_of(encoder: Encoder, split: Embedded, features: Features) -> "Matcher":
    """What judges pictures and captions of a split, whose rows and features are given."""
    head = checked_head(encoder)
    rows = torch.from_numpy(split.images), torch.from_numpy(split.texts)
    if reads_tokens(head):
        images, texts = features.of(split)
    else:
        images, texts = rows[0][:, None], list(rows[1][:, None])
    return Matcher(head, images, texts, encoder.device, rows)


def reads_tokens(head: nn.Module | None) -> bool:
    """Whether a head judges by the towers' token features, and not by the rows of the space."""
    return not (isinstance(head, MatchingHead) and head.reads_rows)


def _reranked(
    direction: Direction, ranks: RetrievalRanks, split: Embedded, language: str, part: slice, k: int, judge: Judge
) -> np.ndarray:
    """0-based ranks [Q] of some queries of a language after their best K answers were sorted again."""
    of_language = ranks.of(direction)[language]
    query, before = of_language.query[part], of_language.rank[part]
    similarity, pool = ranks.statement.similarity, ranks.texts_of[language]
    if direction == "text_to_image":
        _, images = flat_top_k(split.texts[query], split.images, k, similarity, turned=True)
        texts = np.broadcast_to(query[:, None], images.shape)
    else:
        texts = pool[flat_top_k(split.images[query], split.texts[pool], k, similarity)[1]]
        images = np.broadcast_to(query[:, None], texts.shape)
    return sorted_again(before, ranks.relevance.pairs(images, texts), judge(images, texts))


def sorted_again(before: np.ndarray, right: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """0-based ranks [Q] when the best K answers [Q, K] are sorted by new scores; a query without a right one among them
    keeps its rank.
    """
    steps = score_steps(scores)
    best = np.where(right, steps, np.iinfo(np.int64).min).max(1, keepdims=True)
    return np.where(right.any(1), ((steps >= best) & ~right).sum(1), before)


class Matcher:
    """How much a head takes pictures and captions for pairs: the difference of its logits. No pair is judged twice.

    Of a head that reads cosines it is the exact cosine plus correction / gain.

    Args:
        head: A head with a layer for matching.
        images: Token features [N, 1 + P, Wi].
        texts: Of each caption [1 + L, Wt].
        device: Where the head is.
        rows: Of the pictures [N, D] and of the captions [M, D], for a head that reads cosines.
    """

    def __init__(
        self,
        head: MatchingHead | RelationHead,
        images: Tensor,
        texts: list[Tensor],
        device: torch.device,
        rows: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        self._head, self._images, self._texts, self._device, self._rows = head, images, texts, device, rows
        self._gain = head.gain.item() if isinstance(head, MatchingHead) and head.reads_cosine else None
        self._lengths = np.array([len(each) for each in texts])
        self._pairs, self._scores = np.empty(0, np.int64), np.empty(0)

    def __call__(self, images: np.ndarray, texts: np.ndarray) -> np.ndarray:
        """float64 scores of pictures and captions, numbers of any one shape."""
        pairs, place = np.unique(images.astype(np.int64) * len(self._texts) + texts, return_inverse=True)
        new = np.setdiff1d(pairs, self._pairs, assume_unique=True)
        judged, scores = np.r_[self._pairs, new], np.r_[self._scores, self._judged(new)]
        order = np.argsort(judged)
        self._pairs, self._scores = judged[order], scores[order]
        return self._scores[np.searchsorted(self._pairs, pairs)][place].reshape(images.shape)

    @torch.inference_mode()
    def _judged(self, pairs: np.ndarray) -> np.ndarray:
        image, text = np.divmod(pairs, len(self._texts))
        scores, fusion = np.empty(len(pairs)), self._head.fusion
        step = max(1, NUMBERS_AT_ONCE // self._images[0].numel())
        for first in range(0, len(self._images), step):
            block = np.flatnonzero((first <= image) & (image < first + step))
            block = block[np.lexsort((text[block], self._lengths[text[block]]))]  # little padding, most texts once
            used, of_image = np.unique(image[block], return_inverse=True)
            images = fusion.image_side(self._images[torch.from_numpy(used)].float().to(self._device))
            for start in range(0, len(block), PAIRS_AT_ONCE):
                part = slice(start, start + PAIRS_AT_ONCE)
                used, of_text = np.unique(text[block[part]], return_inverse=True)
                texts = fusion.text_side(*(each.to(self._device) for each in padded([self._texts[i] for i in used])))
                fused = fusion.meet(_taken(images, of_image[part]), _taken(texts, of_text))
                logits = self._head.match(fused, *([] if self._gain is None else [fused.new_zeros(len(fused))]))
                scores[block[part]] = (logits[:, 1] - logits[:, 0]).double().cpu().numpy()
        if self._gain is None or self._rows is None:
            return scores
        return pair_scores(*self._rows, image, text, "cosine") + scores / self._gain


def _taken(side: Sequence[Tensor], rows: np.ndarray) -> list[Tensor]:
    return [each[torch.from_numpy(rows).to(each.device)] for each in side]
