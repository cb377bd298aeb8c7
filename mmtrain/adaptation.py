"""Training what exists further: low-rank adapters, and averages of weights."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from mmtrain.model import ImageTextModel

TOWERS = ("image", "text")


def add_lora(model: ImageTextModel, ranks: Mapping[str, int]) -> None:
    """Freezes towers and puts low-rank adapters beside all of their linear layers (Hu et al. 2022, by peft).

    An adapter begins as zero, so the model's rows are at first those it had, bit for bit.

    Args:
        ranks: The rank for "image", "text" or both; adapters are scaled by 2, as with alpha = 2 r.

    Raises:
        ValueError: for another name, a rank below 1, or a tower without linear layers.
    """
    from peft import LoraConfig, inject_adapter_in_model

    for side, rank in ranks.items():
        if side not in TOWERS or rank < 1:
            raise ValueError(f"model.lora: got {side}: {rank}, expected image or text with a rank from 1")
        tower = getattr(model, side)
        layers = [name for name, layer in tower.named_modules() if type(layer) is nn.Linear]
        if not layers:
            raise ValueError(f"model.lora: {side}: {type(tower).__name__} has no linear layers to adapt")
        tower.requires_grad_(False)
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=layers), tower)


def merge_lora(model: ImageTextModel) -> None:
    """Adds the adapters to the weights they stand beside; the model is a plain one again."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    adapted = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, BaseTunerLayer)]
    for name, layer in adapted:
        layer.merge()
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer.get_base_layer())


def average(states: Sequence[dict[str, Tensor]], weights: Sequence[float]) -> dict[str, Tensor]:
    """The weighted mean of the weights of models of one kind: of a run's checkpoints (Wortsman et al. 2022, "Model
    soups"), or of a fine-tuned model and what it began as (WiSE-FT, Wortsman et al. 2022, "Robust fine-tuning").

    Args:
        states: Weights by name.
        weights: One each, not all zero; divided by their sum.

    Raises:
        ValueError: when the models differ in a parameter, naming it.
    """
    first, total = states[0], sum(weights)
    for number, state in enumerate(states[1:], start=2):
        for name in [*first, *state]:
            if name not in first or name not in state or first[name].shape != state[name].shape:
                raise ValueError(f"models 1 and {number} differ in {name}; only models of one kind have an average")
    mean = {}
    for name, value in first.items():
        if not value.is_floating_point():
            mean[name] = value
            continue
        # in float64, so that two equal models give the same weights again
        parts = [state[name].double() * (weight / total) for state, weight in zip(states, weights, strict=True)]
        mean[name] = sum(parts[1:], parts[0]).to(value.dtype)
    return mean
