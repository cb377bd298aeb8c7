"""`mmtrain.load`: any trained or exported model as an object that encodes images and captions."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from datamodules.images import ImagePipeline
from datamodules.tokenizers import Tokenizer
from mmtrain.display.messages import first_line
from mmtrain.fusion import MatchingHead, RelationHead
from mmtrain.models.description import DESCRIPTION, PREPROCESSING, WEIGHTS, upgraded
from mmtrain.models.encoder import Encoder
from mmtrain.models.foreign import is_foreign, load_foreign
from mmtrain.models.image_text import ImageTextModel
from mmtrain.models.run_folder import describe, read_checkpoint, resolve_run
from mmtrain.models.spec import build
from mmtrain.models.tokenizer_files import make_tokenizer
from mmtrain.models.weights import first_difference, shape_of

if TYPE_CHECKING:
    from mmtrain.evaluation.ranking.tiles import Similarity


def load(
    model: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    text_only: bool = False,
) -> Encoder:
    """The encoder of MODEL: a run folder (its best checkpoint, else its last), a checkpoint, an exported folder, or
    another library's model (`open_clip:NAME-OR-FOLDER`, `hf:NAME-OR-FOLDER`).

    Args:
        model: MODEL.
        device: Where the networks run.
        dtype: What they compute in, e.g. torch.bfloat16; rows are float32 in any case.
        text_only: Leave out the image tower of a model of ours, which loads faster.

    Raises:
        ValueError: for anything else, or a model that cannot be loaded.
    """
    path = Path(model)
    if is_foreign(str(model)):
        encoder = load_foreign(str(model))
    elif (path / DESCRIPTION).is_file():
        encoder = assemble(*_read_export(path), source=str(model), text_only=text_only)
    elif (path / PREPROCESSING).is_file():
        encoder = load_onnx(path)
    elif (path / "open_clip_config.json").is_file():
        encoder = load_foreign(f"open_clip:{path}")
    elif (path / "config.json").is_file():
        encoder = load_foreign(f"hf:{path}")
    elif path.is_dir() or path.is_file():
        checkpoint = read_checkpoint(resolve_run(path) if path.is_dir() else path)
        description, state = describe(checkpoint), checkpoint["state_dict"]
        head = with_prefix(state, description["head_weights"]) if description.get("head") else {}
        encoder = assemble(description, with_prefix(state, "model."), head, source=str(model), text_only=text_only)
    else:
        raise ValueError(f"MODEL: {model} is no run folder, checkpoint or exported folder")
    encoder.dtype = dtype
    return encoder.to(device)


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
    """The encoder of a description, which the checkpoint callback writes, and of its weights.

    Raises ValueError when the weights do not fit the description, naming the first parameter that does not.
    """
    description = upgraded(description, source)
    model = description["model"]
    if text_only and model["init_args"]["text"] != "shared":
        model = model | {"init_args": model["init_args"] | {"image": None, "modalities": {}}}
        weights = {name: tensor for name, tensor in weights.items() if name.startswith(("text.", "text_projection."))}
    network = build(model, ImageTextModel)
    fill(network, weights, source)
    network.merge_lora()
    encoder = Encoder(network, *preprocessing(description), source, scale=description.get("scale"))
    if head and not text_only:
        fusion_head = build(description["head"], nn.Module)
        assert isinstance(fusion_head, RelationHead | MatchingHead)
        fill(fusion_head, head, source)
        encoder.head = fusion_head.eval().requires_grad_(False)
    return encoder


def fill(network: nn.Module, weights: dict[str, Tensor], source: str) -> None:
    """Loads weights that must fit. Raises ValueError naming the first parameter that does not."""
    ours = network.state_dict()
    if name := first_difference(ours, weights):
        raise ValueError(
            f"{source}: weights do not fit: {name} is {shape_of(name, weights)} in the file, {shape_of(name, ours)} in"
            " the model"
        )
    network.load_state_dict(weights)


def load_onnx(folder: Path, *, int8: bool = False) -> Encoder:
    """The encoder of an export to ONNX. Raises ValueError when the folder is not complete."""
    from mmtrain.models.onnx_graphs import OnnxModel

    description = _read_description(folder, PREPROCESSING)
    network = OnnxModel(folder, description["dimension"], int8)
    return Encoder(network, *preprocessing(description), str(folder), scale=description["scale"])


def preprocessing(description: dict[str, Any]) -> tuple[Tokenizer, ImagePipeline | None, list[str], "Similarity"]:
    """Tokenizer, image pipeline (None for features), languages and similarity."""
    images = build(description["images"], ImagePipeline) if description.get("images") else None
    tokenizer = make_tokenizer(description["tokenizer"], description.get("tokenizer_files", {}))
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
    # the tokenizer's files lie inside the folder
    for key, value in tokenizer.items():
        if isinstance(value, str) and value.startswith("./"):
            tokenizer[key] = str(folder / value[2:])
    return description
