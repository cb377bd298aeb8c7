"""The networks that objectives bring: connected to the model, made for the data, described in checkpoints."""

from collections.abc import Mapping

import torch
from torch import nn

from losses import Objective
from losses.objective import ALL_FIELDS, needs_of
from mmtrain.fusion import CaptionDecoder, MatchingHead
from mmtrain.models.image_text import ImageTextModel
from mmtrain.training.data import TrainingData


def connect(objectives: Mapping[str, Objective], model: ImageTextModel) -> None:
    """Tells each objective of the others and of the model, whose head for token rows rests where none reads them.

    Raises:
        ValueError: for an objective of token rows and a model without them.
    """
    readers = [name for name, objective in objectives.items() if "multi" in needs_of(objective)]
    if readers and model.multi_dimension is None:
        raise ValueError(f"model.objectives.{readers[0]}: reads token rows; set model.multi, as in {{dimension: 128}}")
    if not readers:
        model.multi.requires_grad_(False)
    for objective in objectives.values():
        if model.composer is not None:  # it reads the pictures beside the texts that an objective names
            objective.needs |= {ALL_FIELDS}
        objective.meet(objectives)
        objective.connect(model)


def prepare(objectives: Mapping[str, Objective], data: TrainingData, seed: int) -> None:
    """Tells each objective of the data; the weights that it then makes depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # what was drawn before this differs with the number of processes
        for objective in objectives.values():
            objective.prepare(data)


def networks_of(objectives: nn.Module) -> dict[str, tuple[str, nn.Module]]:
    """The first decoder and the first head for matching among objectives, with their names in a training module."""
    kinds: dict[str, type[nn.Module]] = {"decoder": CaptionDecoder, "head": MatchingHead}
    found: dict[str, tuple[str, nn.Module]] = {}
    for name, part in objectives.named_modules():
        for kind in (kind for kind, cls in kinds.items() if isinstance(part, cls)):
            found.setdefault(kind, (f"objectives.{name}", part))
    return found
