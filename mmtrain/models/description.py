"""The description of a model in a checkpoint or an export, of whichever format."""

from typing import Any

DESCRIPTION = "mmtrain.json"  # of an export
WEIGHTS = "model.safetensors"
PREPROCESSING = "preprocessing.json"  # beside ONNX graphs
FORMAT = 2  # 1 had no number


def upgraded(description: dict[str, Any], source: str) -> dict[str, Any]:
    """The description in the newest format.

    "model" describes the networks; "head", where there is one, the network behind the towers, whose weights are those
    of the checkpoint that begin with "head_weights". "objectives" names them in the config's order. Raises ValueError
    when it is of a newer format than this version knows.
    """
    format = description.get("format", 1)
    if format > FORMAT:
        raise ValueError(f"{source}: its description has format {format}, this version of mmtrain reads up to {FORMAT}")
    if format == FORMAT:
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
