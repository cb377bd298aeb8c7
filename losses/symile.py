"""Symile: what M >= 3 modalities say together and no two of them say alone."""

import math
from itertools import pairwise
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from losses.embeddings import Embeddings, modalities_of
from losses.engine.checks import check_integers, choice, full_precision, positive_scale, working_precision
from losses.engine.distributed import default_group, gather, global_sum, rank_and_size
from losses.engine.pairs import Labels, Pairs, shared_labels
from losses.engine.tiles import edges, tiled_logsumexp
from losses.objective import ALL_FIELDS, Objective, image_of, texts_of
from losses.temperature import log_scale_parameter

Negatives = Literal["shuffled", "all"]
TUPLES_AT_ONCE = 8192


@full_precision
def symile_loss(
    embeddings: list[Tensor],
    scale: Tensor | float,
    negatives: Negatives = "shuffled",
    generator: torch.Generator | None = None,
    *,
    group: ProcessGroup | None = None,
    image_ids: Tensor | None = None,
    text_ids: Tensor | None = None,
) -> Tensor:
    """InfoNCE on the multilinear inner product, the mean over the M modalities as anchor:

        mip(x_1, ..., x_M) = sum_d prod_m x_m[d]
        L = 1/M sum_a mean_i -log exp(s mip(x_1i, ..., x_Mi)) / [the same + sum of exp(s mip) over i's negatives]

    A negative keeps the anchor x_ai and takes the other modalities from other samples: with "shuffled" from the B - 1
    tuples of one shuffling of the batch for each anchor, drawn anew at each call; with "all" from every combination.

    Saporta et al., "Contrasting with Symile", NeurIPS 2024, section 3 and their symile/loss.py.

    Args:
        embeddings: M >= 3 tensors float [B, D]; with a group, this process's part.
        scale: positive multiplier of the products.
        negatives: "shuffled" or "all" (B ** (M - 1) tuples an anchor: for small batches).
        generator: source of the shuffling, used on the group's first process; None for torch's own.
        group: processes that hold the rest of the batch, equally many rows each.
        image_ids: int64 [B]; a tuple whose members all come from samples of the anchor's id is no negative.
        text_ids: int64 [B] or [B, K]; likewise, where equal means to have an id in common.

    Raises:
        ValueError: fewer than three tensors, wrong shapes, or a scale that is not positive.
    """
    choice("negatives", negatives, Negatives)
    if len(embeddings) < 3:
        raise ValueError(f"embeddings: got {len(embeddings)} modalities, expected at least 3 (use clip_loss for 2)")
    for m, rows in enumerate(embeddings):
        if rows.dim() != 2 or 0 in rows.shape or rows.shape != embeddings[0].shape:
            expected = "[B, D]" if m == 0 else str(list(embeddings[0].shape))
            raise ValueError(f"embeddings[{m}]: got shape {list(rows.shape)}, expected {expected}")
    embeddings = working_precision(*embeddings)
    scale = positive_scale(scale, embeddings[0])
    b = len(embeddings[0])
    check_integers("image_ids", image_ids, (b,))
    if text_ids is not None:
        check_integers("text_ids", text_ids, (b, *text_ids.shape[1:]) if text_ids.dim() <= 2 else (b,))

    positives = scale * torch.stack(embeddings).prod(0).sum(1)
    rank, size = rank_and_size(group)
    mine = slice(rank * b, (rank + 1) * b)
    everyone = [gather(rows, group, exact=False) for rows in embeddings]
    kinds = [gather(ids.view(b, -1), group) for ids in (image_ids, text_ids) if ids is not None]
    labels = [shared_labels(ids) for ids in kinds]
    shuffles = _shuffles(len(embeddings), size * b, generator, group, scale.device) if negatives == "shuffled" else None

    summed = positives.new_zeros(())
    for anchor, rows in enumerate(embeddings):
        others = [m for m in range(len(embeddings)) if m != anchor]
        if shuffles is not None:
            members = shuffles[anchor, others]
            own = torch.arange(b, device=scale.device)
            pairs = _pairs(own, own + mine.start, members, labels, mine)
            columns = _products([everyone[m] for m in others], members)
            _, excess, _ = tiled_logsumexp(rows, columns, scale, pairs, both=False)
        else:
            excess = _all_combinations(rows, [everyone[m] for m in others], scale, labels, mine)
        summed = summed + functional.softplus(excess - positives).sum()
    return global_sum(summed / (len(embeddings) * size * b), group)


