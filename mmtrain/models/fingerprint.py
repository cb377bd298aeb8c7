"""The weights of a model in a few characters, since rows of two models cannot be compared."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmtrain.models.adapters import base_state
from mmtrain.models.encoder import Encoder
from mmtrain.models.image_text import ImageTextModel
from mmtrain.models.run_folder import checkpoint_of


def stamp(model: str) -> list[list[Any]] | None:
    """Name, size and time of each weights file of a local MODEL, else None; they stay while its fingerprint does."""
    path = Path(model)
    checkpoint = checkpoint_of(path)
    files = [checkpoint] if checkpoint is not None else sorted({*path.glob("*.safetensors"), *path.glob("*.onnx*")})
    return [[str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns] for file in files] or None


def fingerprint(encoder: Encoder) -> str:
    """16 hexadecimal digits, equal for equal weights wherever they were loaded from.

    Of adapters those count that read where nothing else is said. A model exported to ONNX keeps its weights in its
    graphs, whose files count instead.
    """
    state, model = base_state(encoder.model), encoder.model
    digest = _digest(state)
    if isinstance(model, ImageTextModel) and model.bank.default is not None:
        chosen = [model.bank.default] if model.bank.default in model.bank.settings else list(model.bank.settings)
        digest.update(b"" if model.bank.default in model.bank.settings else model.bank.default.encode())
        for name in chosen:
            digest.update(_digest(dict(model.bank.weights(name))).digest())
    for graph in () if state else sorted(Path(encoder.source).glob("*.onnx*")):
        with graph.open("rb") as file:
            digest.update(f"{graph.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()[:16]


def base_fingerprint(network: nn.Module) -> str:
    """The fingerprint of a model without its adapters."""
    return _digest(base_state(network)).hexdigest()[:16]


def _digest(state: Mapping[str, torch.Tensor]) -> Any:
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest
