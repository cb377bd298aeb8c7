"""What a teacher knows: its rows, its similarities, its scores of candidates."""

from typing import Literal

import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.nn import functional

from losses.embeddings import Embeddings
from losses.engine.checks import (
    check_finite,
    check_mask,
    check_rows,
    choice,
    full_precision,
    positive_scale,
    working_precision,
)
from losses.engine.distributed import default_group, gather, global_sum, rank_and_size
from losses.engine.tiles import lowest
from losses.maxsim import everyones_tokens, late_interaction
from losses.objective import field_of, first_of, rows_of, scores_of
from losses.temperature import ScaledObjective, clamped_scale

Kind = Literal["cosine", "mse", "similarities"]


@full_precision
def distillation_loss(
    student: Tensor,
    teacher: Tensor,
    kind: Kind = "cosine",
    scale: Tensor | float = 20.0,
    *,
    student_other: Tensor | None = None,
    teacher_other: Tensor | None = None,
    group: ProcessGroup | None = None,
) -> Tensor:
    """The mean over rows of how far a student is from its teacher:

        cosine        1 - <s, t> of the rows normalised
        mse           ||s - t||^2
        similarities  KL(softmax(scale t t_other^T) || softmax(scale s s_other^T)), the diagonal kept

    "mse" over sentences is Reimers and Gurevych, EMNLP 2020; "similarities" is the relation between rows instead of the
    rows (as in Fang et al., SEED, ICLR 2021), for which the widths may differ.

    Args:
        student: float [B, D]; with a group, this process's part.
        teacher: float [B, D'], D' = D unless kind is "similarities".
        kind: what is compared.
        scale: positive multiplier of the similarities.
        student_other: float [n, D], the other side of the similarities, such as texts beside pictures; default student.
        teacher_other: float [n, D'], default teacher.
        group: processes that hold the rest of the batch, equally many rows each.

    Raises:
        ValueError: an unknown kind, wrong shapes, another side for a kind without one, a scale that is not positive.
    """
    choice("kind", kind, Kind)
    check_rows("student", student)
    check_rows("teacher", teacher)
    if len(teacher) != len(student) or (kind != "similarities" and teacher.shape != student.shape):
        raise ValueError(f"teacher: got shape {list(teacher.shape)} beside a student of {list(student.shape)}")
    if kind != "similarities" and (student_other is not None or teacher_other is not None):
        raise ValueError(f"student_other, teacher_other: {kind} compares rows, not their similarities")
    student, teacher = working_precision(student, teacher)
    count = len(student) * rank_and_size(group)[1]
    if kind == "cosine":
        return global_sum((1 - functional.cosine_similarity(student, teacher)).sum() / count, group)
    if kind == "mse":
        return global_sum((student - teacher).square().sum() / count, group)
    scale = positive_scale(scale, student)
    student_other = student if student_other is None else student_other
    teacher_other = teacher if teacher_other is None else teacher_other
    for name, other, own in (("student_other", student_other, student), ("teacher_other", teacher_other, teacher)):
        if other.dim() != 2 or other.shape[1] != own.shape[1] or len(other) != len(teacher_other):
            raise ValueError(f"{name}: got shape {list(other.shape)}, expected [n, {own.shape[1]}], n for both alike")
    ours, theirs = (
        scale * rows @ gather(other.to(rows.dtype), group).T
        for rows, other in ((student, student_other), (teacher, teacher_other))
    )
    return global_sum(_divergence(theirs, ours).sum() / count, group)


@full_precision
def list_distillation_loss(
    queries: Tensor, candidates: Tensor, scores: Tensor, scale: Tensor | float = 1.0, present: Tensor | None = None
) -> Tensor:
    """The mean over rows of KL(softmax(scores) || softmax(scale <query, candidate>)), such as those of a reranker.

    The listwise distillation of Ren et al., "RocketQAv2", EMNLP 2021; there the teacher learns too.

    Args:
        queries: float [B, D], unit rows.
        candidates: float [B, m, D], unit rows.
        scores: float [B, m].
        scale: positive multiplier of the cosines.
        present: bool [B, m], None for all; a row without any candidate does not count.

    Raises:
        ValueError: wrong shapes, scores that are not finite, or a scale that is not positive.
    """
    check_rows("queries", queries)
    B, D = queries.shape
    if candidates.dim() != 3 or candidates.shape[::2] != (B, D) or not candidates.shape[1]:
        raise ValueError(f"candidates: got shape {list(candidates.shape)}, expected [{B}, m, {D}]")
    if scores.shape != candidates.shape[:2]:
        raise ValueError(f"scores: got shape {list(scores.shape)}, expected {list(candidates.shape[:2])}")
    check_mask("present", present, (B, candidates.shape[1]))
    check_finite("scores", scores if present is None else scores[present])
    queries, candidates, scores = working_precision(queries, candidates, scores)
    logits = positive_scale(scale, queries) * (candidates @ queries[:, :, None])[:, :, 0]
    if present is None:
        return _divergence(scores, logits).mean()
    low = lowest(logits.dtype)
    rows = _divergence(scores.where(present, low), logits.where(present, low))
    some = present.any(1)
    return rows.where(some, 0.0).sum() / some.sum().clamp(min=1)


