"""How a checkpoint reaches the disk, and which one of a run folder can be read."""

import os
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins import CheckpointIO
from lightning_utilities import apply_to_collection
from pytorch_lightning.utilities import rank_zero_warn

from mmtrain.display.messages import first_line


class CheckpointFiles(CheckpointIO):
    """Writes a checkpoint beside its place, flushes it to the disk and renames it: a reader never sees half of one.

    A write that fails leaves what was there, says so and is remembered in `error`; training goes on.

    Args:
        keep_last: How many of `last.ckpt` to keep: the newest under that name, those before as `previous-1.ckpt` and
            so on, newest first.
        asynchronous: Copy the tensors and write them in a thread beside the training, one checkpoint at a time.
    """

    def __init__(self, keep_last: int = 2, asynchronous: bool = False) -> None:
        self.keep_last = keep_last
        self.error: OSError | RuntimeError | None = None
        self._thread = ThreadPoolExecutor(1) if asynchronous else None
        self._writing: Future | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        self.wait()
        if self._thread is None:
            self._write(checkpoint, Path(path))
        else:
            copy = apply_to_collection(checkpoint, torch.Tensor, lambda tensor: tensor.detach().to("cpu", copy=True))
            self._writing = self._thread.submit(self._write, copy, Path(path))

    def wait(self) -> None:
        """Returns when no checkpoint is being written."""
        if self._writing is not None:
            self._writing.result()
            self._writing = None

    def load_checkpoint(self, path: str | Path, map_location: Any = None, weights_only: bool | None = None) -> Any:
        """Tensors and plain data; a pickle that wants to run code is refused whatever `weights_only` says."""
        return torch.load(path, map_location=map_location or (lambda storage, _: storage), weights_only=True)

    def remove_checkpoint(self, path: str | Path) -> None:
        Path(path).unlink(missing_ok=True)

    def teardown(self) -> None:
        self.wait()
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None

    def _write(self, checkpoint: dict[str, Any], target: Path) -> None:
        temporary = target.with_name(target.name + ".tmp")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            publish(temporary, target, self.keep_last)
            self.error = None
        except (OSError, RuntimeError) as error:  # torch's writer turns a full disk into a RuntimeError
            temporary.unlink(missing_ok=True)
            self.error = error
            fallback = "the one written before is kept" if target.exists() else "there is none yet"
            rank_zero_warn(f"checkpoint: {target} could not be written ({first_line(error)}); {fallback}")


def publish(temporary: Path, target: Path, keep_last: int) -> None:
    """Gives a complete checkpoint (a file, or a folder of shards) its name; of last.ckpt the ones before are kept."""
    if target.name == "last.ckpt" and target.exists() and keep_last > 1:
        for number in range(keep_last - 1, 1, -1):
            older = previous(target.parent, number - 1)
            if older.exists():
                _replace(older, previous(target.parent, number))
        newest = previous(target.parent, 1)
        try:  # a second name first: last.ckpt exists at every moment
            linked = newest.with_name(newest.name + ".tmp")
            linked.unlink(missing_ok=True)
            os.link(target, linked)
            os.replace(linked, newest)
        except OSError:  # a folder, or a file system without links
            _replace(target, newest)
    _replace(temporary, target)


def previous(folder: Path, number: int) -> Path:
    return folder / f"previous-{number}.ckpt"


def _replace(source: Path, target: Path) -> None:
    if target.is_dir():
        shutil.rmtree(target)
    os.replace(source, target)
