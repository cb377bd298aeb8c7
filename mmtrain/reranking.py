"""`mmtrain evaluate --rerank K`: the best K answers by similarity, sorted again by the matching head.

Letters: N pictures, M captions, K answers of a query.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules import ShardDataModule
from mmtrain.embedding import language_indices
from mmtrain.encoder import Encoder
from mmtrain.evaluation.nearest import flat_top_k
from mmtrain.fusion import MatchingHead
from mmtrain.relation_head import RelationHead
from mmtrain.relation_loading import load_head
from mmtrain.validation import Embedded

PAIRS_AT_ONCE = 256
DIRECTIONS = ("text_to_image", "image_to_text")

Match = Callable[[np.ndarray, np.ndarray], np.ndarray]


def rerank_retrieval(
    model: str,
    encoder: Encoder,
    shards: ShardDataModule,
    split: Embedded,
    k: int,
    recall_at: Sequence[int] = (1, 5, 10),
) -> dict[str, Any]:
    """{"k": K, direction: {language or "mean": {"R@1": after, "R@1_before": by similarity alone, ..., "queries": n}}},
    in percent. What lies behind the best K keeps its place, so R@k beyond K does not change.

    Features of all pictures and captions are held in half precision: N P W + M L W numbers.

    Raises:
        ValueError: for K below 2, or a model without a matching head.
    """
    if k < 2:
        raise ValueError(f"--rerank: got {k}, expected at least 2")
    head = load_head(model, encoder)
    if head is None or (isinstance(head, RelationHead) and head.matching is None):
        raise ValueError(f"--rerank: {model} has no matching head; train one with an objective losses.ItmLoss")
    match = _matcher(head, *_features(encoder, shards, split), encoder.device)
    names = np.asarray(shards.languages)[split.language_of_text]
    k = min(k, len(split.images))
    results: dict[str, Any] = {"k": k, **{direction: {} for direction in DIRECTIONS}}
    for language in dict.fromkeys(names.tolist()):
        texts = np.flatnonzero(names == language)
        own = split.image_of_text[texts]
        scores, found = flat_top_k(split.texts[texts], split.images, k)
        right = found == own[:, None]
        again = match(found, np.broadcast_to(texts[:, None], found.shape))
        first = _first_right(own[:, None], np.arange(len(split.images)), split.texts[texts] @ split.images.T)
        results["text_to_image"][language] = _recalls(first, right, again, recall_at)
        images = np.unique(own)
        scores, places = flat_top_k(split.images[images], split.texts[texts], k)
        right = own[places] == images[:, None]
        again = match(np.broadcast_to(images[:, None], places.shape), texts[places])
        first = _first_right(images[:, None], own, split.images[images] @ split.texts[texts].T)
        results["image_to_text"][language] = _recalls(first, right, again, recall_at)
    for direction in DIRECTIONS:
        tables = list(results[direction].values())
        results[direction]["mean"] = {name: float(np.mean([each[name] for each in tables])) for name in tables[0]}
    return results


def _first_right(wanted: np.ndarray, have: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """0-based rank of the best right answer by similarity, ties against it."""
    right = have[None, :] == wanted
    best = np.where(right, scores, -np.inf).max(1, keepdims=True)
    return ((scores >= best) & ~right).sum(1)


def _recalls(first: np.ndarray, right: np.ndarray, again: np.ndarray, recall_at: Sequence[int]) -> dict[str, float]:
    """Recall in percent before and after; `right` and `again` [Q, K] are of the best K answers."""
    among = right.any(1)
    best = np.where(right, again, -np.inf).max(1, keepdims=True)
    after = np.where(among, ((again >= best) & ~right).sum(1), first)
    table: dict[str, float] = {}
    for k in recall_at:
        table |= {f"R@{k}": 100 * float((after < k).mean()), f"R@{k}_before": 100 * float((first < k).mean())}
    return table | {"queries": len(first)}


def _features(encoder: Encoder, shards: ShardDataModule, split: Embedded) -> tuple[Tensor, list[Tensor]]:
    """Features of the split's pictures [N, 1 + P, Wi], and of its captions, each [1 + L, Wt]; float16."""
    place = {int(row): index for index, row in enumerate(split.rows)}
    indices, images, texts, rows = language_indices(encoder, shards.languages), {}, [], []
    with torch.inference_mode():
        for batch in shards.test_dataloader():
            b, k = (batch.present & (batch.rows >= 0).unsqueeze(1)).nonzero(as_tuple=True)
            mask = batch.token_mask[b, k]
            inputs = (batch.images, batch.tokens[b, k], mask, indices[batch.languages[b, k]])
            found = encoder.model.tokens(*(each.to(encoder.device) for each in inputs))
            for row, features in zip(batch.rows.tolist(), found["image_tokens"].half().cpu(), strict=True):
                if row in place:
                    images[place[row]] = features
            lengths = (mask.sum(1) + 1).tolist()
            features = found["text_tokens"].half().cpu()
            texts += [each[:length].clone() for each, length in zip(features, lengths, strict=True)]
            rows.append(batch.rows[b])
    order = torch.cat(rows).argsort(stable=True).tolist()  # the split's own order of captions
    return torch.stack([images[index] for index in range(len(split.images))]), [texts[index] for index in order]


def _matcher(head: MatchingHead | RelationHead, images: Tensor, texts: list[Tensor], device: torch.device) -> Match:
    judge = head.match if isinstance(head, RelationHead) else head

    @torch.inference_mode()
    def match(image: np.ndarray, text: np.ndarray) -> np.ndarray:
        """How much the head takes pictures and captions (numbers of any shape) for pairs: the difference of logits."""
        scores = []
        for start in range(0, image.size, PAIRS_AT_ONCE):
            part = slice(start, start + PAIRS_AT_ONCE)
            some = [texts[i].float() for i in text.ravel()[part]]
            rows = torch.nn.utils.rnn.pad_sequence(some, batch_first=True)
            lengths = torch.tensor([len(each) for each in some])
            mask = torch.arange(rows.shape[1]) < lengths[:, None]
            pictures = images[torch.from_numpy(image.ravel()[part].astype(np.int64))].float()
            logits = judge(pictures.to(device), rows.to(device), mask.to(device))
            scores.append((logits[:, 1] - logits[:, 0]).float().cpu())
        return torch.cat(scores).numpy().reshape(image.shape)

    return match


def print_reranked(results: dict[str, Any], recall_at: Sequence[int]) -> None:
    """Recall before and after, by language, for a terminal."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"the best {results['k']} sorted again by the matching head, recall in percent")
    table.add_column("language")
    for direction in DIRECTIONS:
        table.add_column(f"{direction.replace('_', ' ')}\nR@{recall_at[0]} before", justify="right")
        table.add_column("after", justify="right")
    first = f"R@{recall_at[0]}"
    for language in results[DIRECTIONS[0]]:
        tables = [results[direction][language] for direction in DIRECTIONS]
        figures = [f"{each[name]:.1f}" for each in tables for name in (f"{first}_before", first)]
        table.add_row(language, *figures, style="bold" if language == "mean" else None)
    Console().print(table)
