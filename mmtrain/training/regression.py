"""A start for the layers of a relation head: the logistic regression on the frozen rows of the training posts."""

from collections.abc import Mapping

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor

from mmtrain.embedding.collected import Embedded, EmbeddedSplit
from mmtrain.evaluation.measuring.relation_baselines import linear_probe
from mmtrain.fusion import RelationHead
from mmtrain.models.batches import embed_batch
from mmtrain.models.image_text import ImageTextModel
from mmtrain.training.data import LabelledData
from mmtrain.training.mining import evaluating
from mmtrain.training.waiting import told_by_first


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
    split = _embedded(model, data, trainer)

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


@torch.inference_mode()
def _embedded(model: ImageTextModel, data: LabelledData, trainer: pl.Trainer) -> Embedded | None:
    from rich.progress import track

    rows, loader, quiet = EmbeddedSplit(), data.train_samples(), trainer.progress_bar_callback is None
    device = trainer.strategy.root_device
    batches = track(loader, description="regression", total=len(loader), transient=True, disable=quiet)
    with evaluating(model):
        for batch in batches:
            data.evaluated(batch)
            rows.add(batch, embed_batch(model, batch.to(device)))
    return rows.gather()
