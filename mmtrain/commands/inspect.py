"""`mmtrain inspect`: what is in a checkpoint, an exported folder or shards, and what is broken."""

from pathlib import Path
from typing import Annotated, Any, Literal

from datamodules.files import try_writing
from mmtrain.commands.usage import File


def inspect(
    what: Annotated[str, "SHARDS|MODEL"],
    *,
    html: File | None = None,
    group_by: Literal["sample", "language"] = "sample",
) -> dict[str, Any]:
    """Prints and returns the facts.

    Args:
        what: Shards, a run folder, a checkpoint or an exported folder.
        html: Write a picture sheet of shards there; it opens offline.
        group_by: Whether the sheet shows samples with all their captions, or a few samples of each language.

    Raises:
        ValueError: when `what` is neither shards nor a model, or a model has no pictures for a sheet.
    """
    from mmtrain.display.tables import print_facts
    from mmtrain.models.description import DESCRIPTION, damage_named, read_description
    from mmtrain.models.run_folder import folder_of

    path = Path(what)
    run = path.suffix == ".ckpt" or (path / "checkpoints").is_dir() or folder_of(path) is not None
    if html is not None:
        if run or (path / DESCRIPTION).is_file():
            raise ValueError(f"--html: {what} is a model and has no pictures; shards")
        if Path(html).is_dir():
            raise ValueError(f"--html: {html} is a folder; the name of a file to write")
        try_writing(Path(html).parent, "--html")
    if run:
        facts = _checkpoint(path)
    elif (path / DESCRIPTION).is_file():
        with damage_named(path / DESCRIPTION):
            facts = _summary(read_description(path / DESCRIPTION))
    else:
        from datamodules.shards.inspection import inspect_shards

        inspection = inspect_shards(what, examples=group_by)
        facts = inspection.facts
        if html is not None:
            from mmtrain.display.picture_sheet import write_sheet

            write_sheet(Path(html), what, inspection)
            facts = facts | {"picture sheet": html}
    print_facts(facts)
    return facts


def _checkpoint(path: Path) -> dict[str, Any]:
    from mmtrain.models.description import damage_named
    from mmtrain.models.run_folder import read_checkpoint, resolve_run

    path = resolve_run(path) if path.is_dir() else path
    checkpoint = read_checkpoint(path)
    with damage_named(path):
        return _facts(path, checkpoint)


def _facts(path: Path, checkpoint: dict[str, Any]) -> dict[str, Any]:
    from mmtrain.models.run_folder import describe

    trained = {name: each for name, each in checkpoint["state_dict"].items() if name.startswith(("model.", "head."))}
    return {
        "file": str(path),
        "bytes": path.stat().st_size,
        "step": checkpoint["global_step"],
        "samples seen": checkpoint["samples_seen"],
        "parameters": sum(tensor.numel() for tensor in trained.values()),
        "loss parameters": _loss_parameters(checkpoint["state_dict"]),
        "optimiser": f"moments of {len(checkpoint['optimizer_states'][0]['state'])} tensors",
        "average of weights": "yes" if checkpoint.get("averaging_state") else "no",
        "data": _data(checkpoint),
        "processes": checkpoint["mmtrain"]["world_size"],
        "wandb run": checkpoint["mmtrain"]["wandb"],
        "best so far": checkpoint["callbacks"]["Checkpoint"]["best"],
        "versions": checkpoint["mmtrain"]["versions"],
    } | _summary(describe(checkpoint, str(path)))


def _loss_parameters(state: dict[str, Any]) -> dict[str, float]:
    """Of the objectives; a multiplier is stored as its logarithm, and shown as it multiplies the cosines."""
    return {
        name.removeprefix("objectives.").replace("log_scale", "scale"): round(
            float(value.exp() if name.endswith("log_scale") else value), 4
        )
        for name, value in state.items()
        if name.startswith("objectives.") and value.numel() == 1
    }


def _data(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The place in the data that training goes on from, and which shards those are."""
    state = next((part for part in checkpoint.values() if isinstance(part, dict) and "cursor" in part), None)
    if state is None:
        return {}
    cursor = {name: state["cursor"][name] for name in ("position", "epoch")}
    shards = {  # "samples" and "shards", or those of each part, "pictures: samples"
        name.replace("samples", "samples an epoch"): value
        for name, value in state["data"].items()
        if name.rpartition(": ")[2] in ("samples", "shards")
    }
    return cursor | shards


def _summary(description: dict[str, Any]) -> dict[str, Any]:
    model = description["model"]["init_args"]
    facts = {
        "image tower": model["image"],
        "text tower": model["text"],
        "dimension": model["dimension"],
        "tokenizer": description.get("tokenizer"),
        "images": description.get("images"),
        "languages": description["languages"],
    }
    head = (description.get("head") or {}).get("init_args")
    if head is None:
        return facts
    tasks = {task: f"({', '.join(names)})" for task, names in head.get("names", {}).items()}
    return facts | ({"tasks": tasks} if tasks else {}) | {"fusion": head["fusion"]}