def _shuffles(
    M: int, B: int, generator: torch.Generator | None, group: ProcessGroup | None, device: torch.device
) -> Tensor:
    """One permutation of the global batch for each anchor and modality: int64 [M, M, B], equal on all processes."""
    place = device if generator is None else generator.device
    permutations = [torch.randperm(B, generator=generator, device=place) for _ in range(M * M)]
    shuffles = torch.stack(permutations).view(M, M, B).to(device)
    if group is not None:
        dist.broadcast(shuffles, src=dist.get_global_rank(group, 0), group=group)
    return shuffles


def _products(others: list[Tensor], members: Tensor) -> Tensor:
    """The element-wise products of the tuples that `members` [M - 1, C] name: [C, D]."""
    product = others[0][members[0]]
    for rows, chosen in zip(others[1:], members[1:], strict=True):
        product = product * rows[chosen]
    return product


def _pairs(own_rows: Tensor, own_columns: Tensor, members: Tensor, labels: list[Tensor], mine: slice) -> Pairs:
    """This process's anchors beside the tuples of `members` [M - 1, C]; a tuple of the anchor's equals is left out."""
    if not labels:
        return Pairs(own_rows, own_columns)
    # A sample equals itself; a tuple of several samples can be all equals only if one of them shares an id.
    sample = torch.arange(len(labels[0]), device=members.device)
    sharing = torch.stack([(kind >= 0).any(1) for kind in labels]).any(0)
    suspects = sharing[members].any(0) | (members == members[0]).all(0)
    kinds = [Labels(kind[mine], kind.where(kind >= 0, -2)[members]) for kind in (sample[:, None], *labels)]
    rows = torch.arange(mine.stop - mine.start, device=members.device)
    return Pairs(own_rows, own_columns, kinds, rows, suspects.nonzero()[:, 0])


def _all_combinations(rows: Tensor, others: list[Tensor], scale: Tensor, labels: list[Tensor], mine: slice) -> Tensor:
    """Log-sum-exp over every tuple but the anchor's own, a few tuples at a time, made again in the backward pass."""
    B, modalities = len(others[0]), len(others)
    powers = [B**m for m in reversed(range(modalities))]
    device = rows.device

    def part(start: int, stop: int, rows: Tensor, scale: Tensor, *others: Tensor) -> Tensor:
        tuples = torch.arange(start, stop, device=device)
        members = torch.stack([tuples // power % B for power in powers])
        own = torch.arange(mine.start, mine.stop, device=device) * sum(powers)  # the tuple (i, i, ..., i)
        inside = (own >= start) & (own < stop)
        own_rows = inside.nonzero()[:, 0]
        pairs = _pairs(own_rows, own[inside] - start, members, labels, mine)
        return tiled_logsumexp(rows, _products(list(others), members), scale, pairs, both=False)[1]

    parts = [
        checkpoint(part, start, stop, rows, scale, *others, use_reentrant=False, preserve_rng_state=False)
        for start, stop in pairwise(edges(B**modalities, TUPLES_AT_ONCE))
    ]
    return torch.stack(parts).logsumexp(0)


class SymileLoss(Objective):
    """`symile_loss` over the image, every caption slot, and the further modalities of the batch.

    The temperature is learned and not clamped: products of M unit rows are small, of the order of D ** (1 - M / 2), and
    the multiplier has to grow with them.

    Args:
        scale: Multiplier to start from; the authors' exp(-0.3).
        negatives: shuffled or all.
        learnable: Whether the temperature trains.

    Raises:
        ValueError: a scale that is not positive, unknown negatives.
    """

    needs = frozenset({"image", "texts", ALL_FIELDS})
    composition = "product"

    def __init__(
        self, scale: float = math.exp(-0.3), negatives: Negatives = "shuffled", learnable: bool = True
    ) -> None:
        super().__init__()
        choice("negatives", negatives, Negatives)
        self.log_scale = log_scale_parameter(scale, learnable)
        self.negatives = negatives

    def forward(self, embeddings: Embeddings) -> Tensor:
        self.check_rows(embeddings)
        if embeddings.present is not None and not embeddings.present.all():
            missing = int((~embeddings.present).sum())
            raise ValueError(f"present: {missing} captions missing, SymileLoss expects every modality of every sample")
        return symile_loss(
            [image_of(embeddings), *texts_of(embeddings).unbind(1), *modalities_of(embeddings).values()],
            self.log_scale.exp(),
            self.negatives,
            group=default_group(),
            image_ids=embeddings.image_ids,
            text_ids=embeddings.text_ids,
        )

    def logged(self) -> dict[str, Tensor]:
        return {"scale": self.log_scale.detach().exp().squeeze()}
