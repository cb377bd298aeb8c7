"""Low-rank adapters beside a tower's linear layers."""

from collections.abc import Mapping

from torch import nn

TOWERS = ("image", "text")


def add_adapters(towers: Mapping[str, nn.Module | None], ranks: Mapping[str, int]) -> None:
    """Freezes towers and puts low-rank adapters beside all of their linear layers (Hu et al. 2022, by peft).

    An adapter begins as zero: at first the model's rows stay the same, bit for bit.

    Args:
        towers: By side; None is left out.
        ranks: The rank for "image", "text" or both; alpha is twice the rank.

    Raises:
        ValueError: for another name, a rank below 1, or a tower without linear layers.
    """
    from peft import LoraConfig, inject_adapter_in_model

    for side, rank in ranks.items():
        if side not in TOWERS or rank < 1:
            raise ValueError(f"model.lora: got {side}: {rank}, expected image or text with a rank from 1")
        tower = towers[side]
        if tower is None:
            continue
        layers = [name for name, layer in tower.named_modules() if type(layer) is nn.Linear]
        if not layers:
            raise ValueError(f"model.lora: {side}: {type(tower).__name__} has no linear layers to adapt")
        tower.requires_grad_(False)
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=layers), tower)


def merge_adapters(network: nn.Module) -> None:
    """Adds the adapters to the weights beside them, so that the network is a plain one again."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    adapters = [(name, layer) for name, layer in network.named_modules() if isinstance(layer, BaseTunerLayer)]
    for name, layer in adapters:
        layer.merge()
        parent, _, child = name.rpartition(".")
        setattr(network.get_submodule(parent), child, layer.get_base_layer())
