"""Low-rank adapters beside linear layers (Hu et al. 2022, by peft): one that is merged at load, or several by name."""

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

TOWERS = ("image", "text")
UNNAMED = "default"  # what peft calls the adapter of `model.lora`
BY_LANGUAGE = "language"  # in the place of a name: each text's adapter is the one of its language
NONE, OF_LANGUAGE = -1, -2  # numbers beside those of adapters
WEIGHT = re.compile(r"\.lora_[AB]\.([\w-]+)\.weight$")


@dataclass(frozen=True)
class Adapter:
    """What is beside the linear layers of a model: their output gains alpha / rank x up(down(dropout(input))).

    Args:
        rank: r, of the product of the two matrices.
        alpha: None for twice the rank.
        dropout: Of the layer's input, in training.
        targets: Parts of the layers' names, such as text, query or text.network.encoder.layer.0; None for all linear
            layers of both towers.
        start: Begin as a copy of this adapter of the model that training starts from, or of a folder of peft. None
            begins with the one of the same name there, else as nothing.

    Raises:
        ValueError: for a number out of range.
    """

    rank: int
    alpha: float | None = None
    dropout: float = 0.0
    targets: Sequence[str] | None = None
    start: str | None = None

    def __post_init__(self) -> None:
        if self.rank < 1 or not 0 <= self.dropout < 1 or (self.alpha is not None and not self.alpha > 0):
            raise ValueError(
                f"adapter: got rank {self.rank}, alpha {self.alpha}, dropout {self.dropout}; expected a rank from 1, an"
                " alpha above 0, a dropout from 0 to below 1"
            )

    def in_peft(self) -> dict[str, Any]:
        """The numbers by peft's names."""
        alpha = 2 * self.rank if self.alpha is None else self.alpha
        return {"r": self.rank, "lora_alpha": alpha, "lora_dropout": self.dropout}


def add_adapter(network: nn.Module, name: str, adapter: Adapter, layers: Sequence[str]) -> None:
    """Freezes a network and puts an adapter beside layers of it. It begins as nothing."""
    from peft import LoraConfig, inject_adapter_in_model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there will be several
        inject_adapter_in_model(LoraConfig(**adapter.in_peft(), target_modules=list(layers)), network, name)


def chosen_layers(network: nn.Module, targets: Sequence[str] | None, strict: bool = True) -> list[str]:
    """The linear layers of which targets name parts; None names both towers.

    Raises:
        ValueError: where a target names none, if strict.
    """
    layers = linear_layers(network)
    if targets is None:
        targets = [part for part in TOWERS if any(layer.startswith(f"{part}.") for layer in layers)]
    found = {part: [layer for layer in layers if f".{part}." in f".{layer}."] for part in targets}
    if strict and (not found or not all(found.values())):
        named = ", ".join(part for part, own in found.items() if not own)
        raise ValueError(
            f"targets: {named or 'both towers'}: no linear layers of that name; there are {_short(layers)}"
        )
    return sorted({layer for own in found.values() for layer in own})


