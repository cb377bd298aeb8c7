"""Matryoshka: embeddings whose first d dimensions are embeddings too."""

from dataclasses import replace
from typing import Any

from torch import Tensor
from torch.nn import functional

from losses.embeddings import Embeddings
from losses.engine.distributed import gathered_like, shared_gathers
from losses.objective import Objective, needs_of


class MatryoshkaLoss(Objective):
    """The weighted sum of one objective's losses on prefixes of the embeddings, each normalised again.

    Kusupati et al., "Matryoshka Representation Learning", NeurIPS 2022, section 3.

    Args:
        objective: The objective, with its one temperature for all prefixes.
        dims: Lengths of the prefixes, for example [64, 128, 256].
        weights: One weight a prefix; null for 1 each.

    Raises:
        ValueError: no or non-positive dims, as many weights as dims not given, dims beyond the embeddings' width.
    """

    def __init__(self, objective: Objective, dims: list[int], weights: list[float] | None = None) -> None:
        super().__init__()
        if not dims or min(dims) < 1:
            raise ValueError(f"dims: got {dims}, expected one or more positive lengths")
        if weights is not None and len(weights) != len(dims):
            raise ValueError(f"weights: got {len(weights)}, expected one for each of the {len(dims)} dims")
        self.objective = objective
        self.dims, self.weights = list(dims), list(weights or [1.0] * len(dims))
        self.needs, self.needs_tokens = needs_of(objective), objective.needs_tokens
        self.similarity, self.unencoded = objective.similarity, objective.unencoded

    def forward(self, embeddings: Embeddings) -> Tensor:
        return self.loss(None, embeddings, None)

    def loss(self, batch: Any, embeddings: Embeddings, model: Any) -> Tensor:
        self.check_rows(embeddings)
        if "multi" not in self.needs:  # token rows that nobody reads are not cut
            embeddings = replace(embeddings, multi={})
        width = _width(embeddings)
        if max(self.dims) > width:
            raise ValueError(f"dims: got {max(self.dims)}, expected at most the embeddings' width {width}")
        with shared_gathers():
            losses = [self.objective.loss(batch, _prefix(embeddings, d), model) for d in self.dims]
        first, *others = (weight * loss for weight, loss in zip(self.weights, losses, strict=True))
        return sum(others, first)

    def connect(self, model: Any) -> None:
        self.objective.connect(model)

    def prepare(self, data: Any) -> None:
        self.objective.prepare(data)

    def after_step(self) -> None:
        self.objective.after_step()

    def chance(self, images: int, captions: float) -> float | None:
        chance = self.objective.chance(images, captions)
        return None if chance is None else sum(self.weights) * chance

    def logged(self) -> dict[str, Tensor]:
        return self.objective.logged()


def _width(embeddings: Embeddings) -> int:
    fields, multi = ([each.rows for each in kind.values()] for kind in (embeddings.fields, embeddings.multi))
    rows = [embeddings.image, embeddings.texts, *fields, *multi]
    return max(each.shape[-1] for each in rows if each is not None)


def _prefix(embeddings: Embeddings, d: int) -> Embeddings:
    def shorter(rows: Tensor) -> Tensor:
        return functional.normalize(rows[..., :d].float() if rows.dtype.itemsize < 4 else rows[..., :d], dim=-1)

    def cut(rows: Tensor) -> Tensor:
        return gathered_like(shorter(rows), rows, shorter)

    return replace(
        embeddings,
        image=None if embeddings.image is None else cut(embeddings.image),
        texts=None if embeddings.texts is None else cut(embeddings.texts),
        fields={name: replace(each, rows=cut(each.rows)) for name, each in embeddings.fields.items()},
        multi={name: replace(each, rows=cut(each.rows)) for name, each in embeddings.multi.items()},
    )
