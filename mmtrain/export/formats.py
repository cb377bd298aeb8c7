"""What the formats share: the interface, the preprocessing, and the pair of towers that other libraries hold."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from datamodules.images import ImagePipeline
from datamodules.tokenizers.tokenizer import TransformersTokenizer
from mmtrain.export.parity import Encodes, EncodesMany
from mmtrain.models.description import FORMAT
from mmtrain.models.encoder import Encoder
from mmtrain.models.image_text import ImageTextModel
from mmtrain.models.spec import spec_of
from mmtrain.models.tokenizer_files import ARGUMENTS
from mmtrain.towers import TimmTower, TransformersTower

# the inverse temperature where the model's own is not known (CLIP, Radford et al. 2021, section 2.5)
SCALE = 1 / 0.07
Dual = tuple[ImageTextModel, TimmTower, TransformersTower, ImagePipeline, TransformersTokenizer]


@dataclass(frozen=True)
class Writer:
    """One format.

    Attributes:
        write: Fills an empty folder; raises ValueError for towers that the format cannot hold.
        read: Loads the folder with the format's own library.
        cleaned: What that library does to a caption before its tokenizer.
        place: Sets the paths of the folder's final place, for formats that hold paths.
        write_int8: Adds 8-bit weights and prints the recall that they cost on SHARDS.
        multi: Whether it holds token rows, which are compared where the model has any.
        dense: Whether it holds the rows of the shared space.
    """

    write: Callable[[Encoder, Path], None]
    read: Callable[[Path], Encodes | EncodesMany]
    cleaned: Callable[[Encoder, str], str] | None = None
    place: Callable[[Path, Path], None] | None = None
    write_int8: Callable[[Encoder, Path, str], None] | None = None
    multi: bool = False
    dense: bool = True


def describe_preprocessing(encoder: Encoder, folder: Path) -> dict[str, Any]:
    """Saves the tokenizer into `folder`/tokenizer; returns the fields that `mmtrain.load` builds preprocessing from."""
    encoder.tokenizer.save(folder / "tokenizer")
    tokenizer = spec_of(encoder.tokenizer)
    places = {name: f"./{Path('tokenizer', place)}" for name, place in ARGUMENTS.items()}
    tokenizer["init_args"] |= {name: place for name, place in places.items() if name in tokenizer["init_args"]}
    return {
        "format": FORMAT,
        "languages": encoder.languages,
        "similarity": encoder.metric,
        "scale": encoder.scale,
        "bias": encoder.bias,
        "prompts": dict(encoder.model.prompts),
        "tokenizer": tokenizer,
        "images": spec_of(encoder.images) if encoder.images is not None else None,
    }


def towers(encoder: Encoder, prefix: str) -> tuple[ImageTextModel, TimmTower, TransformersTower, ImagePipeline]:
    """The model, its timm and transformers towers and its image pipeline.

    Raises ValueError, beginning with `prefix`, for other towers.
    """
    model, images = encoder.model, encoder.images
    image, text = (getattr(model, side, None) for side in ("image", "text"))
    if not isinstance(image, TimmTower) or not isinstance(text, TransformersTower):
        names = " and ".join(type(tower).__name__ for tower in (image, text))
        raise ValueError(f"{prefix}it has timm and transformers towers, not {names}; use safetensors or onnx")
    assert isinstance(model, ImageTextModel) and images is not None
    return model, image, text, images


def matrix(projection: nn.Module | None, width: int) -> Tensor:
    """The matrix [width, W] of a linear projection; of none, the identity, which changes no bit."""
    return projection.weight if isinstance(projection, nn.Linear) else torch.eye(width)
