"""A folder for open_clip: its config, weights under its names, and the tokenizer's files."""

import json
import logging
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.tokenizer import get_clean_fn
from safetensors.torch import save_file

from datamodules.tokenizers.tokenizer import TransformersTokenizer
from mmtrain.export.formats import SCALE, Dual, Writer, matrix, towers
from mmtrain.models.encoder import Encoder
from mmtrain.models.image_text import ImageTextModel
from mmtrain.models.loading import load, with_prefix

# our pooling -> open_clip's pooler
POOLERS = {"mean": "mean_pooler", "cls": "cls_last_hidden_state_pooler"}


def write(encoder: Encoder, folder: Path) -> None:
    """Writes the folder. Raises ValueError for towers that open_clip has no names for."""
    model, image, text, images, tokenizer = check(encoder)
    settings: dict[str, Any] = {
        "embed_dim": model.dimension,
        "custom_text": True,
        "vision_cfg": {
            "image_size": images.size,
            "timm_model_name": image.name,
            "timm_model_pretrained": False,
            "timm_pool": "",
            "timm_proj": "linear",
        },
        "text_cfg": {
            "context_length": tokenizer.max_length,
            "vocab_size": text.vocabulary_size,
            "hf_model_name": str(folder.resolve()),
            "hf_model_pretrained": False,
            "hf_tokenizer_name": str(folder.resolve()),
            "hf_pooler_type": POOLERS[text.pooling],
            "hf_proj_type": "linear",
            "tokenizer_kwargs": {"clean": "lower"} if tokenizer.lowercase else {},
        },
    }
    if encoder.bias is not None:
        settings["init_logit_bias"] = encoder.bias
    preprocessing = {
        "size": images.size,
        "mode": "RGB",
        "mean": image.mean.flatten().tolist(),
        "std": image.deviation.flatten().tolist(),
        "interpolation": images.interpolation,
        "resize_mode": images.resize,
    }
    tokenizer.save(folder)
    text.network.config.save_pretrained(folder)
    _write_config({"model_cfg": settings, "preprocess_cfg": preprocessing}, folder)
    save_file(_weights(encoder), folder / "open_clip_model.safetensors", metadata={"format": "pt"})


def place(folder: Path, target: Path) -> None:
    """Sets the paths that the folder will have at `target`; open_clip's are not relative to the folder."""
    config = json.loads((folder / "open_clip_config.json").read_text(encoding="utf-8"))
    for field in ("hf_model_name", "hf_tokenizer_name"):
        config["model_cfg"]["text_cfg"][field] = str(target.resolve())
    _write_config(config, folder)


def check(encoder: Encoder) -> Dual:
    prefix = "--format open_clip: "
    model, image, text, images = towers(encoder, prefix)
    if image.pooling != "timm" or image.image_size is not None or image.options:
        raise ValueError(
            f"{prefix}it builds timm models by name alone; this tower has pooling {image.pooling}, image_size"
            f" {image.image_size}, options {image.options or 'none'}"
        )
    if text.pooling not in POOLERS:
        raise ValueError(f"{prefix}text pooling is {text.pooling}, it has {' and '.join(POOLERS)}")
    if model.projection == "mlp":
        raise ValueError(f"{prefix}its MLP has another form than projection mlp; linear and none can be written")
    tokenizer = encoder.tokenizer
    if not isinstance(tokenizer, TransformersTokenizer) or tokenizer.attend_padding:
        raise ValueError(f"{prefix}it masks padding of a transformers tokenizer; this is {type(tokenizer).__name__}")
    if images.interpolation not in ("bilinear", "bicubic"):
        raise ValueError(f"{prefix}images.interpolation is {images.interpolation}, it has bilinear, bicubic")
    return model, image, text, images, tokenizer


def _weights(encoder: Encoder) -> dict[str, torch.Tensor]:
    model = encoder.model
    assert isinstance(model, ImageTextModel)
    state = model.state_dict()
    weights = {f"visual.trunk.{name}": value for name, value in with_prefix(state, "image.network.").items()}
    weights |= {f"text.transformer.{name}": value for name, value in with_prefix(state, "text.network.").items()}
    # without a projection timm's pooling would be left out
    weights["visual.head.proj.weight"] = matrix(model.image_projection, model.dimension)
    weights["text.proj.weight"] = matrix(model.text_projection, model.dimension)
    weights["logit_scale"] = torch.tensor(encoder.scale or SCALE).log()
    if encoder.bias is not None:
        weights["logit_bias"] = torch.tensor(encoder.bias)
    return {name: value.detach().contiguous().clone() for name, value in weights.items()}


def _write_config(config: dict[str, Any], folder: Path) -> None:
    (folder / "open_clip_config.json").write_text(json.dumps(config, ensure_ascii=False, indent=2), encoding="utf-8")


def cleaned(encoder: Encoder, caption: str) -> str:
    """A caption as open_clip's tokenizers clean it: Unicode and HTML repaired, blanks joined, perhaps lower case."""
    lower = isinstance(encoder.tokenizer, TransformersTokenizer) and encoder.tokenizer.lowercase
    return get_clean_fn("lower" if lower else "whitespace")(caption)


def read(folder: Path) -> Encoder:
    # it warns of its defaults
    logging.getLogger(open_clip.__name__).setLevel(logging.ERROR)
    return load(f"open_clip:{folder}")


WRITER = Writer(write, read, cleaned=cleaned, place=place)
