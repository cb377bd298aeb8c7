"""Two graphs, one for images and one for captions, with their preprocessing in preprocessing.json."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmtrain.display.messages import say
from mmtrain.embedding.one_pass import embed
from mmtrain.embedding.splits import open_split
from mmtrain.evaluation import retrieval_metrics
from mmtrain.export.formats import Writer, describe_preprocessing
from mmtrain.export.graphs import ImageGraph, TextGraph, export_graph, write_8_bits
from mmtrain.models.card import in_words
from mmtrain.models.description import PREPROCESSING
from mmtrain.models.encoder import Encoder
from mmtrain.models.image_text import ImageTextModel
from mmtrain.models.loading import load, load_onnx
from mmtrain.towers import WordGRU

OUTPUTS = {"embeddings": "float32 [N, D], unit rows", "token_embeddings": "float32 [N, T, d], unit rows"}


def write(encoder: Encoder, folder: Path) -> None:
    """Writes the folder. Raises ValueError for towers that are not one graph."""
    model = encoder.model
    if not isinstance(model, ImageTextModel):
        raise ValueError(f"--format onnx: {encoder.source} is another library's model; export it there")
    if isinstance(model.text, WordGRU):
        raise ValueError("--format onnx: WordGRU has a network for each language, ONNX one graph; safetensors holds it")
    if model.reads_both:
        raise ValueError("--format onnx: a vision-language tower is not one graph; safetensors holds it")
    multi = model.multi_dimension is not None
    if multi and model.shared:
        raise ValueError("--format onnx: its text tower is the image tower, whose tokens have no mask; safetensors")
    outputs = [name for name in OUTPUTS if multi or name == "embeddings"]
    given = ", ".join(f"{name} {OUTPUTS[name]}" for name in outputs)
    pictures = "features float32 [N, F]" if encoder.images is None else "pixels uint8 [N, 3, size, size]"
    texts = "tokens uint8 [N, L, size] grey rows" if model.shared else "tokens int64 [N, L]"
    inputs = {"image.onnx": f"{pictures} -> {given}", "text.onnx": f"{texts}, mask bool [N, L] -> {given}"}
    description: dict[str, Any] = {"inputs": inputs | in_words(encoder)}
    description |= describe_preprocessing(encoder, folder) | {"dimension": model.dimension, "shared": model.shared}
    description["multi"] = model.multi_dimension
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
    export_graph(ImageGraph(model, multi), (pixels,), {name: {0: rows}}, folder / "image.onnx", *outputs)
    # a shared tower's page has no more rows than columns
    length = torch.export.Dim("length", min=1, max=tokens.shape[2] if model.shared else None)
    # SigLIP's rows have one length only
    dynamic = {0: rows} if getattr(encoder.tokenizer, "padding", None) == "max_length" else {0: rows, 1: length}
    axes = {"tokens": dynamic, "mask": dynamic}
    export_graph(TextGraph(model, multi), (tokens, mask), axes, folder / "text.onnx", *outputs)


def write_int8(encoder: Encoder, folder: Path, shards: str) -> None:
    """Writes graphs with 8-bit weights beside the exact ones; prints the recall of both on `shards`."""
    for side in ("image", "text"):
        write_8_bits(folder / f"{side}.onnx", folder / f"{side}.int8.onnx")
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


WRITER = Writer(write, load, write_int8=write_int8, multi=True)
