"""A folder for transformers' own dual encoder: a timm image tower and a text tower that is read at one token."""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TimmWrapperConfig, VisionTextDualEncoderConfig, VisionTextDualEncoderModel

from datamodules.images import ImagePipeline
from datamodules.tokenizers.tokenizer import TransformersTokenizer
from mmtrain.export.formats import SCALE, Dual, Writer, matrix, towers
from mmtrain.models.encoder import Encoder
from mmtrain.models.loading import load
from mmtrain.towers import TimmTower

# The model's pooler is tanh(W x). W is this number times the identity, and the projection behind it is divided by it:
# tanh(y) is y up to y^3 / 3, so the rows are those of the token itself up to 1e-6. A power of two rounds nothing.
SMALL = 2.0**-12


def write(encoder: Encoder, folder: Path) -> None:
    """Writes the folder. Raises ValueError for towers that transformers has no dual encoder for."""
    model, image, text, images, tokenizer = check(encoder)
    width = model.dimension
    config = VisionTextDualEncoderConfig(
        vision_config=vision_config(image).to_dict(), text_config=text.network.config.to_dict(), projection_dim=width
    )
    dual = VisionTextDualEncoderModel(config).eval()
    fill(dual.vision_model.timm_model, image.network)
    fill(dual.text_model, text.network)
    pooler = dual.text_model.pooler
    with torch.no_grad():
        pooler.dense.weight.copy_(SMALL * torch.eye(text.width))
        pooler.dense.bias.zero_()
        dual.visual_projection.weight.copy_(matrix(model.image_projection, width))
        dual.text_projection.weight.copy_(matrix(model.text_projection, width) / SMALL)
        dual.logit_scale.fill_(torch.tensor(encoder.scale or SCALE).log())
    dual.config.logit_bias = encoder.bias  # the class has no parameter for it
    # where AutoImageProcessor looks for a timm model's transforms
    dual.config.image_processor_type = "TimmWrapperImageProcessor"
    dual.config.architecture, dual.config.pretrained_cfg = image.name, preprocessing(images, image)
    dual.save_pretrained(folder)
    tokenizer.tokenizer.model_max_length = tokenizer.max_length
    tokenizer.save(folder)


def check(encoder: Encoder) -> Dual:
    prefix = "--format transformers: "
    model, image, text, images = towers(encoder, prefix)
    if image.pooling != "timm":
        raise ValueError(f"{prefix}image pooling is {image.pooling}; it has timm's own")
    if text.pooling != "cls":
        raise ValueError(
            f"{prefix}its dual encoder reads the first token, this text tower pools by {text.pooling}; use open_clip"
            " or onnx"
        )
    if model.projection == "mlp":
        raise ValueError(f"{prefix}its projections are linear, this model's are mlp; use safetensors or onnx")
    tokenizer = encoder.tokenizer
    if not isinstance(tokenizer, TransformersTokenizer) or tokenizer.lowercase or tokenizer.attend_padding:
        raise ValueError(f"{prefix}its tokenizers neither lower-case nor attend to padding, as this model's does")
    return model, image, text, images, tokenizer


def vision_config(image: TimmTower) -> TimmWrapperConfig:
    """What transformers builds the tower's network from."""
    settings: dict[str, Any] = {"hidden_size": image.width, "num_features": image.width}
    config = TimmWrapperConfig(architecture=image.name, num_labels=0, **settings)
    config.model_args = dict(image.options) | ({"img_size": image.image_size} if image.image_size else {})
    return config


def fill(theirs: nn.Module, ours: nn.Module) -> None:
    """Gives their network our weights. Raises ValueError where the two do not have the same, but for the pooler's."""
    missing, unexpected = theirs.load_state_dict(ours.state_dict(), strict=False)
    missing = [name for name in missing if not name.startswith("pooler.dense.")]
    if missing or unexpected or getattr(theirs, "pooler", True) is None:
        name = [*missing, *unexpected, "the pooler"][0]
        raise ValueError(f"--format: {type(theirs).__name__} of transformers and this tower differ in {name}")


def preprocessing(images: ImagePipeline, tower: TimmTower) -> dict[str, Any]:
    """timm's settings: its transforms are equal to ours; transformers' cut the centre a pixel apart at an odd side."""
    return {
        "input_size": [3, images.size, images.size],
        "crop_pct": 1.0,
        "crop_mode": "squash" if images.resize == "squash" else "center",
        "interpolation": images.interpolation,
        "mean": tower.mean.flatten().tolist(),
        "std": tower.deviation.flatten().tolist(),
    }


WRITER = Writer(write, load)
