"""`mmtrain.load`: any trained or exported model as an object that encodes pictures and captions."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from datamodules.tokenizers import Tokenizer
from mmtrain.display.messages import first_line
from mmtrain.fusion import MatchingHead, RelationHead
from mmtrain.models.description import DESCRIPTION, PREPROCESSING, WEIGHTS, upgraded
from mmtrain.models.encoder import Encoder
from mmtrain.models.foreign import is_foreign, load_foreign
from mmtrain.models.image_text import ImageTextModel
from mmtrain.models.run_folder import describe, read_checkpoint, resolve_run
from mmtrain.models.spec import build

if TYPE_CHECKING:
    from datamodules.images import ImagePipeline
    from mmtrain.evaluation.ranking.tiles import Similarity


def load(
    model: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    text_only: bool = False,
) -> Encoder:
    """Loads MODEL: a run folder (its best checkpoint, else its last), a checkpoint, an exported folder, or somebody
    else's model (`open_clip:NAME-OR-FOLDER`, `hf:NAME-OR-FOLDER`).

    Args:
        model: MODEL.
        device: Where the networks run.
        dtype: What they compute in, e.g. torch.bfloat16; rows are float32 in any case.
        text_only: Leave out the image tower of a model of ours: quicker, for whoever encodes texts alone.

    Raises:
        ValueError: for anything else, with what was there.
    """
    encoder = _load(model, text_only).to(device)
    encoder.dtype = dtype
    return encoder


def _load(model: str | Path, text_only: bool) -> Encoder:
    if is_foreign(str(model)):
        return load_foreign(str(model))
    path = Path(model)
    head: dict[str, Tensor] = {}
    if (path / DESCRIPTION).is_file():
        description, weights = _read_export(path)
    elif (path / PREPROCESSING).is_file():
        return load_onnx(path)
    elif (path / "open_clip_config.json").is_file():
        return load_foreign(f"open_clip:{path}")
    elif (path / "config.json").is_file():
        return load_foreign(f"hf:{path}")
    elif path.is_dir() or path.is_file():
        checkpoint = read_checkpoint(resolve_run(path) if path.is_dir() else path)
        description, state = describe(checkpoint), checkpoint["state_dict"]
        weights = with_prefix(state, "model.")
        head = with_prefix(state, description["head_weights"]) if description.get("head") else {}
    else:
        raise ValueError(f"MODEL: {model} is no run folder, checkpoint or exported folder")
    return assemble(description, weights, head, source=str(model), text_only=text_only)


def with_prefix(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with the prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def assemble(
    description: dict[str, Any],
    weights: dict[str, Tensor],
    head: dict[str, Tensor] | None = None,
    *,
    source: str,
    text_only: bool = False,
) -> Encoder:
    """The encoder that a description (the checkpoint callback writes it) and weights make.

    Raises:
        ValueError: when the weights do not fit the description, naming the first parameter that does not.
    """
    description = upgraded(description, source)
    model = description["model"]
    if text_only and model["init_args"]["text"] != "shared":
        model = model | {"init_args": model["init_args"] | {"image": None, "modalities": {}}}
        weights = {name: tensor for name, tensor in weights.items() if name.startswith(("text.", "text_projection."))}
    network = build(model, ImageTextModel)
    fill(network, weights, source)
    network.merge_lora()
    behind: RelationHead | MatchingHead | None = None
    if head and not text_only:
        made = build(description["head"], nn.Module)
        fill(made, head, source)
        assert isinstance(made, (RelationHead, MatchingHead))
        behind = made
    return Encoder(network, *preprocessing(description), source, scale=description.get("scale"), head=behind)


def fill(network: nn.Module, weights: dict[str, Tensor], source: str) -> None:
    """Loads weights that must fit. Raises ValueError naming the first parameter that does not."""
    expected = network.state_dict()
    for name in [*expected, *weights]:
        if name not in weights or name not in expected or weights[name].shape != expected[name].shape:
            ours = list(expected[name].shape) if name in expected else "nothing of that name"
            theirs = list(weights[name].shape) if name in weights else "nothing of that name"
            raise ValueError(f"{source}: weights do not fit: {name} is {theirs} in the file, {ours} in the model")
    network.load_state_dict(weights)


def load_onnx(folder: Path, *, int8: bool = False) -> Encoder:
    """The encoder whose networks are the graphs of an export to ONNX.

    Raises:
        ValueError: when the folder is not complete.
    """
    from mmtrain.models.onnx_graphs import OnnxModel

    description = _read_description(folder, PREPROCESSING)
    network = OnnxModel(folder, description["dimension"], int8)
    return Encoder(network, *preprocessing(description), str(folder), scale=description["scale"])


def preprocessing(description: dict[str, Any]) -> tuple[Tokenizer, "ImagePipeline | None", list[str], "Similarity"]:
    """Tokenizer, pictures to pixels (None for features), languages and similarity."""
    images = None
    if description.get("images"):
        from datamodules.images import ImagePipeline

        images = build(description["images"], ImagePipeline)
    tokenizer = build(description["tokenizer"], Tokenizer)  # type: ignore[type-abstract]
    return tokenizer, images, description["languages"], description["similarity"]


def _read_export(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{folder}: not a complete export ({first_line(error)})") from error
    return _read_description(folder, DESCRIPTION), weights


def _read_description(folder: Path, name: str) -> dict[str, Any]:
    try:
        description = json.loads((folder / name).read_text(encoding="utf-8"))
        tokenizer = description["tokenizer"]["init_args"]
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{folder}: {name} cannot be read ({first_line(error)})") from error
    # files of the tokenizer travel inside the folder
    for key, value in tokenizer.items():
        if isinstance(value, str) and value.startswith("./"):
            tokenizer[key] = str(folder / value[2:])
    return description
