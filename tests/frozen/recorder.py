"""A callback that notes the weights a training begins with and what each step lost, to the last bit."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch


class Recorder(pl.Callback):
    """Writes `path`: {"weights": digest, "losses": {name: [value of each step]}}.

    Args:
        path: A JSON file; process 0 writes it.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.record: dict[str, Any] = {"weights": "", "losses": {}}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        digest = hashlib.sha256()
        for name, tensor in sorted(pl_module.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        self.record["weights"] = digest.hexdigest()[:32]

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        for name, value in trainer.callback_metrics.items():
            if name.startswith("train/"):
                self.record["losses"].setdefault(name, []).append(float(value))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            Path(self.path).write_text(json.dumps(self.record), encoding="utf-8")
