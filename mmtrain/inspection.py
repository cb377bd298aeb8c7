"""`mmtrain inspect`: what is in a checkpoint, an exported folder or shards, and what is broken."""

import json
import tempfile
from pathlib import Path
from typing import Any, Literal

from mmtrain.loading import DESCRIPTION


def inspect(
    what: str, *, html: str | None = None, group_by: Literal["sample", "language"] = "sample"
) -> dict[str, Any]:
    """Prints and returns the facts.

    Args:
        html: File for a picture sheet of shards; it opens offline.
        group_by: Whether the sheet shows samples with all their captions, or a few samples of each language.

    Raises:
        ValueError: when `what` is neither shards nor a model, or a sheet is asked of a model.
    """
    path = Path(what)
    model = path.suffix == ".ckpt" or (path / "checkpoints").is_dir() or (path / DESCRIPTION).is_file()
    if html is not None and model:
        raise ValueError(f"--html: {what} is a model and has no pictures; shards")
    if html is not None:
        _check_writable(Path(html))
    if path.suffix == ".ckpt" or (path / "checkpoints").is_dir():
        facts = _checkpoint(path)
    elif (path / DESCRIPTION).is_file():
        facts = _summary(json.loads((path / DESCRIPTION).read_text(encoding="utf-8")))
    else:
        from datamodules.inspection import inspect_shards

        found = inspect_shards(what, examples=group_by)
        facts = found.facts
        if html is not None:
            from mmtrain.picture_sheet import write_sheet

            write_sheet(Path(html), what, found)
            facts = facts | {"picture sheet": html}
    _print(facts)
    return facts


def _check_writable(path: Path) -> None:
    """Before shards are read for an hour. Raises ValueError."""
    try:
        if path.is_dir():
            raise IsADirectoryError(None, "it is a folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise ValueError(f"--html: {path} cannot be written ({error.strerror}); the name of a file to write") from None


def _checkpoint(path: Path) -> dict[str, Any]:
    from mmtrain.checkpoints import describe, read_checkpoint, resolve_run

    path = resolve_run(path) if path.is_dir() else path
    checkpoint = read_checkpoint(path)
    parameters = {
        name: tensor for name, tensor in checkpoint["state_dict"].items() if name.startswith(("model.", "head."))
    }
    return {
        "file": str(path),
        "bytes": path.stat().st_size,
        "step": checkpoint["global_step"],
        "samples seen": checkpoint["samples_seen"],
        "parameters": sum(tensor.numel() for tensor in parameters.values()),
        "loss parameters": _loss_parameters(checkpoint["state_dict"]),
        "optimiser": f"moments of {len(checkpoint['optimizer_states'][0]['state'])} tensors",
        "average of weights": "yes" if checkpoint.get("averaging_state") else "no",
        "data": _data(checkpoint),
        "processes": checkpoint["mmtrain"]["world_size"],
        "wandb run": checkpoint["mmtrain"]["wandb"],
        "best so far": checkpoint["callbacks"]["Checkpoint"]["best"],
        "versions": checkpoint["mmtrain"]["versions"],
    } | _summary(describe(checkpoint))


def _loss_parameters(state: dict[str, Any]) -> dict[str, float]:
    """Scales are kept as logarithms, and shown as what multiplies the cosines."""
    found = {name.removeprefix("objectives."): value for name, value in state.items() if name.startswith("objectives.")}
    return {
        name.replace("log_scale", "scale"): round(float(value.exp() if name.endswith("log_scale") else value), 4)
        for name, value in found.items()
        if value.numel() == 1
    }


def _data(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Where the training will go on, and what it was reading."""
    state = next((part for part in checkpoint.values() if isinstance(part, dict) and "cursor" in part), None)
    if state is None:
        return {}
    cursor = {name: state["cursor"][name] for name in ("position", "epoch")}
    return cursor | {"samples an epoch": state["data"]["samples"], "shards": state["data"]["shards"]}


def _summary(description: dict[str, Any]) -> dict[str, Any]:
    model = description["model"]
    return {
        "image tower": model["image"],
        "text tower": model["text"],
        "dimension": model["dimension"],
        "tokenizer": description.get("tokenizer"),
        "images": description.get("images"),
        "languages": description["languages"],
    } | _behind(model)


def _behind(model: dict[str, Any]) -> dict[str, Any]:
    """The network behind the towers, where there is one."""
    if "relation" in model:
        tasks = {task: f"({', '.join(names)})" for task, names in model["relation"]["names"].items()}
        return {"tasks": tasks, "fusion": model["relation"]["fusion"]}
    return {"fusion": model["matching"]["fusion"]} if "matching" in model else {}


def _print(facts: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        if isinstance(value, dict) and set(value) == {"class_path", "init_args"}:
            given = {key: option for key, option in value["init_args"].items() if option is not None}
            value = f"{value['class_path']} {json.dumps(given, ensure_ascii=False)}"
        elif isinstance(value, dict):
            value = ", ".join(
                f"{key} {item:,}" if isinstance(item, int) else f"{key} {item}" for key, item in value.items()
            )
        elif isinstance(value, list):
            value = ", ".join(str(item) for item in value)
        elif isinstance(value, int):
            value = f"{value:,}"
        table.add_row(name, "none" if value in (None, "") else str(value))
    Console().print(table)
