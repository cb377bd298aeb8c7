"""Weights, gradients and optimiser states divided over the processes: PyTorch's FSDP2 (`--trainer.strategy fsdp2`)."""

import os.path
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch.distributed as dist
from pytorch_lightning.strategies import FSDPStrategy, ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from mmtrain.models.image_text import ImageTextModel
from mmtrain.towers import Tower

NAMES = ("fsdp2", "ModelParallelStrategy")
WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


class FullySharded(ModelParallelStrategy):
    """Lightning's strategy for FSDP2 with every process in one data-parallel group.

    Its checkpoint is the file that one process would have written: process 0 gathers it, and any number of processes,
    sharded or not, goes on from it.

    Args:
        process_group_backend: nccl, gloo; None for the device's own.
        timeout: Of a collective.
    """

    def __init__(self, process_group_backend: str | None = None, timeout: timedelta | None = None) -> None:
        options = {} if timeout is None else {"timeout": timeout}
        super().__init__("auto", 1, False, process_group_backend, **options)

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        return self.checkpoint_io.load_checkpoint(Path(checkpoint_path), weights_only=weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        assert self.model is not None
        options = StateDictOptions(full_state_dict=True, strict=strict)
        set_model_state_dict(self.model, dict(checkpoint["state_dict"]), options=options)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        assert self.model is not None
        optimizer = getattr(optimizer, "_optimizer", optimizer)  # Lightning's wrapper
        state = get_optimizer_state_dict(self.model, optimizer, options=WHOLE)
        numbers = {name: number for number, name in enumerate(self._names(optimizer))}
        return _renamed(state, numbers) if state else {}

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        assert self.model is not None
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            named = _renamed(state, dict(enumerate(self._names(optimizer))))
            set_optimizer_state_dict(self.model, optimizer, named, options=StateDictOptions(full_state_dict=True))

    def _names(self, optimizer: Optimizer) -> list[str]:
        """The parameters' names in the order of the optimiser, in which it numbers them."""
        assert self.model is not None
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        return [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]


def _renamed(state: Mapping[str, Any], names: Mapping[Any, Any]) -> dict[str, Any]:
    """An optimiser's state with its parameters under other names."""
    groups = [{**group, "params": [names[each] for each in group["params"]]} for group in state["param_groups"]]
    return {"state": {names[each]: value for each, value in state["state"].items()}, "param_groups": groups}


def supported(strategy: Any) -> Any:
    """What the Trainer gets as its strategy.

    Raises:
        ValueError: for FSDP1, whose flat parameters have neither shapes to decay by nor names; for tensor parallelism.
    """
    if isinstance(strategy, FSDPStrategy) or (isinstance(strategy, str) and strategy in ("fsdp", "fsdp_cpu_offload")):
        name = strategy if isinstance(strategy, str) else type(strategy).__name__
        raise ValueError(f"trainer.strategy: got {name}, which flattens the parameters; use fsdp2, or ddp")
    if isinstance(strategy, str) and strategy in NAMES:
        return FullySharded()
    if isinstance(strategy, ModelParallelStrategy) and not isinstance(strategy, FullySharded):
        if strategy._tensor_parallel_size not in ("auto", 1):
            raise ValueError(
                f"trainer.strategy.tensor_parallel_size: got {strategy._tensor_parallel_size}, expected 1: each process"
                " has samples of its own"
            )
        return FullySharded(strategy.process_group_backend, strategy._timeout)
    return strategy


def shard(module: pl.LightningModule, mesh: DeviceMesh) -> None:
    """Divides a training module over the processes, each block of its towers by itself, and what is left together.

    A block's weights are whole while it computes, the others during a step. All processes begin with those of process
    0, as under DDP.
    """
    if isinstance(module, FSDPModule):
        return
    if any(isinstance(each, ImageTextModel) and each.bank.settings for each in module.modules()):
        raise ValueError("trainer.strategy: fsdp2 divides the weights that model.adapters stand beside; use ddp")
    module.to(module.trainer.strategy.root_device)
    for tensor in (*module.parameters(), *module.buffers()):
        dist.broadcast(tensor.detach(), 0)
    divide(module, mesh)
    for method in ("training_step", "validation_step"):
        register_fsdp_forward_method(module, method)


def divide(module: nn.Module, mesh: DeviceMesh) -> None:
    """Divides each block of the towers in it by itself, and what is left together; every process has the same weights.

    Args:
        module: On the device.
        mesh: Of all processes, in one dimension.
    """
    for network in [each for each in module.modules() if isinstance(each, ImageTextModel)]:
        network.divided = True
    for tower in [each for each in module.modules() if isinstance(each, Tower)]:
        for block in _blocks(tower):
            fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh)


def _blocks(tower: Tower) -> list[nn.Module]:
    """The modules that hold one block each, or a stage of several, the innermost first."""
    parts: dict[int, list[list[str]]] = {}
    for name, number in tower.blocks().items():
        parts.setdefault(number, []).append(name.split(".")[:-1])
    common = {tuple(os.path.commonprefix(paths)) for paths in parts.values()}  # noqa: RUF071  # of lists, name by name
    # a member of a list, whose forward is what its list calls
    members = [path for path in common if path and path[-1].isdigit()]
    return [tower.get_submodule(".".join(path)) for path in sorted(members, key=len, reverse=True)]


def whole(tensor: Tensor) -> Tensor:
    """The tensor of all processes together, where it is divided over them."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
