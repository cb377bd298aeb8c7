"""Which checkpoint of a run folder is meant, and what is in it."""

import json
import warnings
from pathlib import Path
from typing import Any

import torch

from mmtrain.display.messages import first_line, note
from mmtrain.models.description import upgraded


def candidates(folder: Path) -> list[Path]:
    """last.ckpt and the ones before it that are there, newest first."""
    older = sorted(folder.glob("previous-*.ckpt"), key=lambda path: int(path.stem.removeprefix("previous-")))
    return [path for path in (folder / "last.ckpt", *older) if path.exists()]


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """A checkpoint's contents, without running any code in it.

    Raises:
        ValueError: when the file is truncated, holds a pickle that wants more than tensors and plain data, or is no
            checkpoint of mmtrain.
    """
    import pickle

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError as error:
        raise ValueError(f"checkpoint: {path} does not exist") from error
    except pickle.UnpicklingError as error:
        raise ValueError(f"checkpoint: {path} holds more than weights and plain data; it is not loaded") from error
    except (RuntimeError, EOFError, OSError) as error:
        raise ValueError(f"checkpoint: {path} cannot be read, it may be truncated ({first_line(error)})") from error
    if not isinstance(checkpoint, dict) or "mmtrain" not in checkpoint:
        raise ValueError(f"checkpoint: {path} was not written by mmtrain")
    return checkpoint


def describe(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """What builds the encoder of a checkpoint again, with the multiplier of the cosines that it was trained with."""
    description = upgraded(json.loads(checkpoint["mmtrain"]["description"]), "checkpoint")
    return description | {"scale": _scale(checkpoint, description)}


def _scale(checkpoint: dict[str, Any], description: dict[str, Any]) -> float | None:
    """exp of the log_scale of the first objective that has one, in the order in which the config names them."""
    scales = {
        name.removeprefix("objectives."): value
        for name, value in checkpoint["state_dict"].items()
        if name.startswith("objectives.") and name.endswith("log_scale")
    }
    named = description.get("objectives") or _objectives_of(checkpoint["mmtrain"].get("config", ""))
    first = [key for name in named for key in scales if key.startswith(f"{name}.")]
    return next((float(scales[key].exp()) for key in (*first, *scales)), None)


def _objectives_of(config: str) -> list[str]:
    """The objectives that a config names; older checkpoints do not list them."""
    import yaml

    model = (yaml.safe_load(config) or {}).get("model") or {}
    return list((model.get("init_args") or {}).get("objectives") or ())


def resolve_run(folder: Path) -> Path:
    """A run folder's best checkpoint, else its last.

    Raises:
        ValueError: when it has neither.
    """
    path = checkpoint_of(folder)
    if path is not None:
        note(f"{folder}: using {path}")
        return path
    raise ValueError(f"{folder}: no checkpoints/best.ckpt and no checkpoints/last.ckpt in it")


def checkpoint_of(path: Path) -> Path | None:
    """A checkpoint itself, a run folder's best, else its last; None for anything else."""
    choices = (path / "checkpoints" / "best.ckpt", path / "checkpoints" / "last.ckpt") if path.is_dir() else (path,)
    return next((choice for choice in choices if choice.is_file()), None)


def newest_readable(folder: Path) -> Path | None:
    """The run folder's last.ckpt, or the newest before it that can be read, saying so; None where there is none.

    Raises:
        ValueError: when there are some and none can be read.
    """
    found = candidates(folder / "checkpoints")
    reasons = []
    for path in found:
        try:
            if path.is_file():
                read_checkpoint(path)
        except ValueError as error:
            reasons.append(str(error))
            continue
        for reason in reasons:
            note(f"{reason}; going on from {path} instead")
        return path
    if found:
        raise ValueError(f"--ckpt_path last: none of {len(found)} checkpoints can be read: {reasons[0]}")
    return None
