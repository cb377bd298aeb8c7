"""`mmtrain average`: the weights of several models of one kind, averaged into one."""

from collections.abc import Sequence
from pathlib import Path

from mmtrain.adaptation import average
from mmtrain.export import write
from mmtrain.loading import load
from mmtrain.model import ImageTextModel


def average_models(models: Sequence[str], out: str | Path, weights: Sequence[float] | None = None) -> Path:
    """Writes the weighted mean of MODELs as a safetensors folder, with the preprocessing of the first.

    Args:
        models: Runs, checkpoints or exports of one architecture.
        weights: One each, by default all alike.

    Raises:
        ValueError: for fewer than two models, another number of weights, or models that differ in a parameter.
    """
    weights = [1.0] * len(models) if weights is None else list(weights)
    if len(models) < 2 or len(weights) != len(models):
        raise ValueError(f"average: got {len(models)} models and {len(weights)} weights, expected 2 or more, one each")
    if min(weights) < 0 or not sum(weights) > 0:
        raise ValueError(f"--weights: got {weights}, expected numbers from 0 that are not all 0")
    encoders = [load(model) for model in models]
    for name, encoder in zip(models, encoders, strict=True):
        if not isinstance(encoder.model, ImageTextModel):
            raise ValueError(f"average: {name} is not a model of ours; runs, checkpoints and safetensors exports are")
    states = [encoder.model.state_dict() for encoder in encoders]
    encoders[0].model.load_state_dict(average(states, weights))
    return write(encoders[0], " + ".join(models), out)
