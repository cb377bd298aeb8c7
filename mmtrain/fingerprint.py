"""Which weights an encoder has, in a few characters: rows of two models cannot be compared."""

import hashlib
from pathlib import Path

import torch

from mmtrain.encoder import Encoder


def fingerprint(encoder: Encoder) -> str:
    """16 hexadecimal digits, equal for equal weights wherever they were loaded from.

    A model exported to ONNX keeps its weights in its graphs, whose files count instead.
    """
    digest = hashlib.sha256()
    state = encoder.model.state_dict()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    for graph in () if state else sorted(Path(encoder.source).glob("*.onnx*")):
        with graph.open("rb") as file:
            digest.update(f"{graph.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()[:16]
