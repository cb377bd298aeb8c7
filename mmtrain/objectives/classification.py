"""The class of a picture, learned from its row."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from losses import Embeddings, Objective
from losses.engine.checks import working_precision
from losses.engine.distributed import default_group, global_sum, total
from losses.objective import image_of
from mmtrain.models.image_text import ImageTextModel


class Classification(Objective):
    """Cross-entropy of a linear layer on the picture's row, the mean over the labelled pictures of all processes.

    The row comes with the length sqrt(D), as a normalised layer gives it. Beside no other objective it trains the
    encoder that PaLI-3 (Chen et al. 2023) compares SigLIP with.

    Args:
        task: Which of the samples' labels; a picture without it does not count.
        classes: How many there are, numbered from 0.
        smoothing: Share of the target that all classes have alike, 0 to below 1.

    Raises:
        ValueError: for a number out of range; in training for a task that no sample is labelled for, or another class.
    """

    needs = frozenset({"image", "labels"})

    def __init__(self, task: str, classes: int, smoothing: float = 0.0) -> None:
        super().__init__()
        if classes < 2:
            raise ValueError(f"classes: got {classes}, expected at least 2")
        if not 0 <= smoothing < 1:
            raise ValueError(f"smoothing: got {smoothing}, expected 0 to below 1")
        self.task, self.classes, self.smoothing = task, classes, smoothing

    def connect(self, model: ImageTextModel) -> None:
        self.head = nn.Linear(model.dimension, self.classes)

    def prepare(self, data: Any) -> None:
        """Raises ValueError for a task that nobody labelled, or a label beyond the classes."""
        if self.task not in data.classes:
            raise ValueError(
                f"Classification.task: got {self.task}, the samples are labelled with {', '.join(sorted(data.classes))}"
            )
        if data.classes[self.task] > self.classes:
            raise ValueError(
                f"Classification.classes: got {self.classes}, {self.task} has a label of class"
                f" {data.classes[self.task] - 1}"
            )

    def loss(self, batch: Any, embeddings: Embeddings, model: Any) -> Tensor:
        (rows,), labels = working_precision(image_of(embeddings)), embeddings.labels[self.task]
        with torch.autocast(rows.device.type, enabled=False):
            logits = self.head(rows.shape[1] ** 0.5 * rows)
        options: dict[str, Any] = {"ignore_index": -1, "label_smoothing": self.smoothing, "reduction": "sum"}
        group = default_group()
        summed = functional.cross_entropy(logits, labels, **options)
        return global_sum(summed / total((labels >= 0).sum(), group).clamp(min=1), group)
