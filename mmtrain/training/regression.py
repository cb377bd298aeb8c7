"""A start for the layers of a relation head: the logistic regression on the frozen rows of the training posts."""

from collections.abc import Mapping

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor

from mmtrain.evaluation.measuring.relation_baselines import linear_probe
from mmtrain.fusion import RelationHead
from mmtrain.models.image_text import ImageTextModel
from mmtrain.training.data import LabelledData
from mmtrain.training.waiting import told_by_first
from mmtrain.training.whole_split import embedded_whole


def start_from_regression(
    model: ImageTextModel,
    head: RelationHead,
    data: LabelledData,
    class_weights: Mapping[str, Tensor],
    trainer: pl.Trainer,
) -> None:
    """Sets each task's layer to what `linear_probe` finds in the training posts, embedded by the towers as they are.

    The processes share the posts, process 0 fits, and all take its solution.

    Args:
        class_weights: Task -> float [C].

    Raises:
        ValueError: when no post could be read.
    """
    split = embedded_whole(model, data, trainer, "regression")

    def solutions() -> dict[str, tuple[list, list]]:
        if split is None:
            raise ValueError("model.start: no training post could be read")
        found = {}
        for task, weights in class_weights.items():
            weight, bias = linear_probe(split, task, len(weights), weights.cpu().numpy())
            found[task] = weight.tolist(), bias.tolist()
        return found

    for task, (weight, bias) in told_by_first(solutions).items():
        head.start(task, torch.tensor(weight), torch.tensor(bias))
    rank_zero_info(f"the layers of {', '.join(class_weights)} start from the regression on the training posts' rows")
