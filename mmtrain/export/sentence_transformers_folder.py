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

from datamodules.images import ImagePipeline
from datamodules.tokenizers.tokenizer import TransformersTokenizer
from mmtrain.export.formats import Dual, Writer, matrix, towers
from mmtrain.export.transformers_folder import fill, preprocessing, vision_config
from mmtrain.models.encoder import Encoder
from mmtrain.models.image_text import ImageTextModel
from mmtrain.towers import TimmTower, TransformersTower
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
    with TemporaryDirectory(dir=folder.parent) as parts, quiet():
        routes = {
            "text": [text_module(Path(parts), text, tokenizer), Pooling(text.width, POOLINGS[text.pooling])],
            "image": _image(Path(parts), image, images),
        }
        routes["text"] += _projection(model, "text", model.text_projection, text.width)
        routes["image"] += _projection(model, "image", model.image_projection, image.width)
        router = Router(routes, route_mappings={(None, side): side for side in routes})
        norm = [LayerNorm(model.dimension)] if model.layer_norm else []
        SentenceTransformer(
            modules=[router, *norm, Normalize()], prompts=prompts(model), similarity_fn_name="cosine", device="cpu"
        ).save(str(folder), create_model_card=False)


def prompts(model: ImageTextModel) -> dict[str, str]:
    """The library's, by ours."""
    ours = dict(model.prompts)
    return ours | ({"document": ours["passage"]} if "passage" in ours else {})  # encode_document looks there first


def check(encoder: Encoder) -> Dual:
    model, image, text, images, tokenizer = check_towers(encoder, PREFIX)
    for side, pooling, has in (("image", image.pooling, {"timm", *POOLINGS}), ("text", text.pooling, POOLINGS)):
        if pooling not in has:
            raise ValueError(
                f"{PREFIX}{side} pooling is {pooling}, it has {', '.join(POOLINGS)}; use safetensors or onnx"
            )
    if encoder.metric != "cosine":
        raise ValueError(f"{PREFIX}it scores by cosine, this model by {encoder.metric} similarity; use safetensors")
    return model, image, text, images, tokenizer


def check_towers(encoder: Encoder, prefix: str) -> Dual:
    """The parts that the library has modules for. Raises ValueError, beginning with `prefix`, for others."""
    model, image, text, images = towers(encoder, prefix)
    tokenizer = encoder.tokenizer
    if not isinstance(tokenizer, TransformersTokenizer):
        raise ValueError(f"{prefix}it has tokenizers of transformers, not {type(tokenizer).__name__}; use onnx")
    if getattr(tokenizer.tokenizer, "src_lang", None) is not None:
        raise ValueError(f"{prefix}its tokenizers know no language, this one marks it by a token; use safetensors")
    return model, image, text, images, tokenizer


def text_module(parts: Path, text: TransformersTower, tokenizer: TransformersTokenizer) -> Transformer:
    """A text tower and its tokenizer as a module, written into a folder of `parts` first."""
    folder = parts / "text"
    text.network.save_pretrained(folder)
    tokenizer.save(folder)
    called: Any = None
    if tokenizer.attend_padding:  # without a mask all is read
        called = {"text": {"padding": "max_length", "return_attention_mask": False}}
    module = Transformer(
        str(folder),
        processor_kwargs={"model_max_length": tokenizer.max_length, "padding_side": "right"},
        processing_kwargs=called,
        do_lower_case=tokenizer.lowercase,
    )
    ours = text.network.state_dict()
    with torch.no_grad():
        for name, weight in module.model.named_parameters():
            if name not in ours:  # a pooler, which nobody reads, drawn at random
                weight.zero_()
    return module


def image_module(parts: Path, image: TimmTower, images: ImagePipeline, output: str, name: str) -> Transformer:
    """An image tower and its preprocessing as a module; its output of that name is called `name` from then on."""
    folder = parts / name
    wrapper = TimmWrapperModel(vision_config(image))
    fill(wrapper.timm_model, image.network)
    wrapper.config.image_processor_type = "TimmWrapperImageProcessor"
    wrapper.config.pretrained_cfg = preprocessing(images, image)
    wrapper.save_pretrained(folder)
    parameters: Any = {"image": {"method": "forward", "method_output_name": output}}
    return Transformer(str(folder), modality_config=parameters, module_output_name=name)


def _image(parts: Path, image: TimmTower, images: ImagePipeline) -> list[nn.Module]:
    if image.pooling == "timm":
        return [image_module(parts, image, images, "pooler_output", "sentence_embedding")]
    module = image_module(parts, image, images, "last_hidden_state", "token_embeddings")
    return [module, Pooling(image.width, POOLINGS[image.pooling])]


def _projection(model: ImageTextModel, side: str, projection: nn.Module | None, width: int) -> list[nn.Module]:
    """The projection of a side as layers, the vector that marks an input as observed among their biases."""
    observed = model.observed[side] if side in model.missing else None
    if isinstance(projection, nn.Sequential):
        first, activation, last = projection
        assert isinstance(first, nn.Linear) and isinstance(last, nn.Linear)
        bias = last.bias if observed is None else last.bias + observed
        return [_dense(first.weight, first.bias, activation), _dense(last.weight, bias)]
    if isinstance(projection, nn.Identity) and observed is None:
        return []
    return [_dense(matrix(projection, width), observed)]


def _dense(weight: Tensor, bias: Tensor | None, activation: nn.Module | None = None) -> Dense:
    width, features = weight.shape
    own_bias = None if bias is None else bias.detach().clone()
    return Dense(features, width, bias is not None, activation, weight.detach().clone(), own_bias)


WRITER = Writer(write, Modules)
