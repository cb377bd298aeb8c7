"""A linear probe of a shared space: one logistic regression on the rows of pictures and texts."""

import numpy as np
import torch
from scipy.special import softmax

from mmtrain.embedding.collected import Embedded
from mmtrain.evaluation.metrics.probe import logistic_regression
from mmtrain.fusion import pair_rows


def linear_probe(
    split: Embedded, task: str, classes: int, class_weights: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Weights [C, 4 D] and bias [C] of the regression on the labelled pairs; see `logistic_regression`.

    Args:
        split: The training posts, a pair for each of their texts.
        task: Which of their labels.
        classes: C.
        class_weights: float [C]; default: all alike.
    """
    labelled = split.labels[task] >= 0
    rows, labels = rows_of_pairs(split)[labelled], split.labels[task][labelled]
    return logistic_regression(rows, labels, classes, class_weights=class_weights)


def probed(split: Embedded, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Probabilities float32 [M, C] of the split's pairs by a linear probe."""
    return softmax(rows_of_pairs(split) @ weight.T + bias, axis=1).astype(np.float32)


def rows_of_pairs(split: Embedded) -> np.ndarray:
    """What `pair_rows` gives of every text and its picture, float32 [M, 4 D]."""
    images = torch.from_numpy(split.images[split.image_of_text])
    return pair_rows(images, torch.from_numpy(split.texts)).numpy()