@full_precision
def score_distillation_loss(dense: Tensor, late: Tensor, scale: Tensor | float) -> Tensor:
    """The mean over rows of KL(softmax(scale dense) || softmax(scale late)); gradients reach both.

    Guenther et al., "jina-embeddings-v4", 2025, section 4.2: one space in two forms.

    Args:
        dense: float [N, M], scores of single rows.
        late: float [N, M], scores of many rows.
        scale: positive multiplier.

    Raises:
        ValueError: wrong shapes or a scale that is not positive.
    """
    check_rows("dense", dense)
    check_rows("late", late, dense)
    dense, late = working_precision(dense, late)
    scale = positive_scale(scale, dense)
    return _divergence(scale * dense, scale * late).mean()


def _divergence(right: Tensor, ours: Tensor) -> Tensor:
    """KL(softmax(right) || softmax(ours)) of each row."""
    wanted = right.log_softmax(1)
    return (wanted.exp() * (wanted - ours.log_softmax(1))).sum(1)


class ListDistillationLoss(ScaledObjective):
    """`list_distillation_loss` of the samples' "scores": a reranker's, of the positive and then of the negatives.

    Args:
        queries: "image", "texts" (their first slot) or a field's name.
        targets: Likewise, the positive.
        negatives: A field of one or more a sample.
        scale: Multiplier of the cosines to start from.
        learnable: Whether the temperature trains.

    Raises:
        ValueError: a scale that is not positive.
    """

    needs = frozenset({"query", "positive", "negatives", "scores"})

    def __init__(
        self,
        queries: str = "query",
        targets: str = "positive",
        negatives: str = "negatives",
        scale: float = 1.0,
        learnable: bool = False,
    ) -> None:
        super().__init__(scale, learnable)
        self.queries, self.targets, self.negatives = queries, targets, negatives
        self.needs = frozenset({queries, targets, negatives, "scores"})

    def forward(self, embeddings: Embeddings) -> Tensor:
        self.check_rows(embeddings)
        (queries, _), (targets, _) = rows_of(embeddings, self.queries), rows_of(embeddings, self.targets)
        negatives = field_of(embeddings, self.negatives)
        present = None
        if negatives.present is not None:
            present = torch.cat([negatives.present.new_ones(len(queries), 1), negatives.present], 1)
        candidates = torch.cat([targets[:, None], negatives.rows], 1)
        scores, group = scores_of(embeddings, "scores"), default_group()
        loss = list_distillation_loss(queries, candidates, scores, clamped_scale(self.log_scale), present)
        return global_sum(loss / rank_and_size(group)[1], group)


class ScoreDistillationLoss(ScaledObjective):
    """`score_distillation_loss` between the rows of two inputs and their token rows, on the targets of all processes.

    Args:
        queries: "image", "texts" (the first that is there) or a field's name.
        targets: Likewise.
        scale: Multiplier to start from; the authors' 1 / 0.02.
        learnable: Whether the temperature trains.

    Raises:
        ValueError: a scale that is not positive.
    """

    needs = frozenset({"query", "positive", "multi"})

    def __init__(
        self, queries: str = "query", targets: str = "positive", scale: float = 50.0, learnable: bool = False
    ) -> None:
        super().__init__(scale, learnable)
        self.queries, self.targets = queries, targets
        self.needs = frozenset({queries, targets, "multi"})

    def forward(self, embeddings: Embeddings) -> Tensor:
        self.check_rows(embeddings)
        group = default_group()
        query, target = first_of(embeddings, self.queries), first_of(embeddings, self.targets)
        queries, targets = working_precision(query.rows, target.rows)
        with torch.autocast(queries.device.type, enabled=False):
            dense = queries @ gather(targets, group).T
        items = everyones_tokens(target.tokens, target.mask, group)
        late = late_interaction(query.tokens, query.mask, *items, mean=True)
        loss = score_distillation_loss(dense, late, clamped_scale(self.log_scale))
        return global_sum(loss / rank_and_size(group)[1], group)
