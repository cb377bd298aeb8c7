"""The cross-entropy of a task: which class a head sees in a picture and its text."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.nn import functional

from losses import Embeddings, Objective
from losses.engine.checks import working_precision
from losses.engine.distributed import default_group, global_sum, total


class TaskLoss(Objective):
    """The mean over the labelled pairs of all processes, weighted by class; 0 where none is labelled.

    Args:
        task: Which of the samples' labels.
        judge: Embeddings -> task -> logits [N, C] of the present captions, sample by sample.
        class_weights: float [C].
    """

    needs = frozenset({"image", "texts", "tokens", "labels"})

    def __init__(self, task: str, judge: Callable[[Embeddings], Mapping[str, Tensor]], class_weights: Tensor) -> None:
        super().__init__()
        self.task, self.judge = task, judge
        self.class_weights: Tensor
        self.register_buffer("class_weights", class_weights, persistent=False)  # the data say them at every start

    def loss(self, batch: Any, embeddings: Embeddings, model: Any) -> Tensor:
        logits = self.judge(embeddings)[self.task]
        assert embeddings.present is not None
        labels = embeddings.labels[self.task][embeddings.present.nonzero()[:, 0]]
        group = default_group()
        weight = total(self.class_weights[labels[labels >= 0]].sum(), group).clamp(min=1e-6)
        logits, weights = working_precision(logits, self.class_weights)
        summed = functional.cross_entropy(logits, labels, weights, ignore_index=-1, reduction="sum")
        return global_sum(summed / weight, group)
