"""InfoNCE between queries and targets of any kind, with negatives that come with the samples."""

import math
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.nn import functional

from losses.embeddings import Embeddings
from losses.engine.captions import labels_of
from losses.engine.checks import (
    check_integers,
    check_mask,
    check_rows,
    choice,
    full_precision,
    positive_scale,
    working_precision,
)
from losses.engine.distributed import default_group, gather, global_sum, rank_and_size
from losses.engine.pairs import Guide, Labels, Pairs
from losses.engine.tiles import lowest, tiled_logsumexp
from losses.guide import GuideModel, GuideRows
from losses.objective import field_of, rows_of
from losses.temperature import ScaledObjective, clamped_scale

NegativesOf = Literal["all", "own"]


@full_precision
def info_nce_loss(
    queries: Tensor,
    targets: Tensor,
    scale: Tensor | float,
    negatives: Tensor | None = None,
    present: Tensor | None = None,
    *,
    both: bool = True,
    negatives_of: NegativesOf = "all",
    query_ids: Tensor | None = None,
    target_ids: Tensor | None = None,
    negative_ids: Tensor | None = None,
    guide: GuideRows | None = None,
    group: ProcessGroup | None = None,
) -> Tensor:
    """Cross-entropy of l_ij = scale <query_i, target_j> towards the diagonal, further negatives beside the targets.

    Each query stands against the targets of all samples and against negatives, the mean over queries (van den Oord et
    al., 2018, equation 4); with `both` the mean of that and of the reverse, each target against all queries. Without
    negatives and with `both` it is `clip_loss`. Memory is linear in the number of queries, targets and negatives.

    For query i a target or negative is left out when its id is target_ids[i], or when it belongs to another query with
    an id equal to query_ids[i]; likewise a query in the reverse. With a guide also when the guide's score of it is
    above that of the own pair minus the margin (Solatorio, "GISTEmbed", 2024); in the reverse by its score of the
    target with the other queries.

    Args:
        queries: float [B, D], unit rows; with a group, this process's part.
        targets: float [B, D], unit rows.
        scale: positive multiplier of the cosines.
        negatives: float [B, n, D], unit rows.
        present: bool [B, n], which negatives there are; None for all.
        both: whether the reverse counts too.
        negatives_of: "all": those of all samples stand against each query; "own": only its own n.
        query_ids: int64 [B].
        target_ids: int64 [B].
        negative_ids: int64 [B, n].
        guide: another model's rows of the same inputs.
        group: processes that hold the rest of the batch, equally many rows each.

    Raises:
        ValueError: wrong shapes, a scale that is not positive, `present` or negative_ids without negatives.
    """
    choice("negatives_of", negatives_of, NegativesOf)
    check_rows("queries", queries)
    B, D = queries.shape
    check_rows("targets", targets, queries)
    if negatives is None and (present is not None or negative_ids is not None):
        raise ValueError("present, negative_ids: they are about negatives, of which there are none")
    check_integers("query_ids", query_ids, (B,))
    check_integers("target_ids", target_ids, (B,))
    if negatives is None:
        negatives = queries.new_zeros(B, 0, D)
    elif negatives.dim() != 3 or negatives.shape[::2] != (B, D):
        raise ValueError(f"negatives: got shape {list(negatives.shape)}, expected [{B}, n, {D}]")
    check_mask("present", present, (B, negatives.shape[1]))
    check_integers("negative_ids", negative_ids, (B, negatives.shape[1]))
    queries, targets, negatives = working_precision(queries, targets, negatives)
    scale = positive_scale(scale, queries)
    guide = guide and guide.checked(B, (B, negatives.shape[1]))

    rank, size = rank_and_size(group)
    mine = slice(rank * B, (rank + 1) * B)
    own = torch.arange(B, device=queries.device)
    pairs = Pairs(own_rows=own, own_columns=own + mine.start)
    if guide is not None:
        pairs.guide = Guide(guide.queries, gather(guide.targets, group), guide.limits())
    labels = [labels_of(ids, group) for ids in (query_ids, target_ids) if ids is not None]
    pairs.label([Labels(each[mine], each.where(each >= 0, -2)[None]) for each in labels])
    turned = both and guide is not None  # each direction leaves out other pairs
    positives, rows, columns = tiled_logsumexp(
        queries, gather(targets, group, exact=False), scale, pairs, both=both and not turned, group=group
    )
    wrong = [rows[:, None]]
    if negatives.shape[1]:
        wrong += _negatives(
            queries, negatives, scale, present, negatives_of, query_ids, target_ids, negative_ids, guide, group
        )
    forward = functional.softplus(torch.cat(wrong, 1).logsumexp(1) - positives)
    if not both:
        return global_sum(forward.sum() / (size * B), group)
    if turned and guide is not None:
        pairs = replace(pairs, guide=Guide(guide.targets, gather(guide.queries, group), guide.limits()))
        _, reverse, _ = tiled_logsumexp(targets, gather(queries, group, exact=False), scale, pairs, both=False)
    else:
        reverse = columns[mine]
    backward = functional.softplus(reverse - positives)
    return global_sum((forward.sum() + backward.sum()) / (2 * size * B), group)


