"""Two graphs, one for images and one for captions, with their preprocessing in preprocessing.json."""

import json
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxscript  # noqa: F401  the exporter needs it; without it here, it fails late
import torch
from google.protobuf.message import Message
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import Tensor, nn
from torch.nn import functional

from mmtrain.display.messages import first_line, say
from mmtrain.embedding.one_pass import embed
from mmtrain.embedding.splits import open_split
from mmtrain.evaluation import retrieval_metrics
from mmtrain.export.formats import Writer, describe_preprocessing
from mmtrain.models.card import in_words
from mmtrain.models.description import PREPROCESSING
from mmtrain.models.encoder import Encoder
from mmtrain.models.image_text import ImageTextModel
from mmtrain.models.loading import load, load_onnx
from mmtrain.towers import WordGRU

ROWS = "embeddings float32 [N, D], unit rows"
# a graph beyond two gigabytes needs its weights in a file of their own (protobuf's limit)
LARGEST_GRAPH = 1_900_000_000


class ImageGraph(nn.Module):
    def __init__(self, model: ImageTextModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        return self.model.encode_image(pixels)


class TextGraph(nn.Module):
    def __init__(self, model: ImageTextModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        return functional.normalize(self.model.text_projection(self.model.text(tokens, mask, None)[0]).float(), dim=-1)


def write(encoder: Encoder, folder: Path) -> None:
    """Writes the folder. Raises ValueError for towers that are not one graph."""
    model = encoder.model
    if not isinstance(model, ImageTextModel):
        raise ValueError(f"--format onnx: {encoder.source} is another library's model; export it there")
    if isinstance(model.text, WordGRU):
        raise ValueError("--format onnx: WordGRU has a network for each language, ONNX one graph; safetensors holds it")
    pictures = "features float32 [N, F]" if encoder.images is None else "pixels uint8 [N, 3, size, size]"
    inputs = {"image.onnx": f"{pictures} -> {ROWS}", "text.onnx": f"tokens int64 [N, L], mask bool [N, L] -> {ROWS}"}
    description = {"inputs": inputs | in_words(encoder)}
    description |= describe_preprocessing(encoder, folder) | {"dimension": model.dimension}
    (folder / PREPROCESSING).write_text(json.dumps(description, ensure_ascii=False, indent=2), encoding="utf-8")
    # two of each: an axis of length 1 in the example becomes a constant
    if encoder.images is None:
        assert model.image is not None
        pixels = torch.zeros(2, model.image.width)
    else:
        pixels = torch.zeros(2, 3, encoder.images.size, encoder.images.size, dtype=torch.uint8)
    tokens, mask = encoder.tokenizer(["two", "captions"], ["en", "en"])
    rows = torch.export.Dim("rows", min=1)
    name = "features" if encoder.images is None else "pixels"
    _export(ImageGraph(model), (pixels,), {name: {0: rows}}, folder / "image.onnx")
    length = torch.export.Dim("length", min=1)
    # SigLIP's rows have one length only
    dynamic = {0: rows} if getattr(encoder.tokenizer, "padding", None) == "max_length" else {0: rows, 1: length}
    _export(TextGraph(model), (tokens, mask), {"tokens": dynamic, "mask": dynamic}, folder / "text.onnx")


def _export(graph: nn.Module, inputs: tuple[Tensor, ...], dynamic: dict, path: Path) -> None:
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                graph.eval(),
                inputs,
                path,
                dynamo=True,
                dynamic_shapes=tuple(dynamic.values()),
                input_names=list(dynamic),
                output_names=["embeddings"],
                external_data=sum(value.nbytes for value in graph.parameters()) > LARGEST_GRAPH,
                verbose=False,
            )
    except Exception as error:  # the exporter's own, and those of whatever a network does
        raise ValueError(f"--format onnx: {path.stem} tower cannot be traced ({first_line(error)})") from error
    finally:
        logging.disable(logging.NOTSET)
    model = onnx.load(path, load_external_data=False)
    _forget_sources(model)
    onnx.save(model, path)


def _forget_sources(message: Any) -> None:
    """Drops what the exporter notes of each node of a graph, the paths and lines of our source among it."""
    for name in ("doc_string", "metadata_props"):
        if name in message.DESCRIPTOR.fields_by_name:
            message.ClearField(name)
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for inner in [value] if isinstance(value, Message) else value:
                _forget_sources(inner)


def write_int8(encoder: Encoder, folder: Path, shards: str) -> None:
    """Writes graphs with 8-bit weights beside the exact ones; prints the recall of both on `shards`."""
    logging.disable(logging.WARNING)
    for side in ("image", "text"):
        graph = onnx.load(folder / f"{side}.onnx")
        # its shapes are those of weights that the quantiser transposes
        del graph.graph.value_info[:]
        quantize_dynamic(graph, folder / f"{side}.int8.onnx", weight_type=QuantType.QInt8)
    logging.disable(logging.NOTSET)
    exact, small = (_recall(load_onnx(folder, int8=int8), encoder, shards) for int8 in (False, True))
    before, now = (sum(graph.stat().st_size for graph in folder.glob(kind)) for kind in ("*[!8].onnx", "*.int8.onnx"))
    say(f"8-bit weights: {now / 2**20:.1f} MiB, exact {before / 2**20:.1f}; R@1 on {shards}, in percent:")
    for direction in ("text_to_image", "image_to_text"):
        for language, figures in exact[direction].items():
            now, before = small[direction][language]["R@1"], figures["R@1"]
            say(f"  {direction} {language}: {now:.1f}, exact {before:.1f} ({now - before:+.1f})")


def _recall(network: Encoder, encoder: Encoder, shards: str) -> dict:
    split = open_split(network, shards, None, batch_size=64, workers=0)
    embeddings = embed(network, split)
    names = np.asarray(split.languages)[embeddings.language_of_text]
    return retrieval_metrics(
        embeddings.images, embeddings.texts, embeddings.image_of_text, names, similarity=encoder.metric
    )


WRITER = Writer(write, load, write_int8=write_int8)
