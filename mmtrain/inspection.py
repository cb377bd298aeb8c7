"""`mmtrain inspect`: what is in a checkpoint, an exported folder or shards, and what is broken."""

import json
from pathlib import Path
from typing import Any

from mmtrain.loading import DESCRIPTION


def inspect(what: str) -> dict[str, Any]:
    """Prints and returns the facts.

    Raises:
        ValueError: when `what` is neither shards nor a model.
    """
    path = Path(what)
    if path.suffix == ".ckpt" or (path / "checkpoints").is_dir():
        facts = _checkpoint(path)
    elif (path / DESCRIPTION).is_file():
        facts = _summary(json.loads((path / DESCRIPTION).read_text(encoding="utf-8")))
    else:
        from datamodules.inspection import inspect_shards

        facts = inspect_shards(what)
    _print(facts)
    return facts


def _checkpoint(path: Path) -> dict[str, Any]:
    from mmtrain.checkpoints import describe, read_checkpoint, resolve_run

    path = resolve_run(path) if path.is_dir() else path
    checkpoint = read_checkpoint(path)
    parameters = {name: tensor for name, tensor in checkpoint["state_dict"].items() if name.startswith("model.")}
    return {
        "file": str(path),
        "bytes": path.stat().st_size,
        "step": checkpoint["global_step"],
        "samples seen": checkpoint["samples_seen"],
        "parameters": sum(tensor.numel() for tensor in parameters.values()),
        "processes": checkpoint["mmtrain"]["world_size"],
        "versions": checkpoint["mmtrain"]["versions"],
    } | _summary(describe(checkpoint))


def _summary(description: dict[str, Any]) -> dict[str, Any]:
    model = description["model"]
    return {
        "image tower": model["image"],
        "text tower": model["text"],
        "dimension": model["dimension"],
        "tokenizer": description.get("tokenizer"),
        "images": description.get("images"),
        "languages": description["languages"],
    }


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
        table.add_row(name, str(value) or "none")
    Console().print(table)