def _negatives(
    queries: Tensor,
    negatives: Tensor,
    scale: Tensor,
    present: Tensor | None,
    negatives_of: NegativesOf,
    query_ids: Tensor | None,
    target_ids: Tensor | None,
    negative_ids: Tensor | None,
    guide: GuideRows | None,
    group: ProcessGroup | None,
) -> list[Tensor]:
    """The logits [B, n] of each query's own negatives, and the log-sum-exp [B, 1] of the others'."""
    B, n, _ = negatives.shape
    low = lowest(queries.dtype)
    there = torch.ones(B, n, dtype=torch.bool, device=queries.device) if present is None else present
    usable = there
    if target_ids is not None and negative_ids is not None:
        usable = there & (negative_ids != target_ids[:, None])
    if guide is not None and guide.negatives is not None:
        theirs = torch.einsum("bd,bnd->bn", guide.queries, guide.negatives)
        usable = usable & (theirs <= guide.limits()[:, None])
    if negatives_of == "own":
        logits = scale * torch.einsum("bd,bnd->bn", queries, negatives)
        return [logits.where(usable, low)]
    rank, _ = rank_and_size(group)
    everywhere = gather(there, group)
    filled = everywhere.flatten().nonzero()[:, 0]
    columns = gather(negatives, group, exact=False).flatten(0, 1)
    columns = columns if len(filled) == len(columns) else columns[filled]  # no copy where none is absent
    owner = filled // n
    at = ((owner >= rank * B) & (owner < (rank + 1) * B)).nonzero()[:, 0]
    pairs = Pairs(own_rows=owner[at] - rank * B, own_columns=at)
    if guide is not None and guide.negatives is not None:
        theirs = gather(guide.negatives, group).flatten(0, 1)[filled]
        pairs.guide = Guide(guide.queries, theirs, guide.limits())
    kinds = []
    if query_ids is not None:
        labels = labels_of(query_ids, group)
        kinds.append(Labels(labels[rank * B : (rank + 1) * B], labels.where(labels >= 0, -2)[owner][None]))
    if target_ids is not None and negative_ids is not None:
        of_negatives = gather(negative_ids, group).flatten()[filled]
        values, numbers = torch.cat([target_ids, of_negatives]).unique(return_inverse=True)
        ours, theirs = numbers[:B], numbers[B:]
        shared = torch.isin(values, target_ids) & torch.isin(values, of_negatives)
        kinds.append(Labels(ours.where(shared[ours], -1)[:, None], theirs.where(shared[theirs], -2)[None, :, None]))
    pairs.label(kinds)
    own, others, _ = tiled_logsumexp(queries, columns, scale, pairs, both=False)
    logits = own.new_full((B, n), low).masked_scatter(there, own)
    return [logits.where(usable, low), others[:, None]]


class InfoNceLoss(ScaledObjective):
    """`info_nce_loss` between two fields of the samples, with a learnable temperature.

    Args:
        queries: "image", "texts" (their first slot) or a field's name.
        targets: Likewise.
        negatives: A field of one or more a sample; None for none.
        scale: Multiplier to start from.
        learnable: Whether the temperature trains.
        both: Whether each target stands against all queries too.
        negatives_of: "all" or "own".
        guide: A frozen model that tells which negatives are none, such as `mmtrain.objectives.Teacher`.
        guide_margin: How far below the own pair's score its score of a negative must stay.

    Raises:
        ValueError: a scale that is not positive, unknown negatives_of.
    """

    needs = frozenset({"query", "positive"})

    def __init__(
        self,
        queries: str = "query",
        targets: str = "positive",
        negatives: str | None = None,
        scale: float = 1 / 0.07,
        learnable: bool = True,
        both: bool = True,
        negatives_of: NegativesOf = "all",
        guide: GuideModel | None = None,
        guide_margin: float = 0.0,
    ) -> None:
        super().__init__(scale, learnable)
        choice("negatives_of", negatives_of, NegativesOf)
        self.queries, self.targets, self.negatives = queries, targets, negatives
        self.both, self.negatives_of = both, negatives_of
        self.guide, self.guide_margin = guide, guide_margin
        self.needs = frozenset({queries, targets} | ({negatives} if negatives else set()))

    def prepare(self, data: Any) -> None:
        if self.guide is not None:
            self.guide.prepare(data.languages)

    def loss(self, batch: Any, embeddings: Embeddings, model: Any) -> Tensor:
        return self.forward(embeddings, self._guide_rows(batch))

    def _guide_rows(self, batch: Any) -> GuideRows | None:
        if self.guide is None:
            return None
        queries, targets = (self.guide(batch, name).rows[:, 0] for name in (self.queries, self.targets))
        negatives = self.guide(batch, self.negatives).rows if self.negatives else None
        return GuideRows(queries, targets, negatives, self.guide_margin)

    def forward(self, embeddings: Embeddings, guide: GuideRows | None = None) -> Tensor:
        self.check_rows(embeddings)
        queries, query_ids = rows_of(embeddings, self.queries)
        targets, target_ids = rows_of(embeddings, self.targets)
        negatives = field_of(embeddings, self.negatives) if self.negatives else None
        return info_nce_loss(
            queries,
            targets,
            clamped_scale(self.log_scale),
            negatives.rows if negatives else None,
            negatives.present if negatives else None,
            both=self.both,
            negatives_of=self.negatives_of,
            query_ids=query_ids,
            target_ids=target_ids,
            negative_ids=negatives.ids if negatives else None,
            guide=guide,
            group=default_group(),
        )

    def chance(self, images: int, captions: float) -> float | None:
        return None if self.negatives or self.guide else math.log(images)
