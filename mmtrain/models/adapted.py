"""A network whose linear layers may have low-rank adapters beside them."""

from collections.abc import Callable, Mapping
from typing import Any, Self

from torch import Tensor

from losses import micro_batched
from mmtrain.models.adapters import (
    TOWERS,
    UNNAMED,
    Adapter,
    AdapterBank,
    add_adapter,
    linear_layers,
    merge_adapter,
    train_adapters,
)
from mmtrain.models.network import Network


class AdaptedNetwork(Network):
    """Encodes rows in parts, each row by its own adapter.

    Attributes:
        bank: The adapters by name.
        lora: Ranks of the adapter without a name by tower; {} for none.
        micro_batch: Rows that are encoded at once in training; None for all.
    """

    def __init__(self) -> None:
        super().__init__()
        self.micro_batch: int | None = None
        self.lora: dict[str, int] = {}
        self.bank = AdapterBank(self)

    def train(self, mode: bool = True) -> Self:
        """Training mode, in which the base of adapters stays in evaluation mode."""
        super().train(mode and not self.bank.settings)
        if self.bank.settings:
            train_adapters(self, mode)
        return self

    def add_lora(self, ranks: Mapping[str, int]) -> None:
        """Freezes towers and puts an adapter without a name into each, of these ranks.

        Raises:
            ValueError: for another side, a rank below 1, or a tower without linear layers.
        """
        for side, rank in ranks.items():
            if side not in TOWERS or rank < 1:
                raise ValueError(f"model.lora: got {side}: {rank}, expected image or text with a rank from 1")
            if (tower := getattr(self, side)) is None:
                continue
            if not (layers := linear_layers(tower)):
                raise ValueError(f"model.lora: {side}: {type(tower).__name__} has no linear layers to adapt")
            add_adapter(tower, UNNAMED, Adapter(rank), layers)
        self.lora = dict(ranks)

    def merge_lora(self) -> None:
        """Adds the adapters without a name, where there are any, to the weights they stand beside."""
        if self.lora:
            merge_adapter(self, UNNAMED)
            self.lora = {}

    def add_adapters(self, adapters: Mapping[str, Adapter | Mapping[str, Any]]) -> None:
        """Freezes all and adds adapters by name.

        Raises:
            ValueError: beside adapters without a name, or for one that fits no layer.
        """
        if self.lora and adapters:
            raise ValueError(f"model.lora: got {self.lora} beside model.adapters; expected one of them")
        for name, adapter in adapters.items():
            self.bank.add(name, adapter, strict=self.image is not None)
        self.train(self.training)

    def merge_adapters(self, name: str | None = None) -> None:
        """Makes the towers plain ones, with this adapter in their weights, or none, and leaves the others."""
        merge_adapter(self, name)
        self.bank = AdapterBank(self)

    def read(self, encode: Callable[..., Tensor], adapters: Tensor | None, *inputs: Tensor) -> Tensor:
        """`in_parts`, each row by its own adapter."""
        if adapters is None:
            return self.in_parts(encode, *inputs)
        return self.in_parts(lambda own, *part: self.bank.encode(encode, own, *part), adapters, *inputs)

    def in_parts(self, encode: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """`encode(*inputs)` [N, ...] of inputs [N, ...], in parts of `micro_batch` where there is one."""
        if self.micro_batch is None or len(inputs[0]) <= self.micro_batch:
            return encode(*inputs)
        return micro_batched(encode, *inputs, micro_batch=self.micro_batch)
