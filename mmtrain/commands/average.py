"""`mmtrain average`: the weights of several models of one kind, averaged into one."""

from pathlib import Path

from mmtrain.commands.usage import Folder, Model, Trust


def average(*models: Model, out: Folder, weights: list[float] | None = None, trust: Trust | None = None) -> Path:
    """Writes the weighted mean of MODELs as a safetensors folder, with the preprocessing of the first.

    Of a run's checkpoints (Wortsman et al. 2022, "Model soups"), or of a fine-tuned model and its start (WiSE-FT,
    Wortsman et al. 2022, "Robust fine-tuning").

    Args:
        models: Runs, checkpoints or exports of one architecture.
        out: Gets a safetensors export.
        weights: Default: all alike.

    Raises:
        ValueError: for fewer than two models, another number of weights, or models that differ in a parameter.
    """
    from mmtrain.export.writing import write
    from mmtrain.models.image_text import ImageTextModel
    from mmtrain.models.loading import load
    from mmtrain.models.weights import mean_of

    weights = [1.0] * len(models) if weights is None else list(weights)
    if len(models) < 2 or len(weights) != len(models):
        raise ValueError(f"average: got {len(models)} models and {len(weights)} weights, expected 2 or more, one each")
    if min(weights) < 0 or not sum(weights) > 0:
        raise ValueError(f"--weights: got {weights}, expected numbers from 0 that are not all 0")
    encoders = [load(model, trust=trust) for model in models]
    for name, encoder in zip(models, encoders, strict=True):
        if not isinstance(encoder.model, ImageTextModel):
            raise ValueError(f"average: {name} is not a model of ours; runs, checkpoints and safetensors exports are")
    encoders[0].model.load_state_dict(mean_of([encoder.model.state_dict() for encoder in encoders], weights))
    return write(encoders[0], " + ".join(models), out)
