"""The checkpoints of a run folder, and what is in them."""

import json
import pickle
import warnings
from pathlib import Path
from typing import Any

import torch

from mmtrain.display.messages import first_line, note
from mmtrain.models.description import damage_named, upgraded
from mmtrain.models.yaml12 import read_yaml


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """A checkpoint's contents, without running any code in it.

    Raises ValueError when the file is truncated, holds a pickle of more than tensors and plain data, is no checkpoint
    of mmtrain, or one of a newer format.
    """
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
    with damage_named(path):
        upgraded(json.loads(checkpoint["mmtrain"]["description"]), str(path))
    return checkpoint


def describe(checkpoint: dict[str, Any], source: str = "checkpoint") -> dict[str, Any]:
    """What builds the encoder of a checkpoint again; `source` is its file.

    "scale" is exp of the log_scale of the first objective that has one, in the order of the config; "bias" is what that
    objective adds to each logit, None where it adds nothing.
    """
    description = upgraded(json.loads(checkpoint["mmtrain"]["description"]), source)
    scales = {
        name.removeprefix("objectives."): value
        for name, value in checkpoint["state_dict"].items()
        if name.startswith("objectives.") and name.endswith("log_scale")
    }
    objectives = description.get("objectives")
    if not objectives:  # older checkpoints list them in their config alone
        model = (read_yaml(checkpoint["mmtrain"].get("config", "")) or {}).get("model") or {}
        objectives = (model.get("init_args") or {}).get("objectives") or ()
    first = [key for name in objectives for key in scales if key.startswith(f"{name}.")]
    key = next(iter((*first, *scales)), None)
    bias = key and checkpoint["state_dict"].get(f"objectives.{key.removesuffix('log_scale')}bias")
    return description | {
        "scale": None if key is None else float(scales[key].exp()),
        "bias": None if bias is None else float(bias),
        "tokenizer_files": checkpoint["mmtrain"].get("tokenizer_files", {}),  # older checkpoints have none
    }


def resolve_run(folder: Path) -> Path:
    """The checkpoint that a run folder stands for, said in one line. Raises ValueError when it has none."""
    path = checkpoint_of(folder)
    if path is None:
        raise ValueError(f"{folder}: no checkpoints/best.ckpt and no checkpoints/last.ckpt in it")
    note(f"{folder}: using {path}")
    return path


def checkpoint_of(path: Path) -> Path | None:
    """A checkpoint itself, a run folder's best, else its last; None for anything else.

    Of a run of stages it is that of its last stage that has one.
    """
    if not path.is_dir():
        return path if path.is_file() else None
    stages = sorted((each for each in path.iterdir() if each.name.isdecimal()), key=lambda each: -int(each.name))
    folders = (each / "checkpoints" for each in (path, *stages))
    choices = (folder / name for folder in folders for name in ("best.ckpt", "last.ckpt"))
    return next(filter(Path.is_file, choices), None)


def folder_of(run: Path) -> Path | None:
    """A run folder, or the folder of its last stage that has a checkpoint; None for anything else."""
    checkpoint = checkpoint_of(run) if run.is_dir() else None
    return checkpoint and checkpoint.parents[1]


def newest_readable(folder: Path) -> Path | None:
    """last.ckpt, or with a note the newest before it that can be read; None without any, ValueError if all fail."""
    folder = folder / "checkpoints"
    previous = sorted(folder.glob("previous-*.ckpt"), key=lambda path: int(path.stem.removeprefix("previous-")))
    checkpoints = [path for path in (folder / "last.ckpt", *previous) if path.exists()]
    reasons = []
    for path in checkpoints:
        try:
            if path.is_file():
                read_checkpoint(path)
        except ValueError as error:
            reasons.append(str(error))
            continue
        for reason in reasons:
            note(f"{reason}; going on from {path} instead")
        return path
    if checkpoints:
        raise ValueError(f"--ckpt_path last: none of {len(checkpoints)} checkpoints can be read: {reasons[0]}")
    return None
