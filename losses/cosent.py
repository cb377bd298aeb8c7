"""CoSENT: similarities in the order of their scores."""

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from losses.embeddings import Embeddings
from losses.engine.checks import check_finite, full_precision, positive_scale, working_precision
from losses.engine.distributed import default_group, gather, global_sum, rank_and_size
from losses.objective import rows_of, scores_of
from losses.temperature import ScaledObjective, clamped_scale


@full_precision
def cosent_loss(
    similarities: Tensor, scores: Tensor, scale: Tensor | float = 20.0, group: ProcessGroup | None = None
) -> Tensor:
    """log(1 + sum of exp(scale (s_i - s_j)) over all pairs whose scores say that s_i should be below s_j).

    Su, "CoSENT", 2022, as sentence-transformers' CoSENTLoss computes it. Time and memory are those of a sort.

    Args:
        similarities: float [N], such as the cosines of N pairs of texts.
        scores: float [N], how alike they are; any unit.
        scale: positive multiplier of the similarities.
        group: processes that hold further pairs, equally many each.

    Raises:
        ValueError: wrong shapes, scores that are not finite, or a scale that is not positive.
    """
    if similarities.dim() != 1 or similarities.shape != scores.shape or not len(scores):
        raise ValueError(
            f"similarities, scores: got shapes {list(similarities.shape)} and {list(scores.shape)}, expected [N] twice"
        )
    check_finite("scores", scores)
    (similarities,) = working_precision(similarities)
    logits, scores = positive_scale(scale, similarities) * gather(similarities, group), gather(scores, group)
    order = scores.argsort(stable=True)
    logits, scores = logits[order], scores[order]
    below = torch.searchsorted(scores, scores)  # how many have a lower score
    better = below > 0
    if not better.any():
        return global_sum(0 * logits.sum(), group)
    pairs = logits.logcumsumexp(0)[below[better] - 1] - logits[better]
    none = pairs.new_zeros(1)
    return global_sum(torch.cat([none, pairs]).logsumexp(0) / rank_and_size(group)[1], group)


class CosentLoss(ScaledObjective):
    """`cosent_loss` of the cosines between two fields of the samples, in the order of the samples' "score".

    Args:
        queries: "image", "texts" (their first slot) or a field's name.
        targets: Likewise.
        scale: Multiplier to start from.
        learnable: Whether the temperature trains.

    Raises:
        ValueError: a scale that is not positive.
    """

    needs = frozenset({"query", "positive", "score"})

    def __init__(
        self, queries: str = "query", targets: str = "positive", scale: float = 20.0, learnable: bool = False
    ) -> None:
        super().__init__(scale, learnable)
        self.queries, self.targets = queries, targets
        self.needs = frozenset({queries, targets, "score"})

    def forward(self, embeddings: Embeddings) -> Tensor:
        self.check_rows(embeddings)
        (queries, _), (targets, _) = rows_of(embeddings, self.queries), rows_of(embeddings, self.targets)
        queries, targets = working_precision(queries, targets)
        similarities = (queries * targets).sum(1)
        scores = scores_of(embeddings, "score")
        return cosent_loss(similarities, scores, clamped_scale(self.log_scale), default_group())