def linear_layers(network: nn.Module) -> list[str]:
    """The names of the linear layers, with and without adapters beside them."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    adapted = [name for name, layer in network.named_modules() if isinstance(layer, BaseTunerLayer)]
    inner = tuple(f"{name}." for name in adapted)
    linear = [name for name, layer in network.named_modules() if type(layer) is nn.Linear]
    return sorted({*adapted, *(name for name in linear if not name.startswith(inner))})


def plain_name(name: str) -> str:
    """The name of a weight of the base where no adapter is beside it."""
    return name.replace(".base_layer.", ".")


def adapter_of(name: str) -> str | None:
    """The name of the adapter that a weight is of; None for those of the base."""
    found = WEIGHT.search(name)
    return found and found[1]


def base_state(network: nn.Module) -> dict[str, Tensor]:
    """The weights without those of adapters, under their names in the base."""
    return {plain_name(name): value for name, value in network.state_dict().items() if adapter_of(name) is None}


def merge_adapter(network: nn.Module, name: str | None) -> None:
    """Makes the network a plain one again, with an adapter added to the weights beside it, or with none."""
    for path, layer in _adapted(network):
        if name in layer.lora_A:
            layer.merge(adapter_names=[name])
        parent, _, child = path.rpartition(".")
        setattr(network.get_submodule(parent), child, layer.get_base_layer())
    for module in network.modules():
        module.__dict__.pop("peft_config", None)  # as before the first one came


def train_adapters(network: nn.Module, mode: bool = True) -> None:
    """Training mode for the adapters alone: what they stand beside neither drops out nor counts statistics."""
    for _, layer in _adapted(network):
        layer.lora_dropout.train(mode)


def _adapted(network: nn.Module) -> list[tuple[str, Any]]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [(name, layer) for name, layer in network.named_modules() if isinstance(layer, BaseTunerLayer)]


def _short(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") if names else "none"


class AdapterBank:
    """The adapters of a network by name, all beside one frozen base, and which of them reads a row.

    Attributes:
        settings: By name, in the order of their numbers.
        default: What reads rows that nothing is said of: a name, "language", or None for the base.
        languages: Of the numbers that texts' languages have.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = [network]  # a list, whose members torch does not take for parts
        self.settings: dict[str, Adapter] = {}
        self.default: str | None = None
        self.languages: Sequence[str] = ()
        self._layers: list[Any] = []

    def add(self, name: str, adapter: Adapter | Mapping[str, Any], strict: bool = True) -> None:
        """Adds an adapter and freezes everything but adapters.

        Args:
            name: Letters, digits, - and _.
            strict: Whether each target must name a layer; not where a network was loaded without its image tower.

        Raises:
            ValueError: for a name that cannot be, or settings that do not fit the network.
        """
        if not re.fullmatch(r"[\w-]+", name) or name in (BY_LANGUAGE, UNNAMED) or name in self.settings:
            raise ValueError(f"model.adapters: got {name!r}, expected a name of its own of letters, digits, - and _")
        (network,) = self._network
        try:
            adapter = adapter if isinstance(adapter, Adapter) else Adapter(**adapter)
            if layers := chosen_layers(network, adapter.targets, strict):
                add_adapter(network, name, adapter, layers)
        except (TypeError, ValueError) as error:
            raise ValueError(f"model.adapters.{name}: {error}") from error
        self.settings[name] = replace(adapter, start=None)
        self._layers = [layer for _, layer in _adapted(network)]
        for weight, parameter in network.named_parameters():
            parameter.requires_grad_(adapter_of(weight) is not None)
        self._switch(NONE)

    def described(self) -> dict[str, dict[str, Any]]:
        """The settings as the constructor of the network takes them."""
        return {name: asdict(adapter) for name, adapter in self.settings.items()}

    def number(self, name: str | None, source: str) -> int:
        """The number that stands for an adapter in tensors, "language" and None included.

        Raises:
            ValueError: for another name; `source` is the model's.
        """
        special = {None: NONE, BY_LANGUAGE: OF_LANGUAGE}
        if name not in (*special, *self.settings):
            there = f"only {', '.join(self.settings)}" if self.settings else "no adapters"
            raise ValueError(f"adapter {name!r}, but {source} has {there}")
        return special[name] if name in special else list(self.settings).index(str(name))

    def of_rows(self, rows: Tensor, adapters: Tensor | None, languages: Tensor | None = None) -> Tensor | None:
        """The number of the adapter that reads each row, int64 [N]; None for a network without.

        Args:
            rows: What is read, [N, ...].
            adapters: int64 [N], as `Batch.adapters`; None for the default.
            languages: int64 [N], of texts.
        """
        if not self.settings:
            return None
        if adapters is None:
            adapters = torch.full((len(rows),), self.number(self.default, ""), device=rows.device)
        names = list(self.settings)
        known = [names.index(each) if each in names else NONE for each in self.languages]
        of_language = torch.tensor([*known, NONE], device=rows.device)  # -1, the last, for a language that is not known
        found = NONE if languages is None else of_language[languages]
        return torch.where(adapters == OF_LANGUAGE, found, adapters)

    def encode(self, function: Callable[..., Tensor], adapters: Tensor | None, *inputs: Tensor) -> Tensor:
        """`function(*inputs)` [N, ...] of inputs [N, ...], each row by its own adapter: rows of one go together."""
        if adapters is None:
            return function(*inputs)
        parts, places = [], []
        for number in adapters.unique().tolist():
            own = (adapters == number).nonzero()[:, 0]
            self._switch(number)
            parts.append(function(*inputs) if len(own) == len(adapters) else function(*(each[own] for each in inputs)))
            places.append(own)
        self._switch(NONE)
        return torch.cat(parts)[torch.cat(places).argsort()] if len(parts) > 1 else parts[0]

    def weights(self, name: str) -> dict[str, nn.Parameter]:
        """The parameters of one adapter by their names in the network."""
        (network,) = self._network
        return {weight: each for weight, each in network.named_parameters() if adapter_of(weight) == name}

    def _switch(self, number: int) -> None:
        names = [] if number == NONE else [list(self.settings)[number]]
        for layer in self._layers:
            layer._active_adapter = names  # set_adapter would stop the training of the others


def adapter_number(bank: AdapterBank | None, adapter: str | None, language: str | None, source: str) -> int | None:
    """`Encoder.adapter_number` of a bank, None where a network cannot have one."""
    if bank is None:
        if adapter is not None:
            raise ValueError(f"adapter {adapter!r}, but {source} has no adapters")
        return None
    if BY_LANGUAGE in (adapter, bank.default if adapter is None else None) and language in bank.settings:
        adapter = language
    return None if adapter is None else bank.number(adapter, source)
