"""`mmtrain.load`: any trained or exported model as an object that encodes pictures and captions."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datamodules.images import ImagePipeline
from datamodules.tokenizers import Tokenizer
from mmtrain.encoder import Encoder
from mmtrain.model import ImageTextModel
from mmtrain.spec import build
from mmtrain.towers import ImageTower, TextTower

DESCRIPTION = "mmtrain.json"
WEIGHTS = "model.safetensors"
PREPROCESSING = "preprocessing.json"  # beside ONNX graphs


def load(model: str | Path, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> Encoder:
    """Loads MODEL: a run folder (its best checkpoint, else its last), a checkpoint, an exported folder, or somebody
    else's model (`open_clip:NAME-OR-FOLDER`, `hf:NAME-OR-FOLDER`).

    Args:
        device: Where the networks run.
        dtype: What they compute in, e.g. torch.bfloat16; rows are float32 in any case.

    Raises:
        ValueError: for anything else, with what was found there.
    """
    encoder = _load(model).to(device)
    encoder.dtype = dtype
    return encoder


def _load(model: str | Path) -> Encoder:
    from mmtrain.foreign import is_foreign, load_foreign

    if is_foreign(str(model)):
        return load_foreign(str(model))
    path = Path(model)
    if (path / DESCRIPTION).is_file():
        description, weights = _read_export(path)
    elif (path / PREPROCESSING).is_file():
        return load_onnx(path)
    elif (path / "open_clip_config.json").is_file():
        return load_foreign(f"open_clip:{path}")
    elif (path / "config.json").is_file():
        return load_foreign(f"hf:{path}")
    elif path.is_dir() or path.is_file():
        from mmtrain.checkpoints import describe, read_checkpoint, resolve_run

        checkpoint = read_checkpoint(resolve_run(path) if path.is_dir() else path)
        description = describe(checkpoint)
        weights = {
            name.removeprefix("model."): tensor
            for name, tensor in checkpoint["state_dict"].items()
            if name.startswith("model.")
        }
        scales = [value for name, value in checkpoint["state_dict"].items() if name.endswith("log_scale")]
        description["scale"] = float(scales[0].exp()) if scales else None
    else:
        raise ValueError(f"MODEL: {model} is no run folder, checkpoint or exported folder")
    return assemble(description, weights, source=str(model))


def assemble(description: dict[str, Any], weights: dict[str, Tensor], *, source: str) -> Encoder:
    """The encoder that `description` (Checkpoint writes it) and `weights` make.

    Raises:
        ValueError: when the weights do not fit the description, naming the first parameter that does not.
    """
    parts = description["model"]
    network = ImageTextModel(
        build(parts["image"], ImageTower), build(parts["text"], TextTower), parts["dimension"], parts["projection"]
    )
    lora = parts.get("lora")
    if lora:
        from mmtrain.adaptation import add_lora, merge_lora

        add_lora(network, lora)
    expected = network.state_dict()
    for name in [*expected, *weights]:
        if name not in weights or name not in expected or weights[name].shape != expected[name].shape:
            ours = list(expected[name].shape) if name in expected else "nothing of that name"
            theirs = list(weights[name].shape) if name in weights else "nothing of that name"
            raise ValueError(f"{source}: weights do not fit: {name} is {theirs} in the file, {ours} in the model")
    network.load_state_dict(weights)
    if lora:
        merge_lora(network)
    tokenizer = build(description["tokenizer"], Tokenizer)
    images = build(description["images"], ImagePipeline) if description.get("images") else None
    languages, metric = description["languages"], description["similarity"]
    return Encoder(network, tokenizer, images, languages, metric, source, description.get("scale"))


def load_onnx(folder: Path, *, int8: bool = False) -> Encoder:
    """The encoder whose networks are the graphs of an export to ONNX.

    Raises:
        ValueError: when the folder is not complete.
    """
    from mmtrain.onnx_model import OnnxModel

    description = _read_description(folder, PREPROCESSING)
    tokenizer = build(description["tokenizer"], Tokenizer)
    images = build(description["images"], ImagePipeline) if description["images"] else None
    network = OnnxModel(folder, description["dimension"], int8)
    languages, metric = description["languages"], description["similarity"]
    return Encoder(network, tokenizer, images, languages, metric, str(folder), description["scale"])


def _read_export(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{folder}: not a complete export ({str(error).splitlines()[0]})") from error
    return _read_description(folder, DESCRIPTION), weights


def _read_description(folder: Path, name: str) -> dict[str, Any]:
    try:
        description = json.loads((folder / name).read_text(encoding="utf-8"))
        tokenizer = description["tokenizer"]["init_args"]
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{folder}: {name} cannot be read ({str(error).splitlines()[0]})") from error
    # files of the tokenizer travel inside the folder
    for key, value in tokenizer.items():
        if isinstance(value, str) and value.startswith("./"):
            tokenizer[key] = str(folder / value[2:])
    return description
