"""The description of a model in a checkpoint or an export, of whichever format."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmtrain.display.messages import first_line
from mmtrain.towers.pretrained import read_settings

DESCRIPTION = "mmtrain.json"  # of an export
WEIGHTS = "model.safetensors"
DECODER = "decoder.safetensors"  # beside them where an export keeps its captioner
PREPROCESSING = "preprocessing.json"  # beside ONNX graphs
FORMAT = 2  # 1 had no number


@contextmanager
def damage_named(source: str | Path) -> Iterator[None]:
    """Turns whatever goes wrong with a description into a ValueError, one line that names the file."""
    try:
        yield
    except Exception as error:  # a damaged one may ask for any arguments, of any class
        reason = first_line(error)
        if isinstance(error, ValueError) and str(source) in reason:
            raise
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ValueError(f"{source}: damaged, or no description of a model ({kind}{reason})") from error


def read_description(path: Path) -> dict[str, Any]:
    """A description from a file. Raises ValueError, naming the file, when it is damaged or of a newer format."""
    with damage_named(path):
        return upgraded(read_settings(path), str(path))


def upgraded(description: dict[str, Any], source: str) -> dict[str, Any]:
    """The description in the newest format.

    "model" describes the networks; "head" and "decoder", where there are any, networks behind the towers, whose weights
    are those of the checkpoint that begin with "head_weights" and "decoder_weights". "objectives" names them in the
    config's order. Raises ValueError when it is of a newer format than this version knows.
    """
    format = description.get("format", 1)
    if not isinstance(format, int) or format > FORMAT:
        raise ValueError(
            f"{source}: its description has format {format!r}, this version of mmtrain reads up to {FORMAT}"
        )
    if format == FORMAT:
        return description
    if "model" not in description:  # preprocessing.json
        return description
    parts = dict(description["model"])
    relation, matching = parts.pop("relation", None), parts.pop("matching", None)
    model = {"class_path": "mmtrain.ImageTextModel", "init_args": parts}
    description = description | {"format": FORMAT, "model": model}
    if relation is not None:
        arguments = {"fusion": relation["fusion"], "names": relation["names"], "matches": relation["matching"]}
        head = {"class_path": "mmtrain.fusion.RelationHead", "init_args": arguments}
        return description | {"head": head, "head_weights": "head."}
    if matching is not None:
        head = {"class_path": "mmtrain.fusion.MatchingHead", "init_args": {"fusion": matching["fusion"]}}
        return description | {"head": head, "head_weights": f"{matching['name']}."}
    return description
