"""A folder for sentence-transformers' MultiVectorEncoder: token rows of texts and pictures, by a route each."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.base.modules import Dense, Normalize, Router, Transformer
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
from torch import nn

from datamodules.images import ImagePipeline
from mmtrain.export.formats import Writer
from mmtrain.export.sentence_transformers_folder import check_towers, image_module, prompts, text_module
from mmtrain.models.encoder import Encoder
from mmtrain.models.network import NO_HEAD
from mmtrain.towers import TimmTower
from mmtrain.towers.transformers_weights import quiet

PREFIX = "--format multi_vector: "
TOKENS, MASK = "token_embeddings", "attention_mask"  # the library's names
UNREAD = "special_tokens_mask"  # what the library does not hand on to a picture's network


class Modules:
    """The folder read by the library."""

    def __init__(self, folder: Path) -> None:
        with quiet():
            self._model = MultiVectorEncoder(str(folder), device="cpu", local_files_only=True)

    def encode_image(self, images: Sequence[Image.Image] | np.ndarray, /, *, multi: bool) -> Sequence[np.ndarray]:
        return list(self._model.encode(list(images), show_progress_bar=False, convert_to_numpy=True))

    def encode_text(self, captions: Sequence[str], language: str, /, *, multi: bool) -> Sequence[np.ndarray]:
        texts: Any = list(captions)
        return list(self._model.encode(texts, show_progress_bar=False, convert_to_numpy=True, modality="text"))


def write(encoder: Encoder, folder: Path) -> None:
    """Writes the folder. Raises ValueError for towers without token rows, or that the library has no modules for."""
    model, image, text, images, tokenizer = check_towers(encoder, PREFIX)
    if model.multi_dimension is None:
        raise ValueError(f"{PREFIX}{NO_HEAD}")
    if image.prefix_tokens is None:
        raise ValueError(f"{PREFIX}it reads the tokens of vision transformers, not of {image.name}; use safetensors")
    if tokenizer.attend_padding:
        raise ValueError(f"{PREFIX}it leaves out padding, which this tokenizer attends to; use safetensors")
    with TemporaryDirectory(dir=folder.parent) as parts, quiet():
        pictures = image_module(Path(parts), image, images, "last_hidden_state", TOKENS)
        routes = {
            "text": [text_module(Path(parts), text, tokenizer), _dense(model.multi["text"])],
            "image": [
                _patches(Path(parts), image, images),
                pictures,
                _dense(model.multi["image"]),
                Normalize(UNREAD, MASK),  # only which are 0 counts
            ],
        }
        router = Router(routes, route_mappings={(None, side): side for side in routes})
        modules: list[nn.Module] = [router, MultiVectorMask(), Normalize(TOKENS)]
        MultiVectorEncoder(modules=modules, prompts=prompts(model), device="cpu").save(
            str(folder), create_model_card=False
        )


@torch.no_grad()
def _patches(parts: Path, image: TimmTower, images: ImagePipeline) -> Transformer:
    """Which of a picture's tokens are patches, 1, and which stand before them, 0.

    The library takes it from a mask, as texts have one, and has no module that makes one of a picture. This one is a
    vision transformer without blocks, whose class token is normalised to its bias: the mask.
    """
    patch = image.network.patch_embed
    count = image.prefix_tokens + patch.num_patches
    options = {"embed_dim": count, "depth": 0, "num_heads": 1, "patch_size": patch.patch_size[0]}
    mask = TimmTower("vit_tiny_patch16_224", image_size=images.size, options=options)
    norm = mask.network.norm
    norm.weight.zero_()
    norm.bias.fill_(1.0)[: image.prefix_tokens] = 0
    return image_module(parts, mask, images, "pooler_output", UNREAD)


def _dense(head: nn.Module) -> Dense:
    assert isinstance(head, nn.Linear)
    weight = head.weight.detach().clone()
    return Dense(head.in_features, head.out_features, False, nn.Identity(), weight, module_input_name=TOKENS)


WRITER = Writer(write, Modules, multi=True, dense=False)
