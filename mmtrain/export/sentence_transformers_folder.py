"""A folder for sentence-transformers: texts and pictures by a route each, of its own modules, and the prompts."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    Dense,
    LayerNorm,
    Normalize,
    Pooling,
    Router,
    Transformer,
)
from torch import Tensor, nn
from transformers import TimmWrapperModel

from datamodules.tokenizers.tokenizer import TransformersTokenizer
from mmtrain.export.formats import Dual, Writer, matrix, towers
from mmtrain.export.transformers_folder import fill, preprocessing, vision_config
from mmtrain.models.encoder import Encoder
from mmtrain.models.image_text import ImageTextModel
from mmtrain.towers import TimmTower
from mmtrain.towers.transformers_weights import quiet

# our pooling -> theirs
POOLINGS = {"cls": "cls", "mean": "mean", "max": "max", "last": "lasttoken"}
PREFIX = "--format sentence_transformers: "


class Modules:
    """The folder read by the library."""

    def __init__(self, folder: Path) -> None:
        with quiet():
            self._model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)

    def encode_image(self, images: Sequence[Image.Image] | np.ndarray, /) -> np.ndarray:
        return self._model.encode(list(images), show_progress_bar=False)

    def encode_text(self, captions: Sequence[str], language: str, /) -> np.ndarray:
        return self._model.encode(list(captions), modality="text", show_progress_bar=False)


def write(encoder: Encoder, folder: Path) -> None:
    """Writes the folder. Raises ValueError for towers that the library has no modules for."""
    model, image, text, images, tokenizer = check(encoder)
    with TemporaryDirectory() as parts, quiet():
        text.network.save_pretrained(Path(parts, "text"))
        tokenizer.save(Path(parts, "text"))
        wrapper = TimmWrapperModel(vision_config(image))
        fill(wrapper.timm_model, image.network)
        wrapper.config.image_processor_type = "TimmWrapperImageProcessor"
        wrapper.config.pretrained_cfg = preprocessing(images, image)
        wrapper.save_pretrained(Path(parts, "image"))
        routes = {
            "text": [_text(Path(parts, "text"), tokenizer, text.network), Pooling(text.width, POOLINGS[text.pooling])],
            "image": _image(Path(parts, "image"), image),
        }
        routes["text"] += _projection(model, "text", model.text_projection, text.width)
        routes["image"] += _projection(model, "image", model.image_projection, image.width)
        router = Router(routes, route_mappings={(None, side): side for side in routes})
        norm = [LayerNorm(model.dimension)] if model.layer_norm else []
        prompts = dict(model.prompts)
        if "passage" in prompts:
            prompts["document"] = prompts["passage"]  # encode_document looks there first
        SentenceTransformer(
            modules=[router, *norm, Normalize()], prompts=prompts, similarity_fn_name="cosine", device="cpu"
        ).save(str(folder), create_model_card=False)


def check(encoder: Encoder) -> Dual:
    model, image, text, images = towers(encoder, PREFIX)
    for side, pooling, has in (("image", image.pooling, {"timm", *POOLINGS}), ("text", text.pooling, POOLINGS)):
        if pooling not in has:
            raise ValueError(
                f"{PREFIX}{side} pooling is {pooling}, it has {', '.join(POOLINGS)}; use safetensors or onnx"
            )
    tokenizer = encoder.tokenizer
    if not isinstance(tokenizer, TransformersTokenizer):
        raise ValueError(f"{PREFIX}it has tokenizers of transformers, not {type(tokenizer).__name__}; use onnx")
    if getattr(tokenizer.tokenizer, "src_lang", None) is not None:
        raise ValueError(f"{PREFIX}its tokenizers know no language, this one marks it by a token; use safetensors")
    if encoder.metric != "cosine":
        raise ValueError(f"{PREFIX}it scores by cosine, this model by {encoder.metric} similarity; use safetensors")
    return model, image, text, images, tokenizer


def _text(folder: Path, tokenizer: TransformersTokenizer, network: nn.Module) -> Transformer:
    called: Any = None
    if tokenizer.attend_padding:  # without a mask all is read
        called = {"text": {"padding": "max_length", "return_attention_mask": False}}
    module = Transformer(
        str(folder),
        processor_kwargs={"model_max_length": tokenizer.max_length, "padding_side": "right"},
        processing_kwargs=called,
        do_lower_case=tokenizer.lowercase,
    )
    ours = network.state_dict()
    with torch.no_grad():
        for name, weight in module.model.named_parameters():
            if name not in ours:  # a pooler, which nobody reads, drawn at random
                weight.zero_()
    return module


def _image(folder: Path, image: TimmTower) -> list[nn.Module]:
    output, name = ("pooler_output", "sentence_embedding")
    if image.pooling != "timm":
        output, name = ("last_hidden_state", "token_embeddings")
    parameters: Any = {"image": {"method": "forward", "method_output_name": output}}
    module = Transformer(str(folder), modality_config=parameters, module_output_name=name)
    return [module] if image.pooling == "timm" else [module, Pooling(image.width, POOLINGS[image.pooling])]


def _projection(model: ImageTextModel, side: str, projection: nn.Module | None, width: int) -> list[nn.Module]:
    """The projection of a side as layers, the vector that marks an input as observed among their biases."""
    observed = model.observed[side] if side in model.missing else None
    if isinstance(projection, nn.Sequential):
        first, activation, last = projection
        return [_dense(first.weight, first.bias, activation), _dense(last.weight, _sum(last.bias, observed))]
    if isinstance(projection, nn.Identity) and observed is None:
        return []
    return [_dense(matrix(projection, width), observed)]


def _sum(bias: Tensor, observed: Tensor | None) -> Tensor:
    return bias if observed is None else bias + observed


def _dense(weight: Tensor, bias: Tensor | None, activation: nn.Module | None = None) -> Dense:
    width, features = weight.shape
    layer = Dense(features, width, bias is not None, activation, weight.clone(), None if bias is None else bias.clone())
    return layer.requires_grad_(False)


WRITER = Writer(write, Modules)
