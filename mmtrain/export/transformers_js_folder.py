"""A folder for transformers.js: the graphs of a CLIP under its names, of which onnxruntime alone is enough too.

Its tokenizers cut what is too long behind the end token. The text graph puts the end back, and for bytes takes away the
character that was cut, so that the rows are the model's.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime.quantization import QuantType
from onnxruntime.transformers.float16 import convert_float_to_float16
from PIL import Image
from tokenizers import Tokenizer as FastTokenizer
from torch import Tensor, nn

from datamodules import ByteTokenizer, ImagePipeline, TransformersTokenizer
from datamodules.tokenizers import Tokenizer
from mmtrain.display.messages import first_line, say
from mmtrain.export.browser_tokenizer import write_tokenizer
from mmtrain.export.formats import SCALE, Writer
from mmtrain.export.graphs import ImageGraph, TextGraph, export_graph, write_8_bits
from mmtrain.export.parity import least_cosine
from mmtrain.models.encoder import Encoder
from mmtrain.models.image_text import ImageTextModel
from mmtrain.towers import TimmTower, WordGRU

PREFIX = "--format transformers_js: "
HALF, EIGHT_BITS = "_fp16", "_quantized"  # its names for dtype "fp16" and "q8", which browsers load by default
RESAMPLING = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}  # Pillow's numbers
BATCH = 32


class BrowserText(nn.Module):
    """Rows of captions as transformers.js tokenizes them: input_ids, attention_mask int64 [N, L] -> float [N, D].

    Args:
        model: The model.
        end: The token that ends each caption; None where there is none.
        cut: Whether ids are bytes of UTF-8, of which a character may have been cut.
    """

    def __init__(self, model: ImageTextModel, end: int | None, cut: bool) -> None:
        super().__init__()
        self.text = TextGraph(model)
        self.end, self.cut = end, cut

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        mask = attention_mask > 0
        place = torch.arange(input_ids.shape[1], device=input_ids.device).unsqueeze(0)
        last = mask.sum(1, keepdim=True) - 1
        if self.cut:
            # a character's first byte says how many it takes; where they do not fit, the end stands in its place
            firsts = [input_ids >= ByteTokenizer.FIRST_BYTE + first for first in (0xC0, 0xE0, 0xF0)]
            takes = torch.stack(firsts).sum(0) + 1
            half = mask & (takes > 1) & (place + takes > last)
            last = torch.where(half, place, last).amin(1, keepdim=True)
            mask = place <= last
        return self.text(input_ids if self.end is None else input_ids.where(place != last, self.end), mask)


class PaddedText(nn.Module):
    """The same of a model that reads the padding as text: input_ids int64 [N, L], no mask."""

    def __init__(self, model: ImageTextModel, end: int | None, padding: int) -> None:
        super().__init__()
        self.text = TextGraph(model)
        self.end, self.padding = end, padding

    def forward(self, input_ids: Tensor) -> Tensor:
        if self.end is not None:
            ends = torch.where(input_ids[:, -1:] == self.padding, self.padding, self.end)
            input_ids = torch.cat([input_ids[:, :-1], ends], 1)
        return self.text(input_ids, torch.ones_like(input_ids, dtype=torch.bool))


class Graphs:
    """The folder read without mmtrain's model: by onnxruntime, the tokenizers library and Pillow.

    Args:
        folder: The export.
        suffix: "" for the exact graphs, HALF or EIGHT_BITS.
    """

    def __init__(self, folder: Path, suffix: str = "") -> None:
        graphs = [folder / "onnx" / f"{side}_model{suffix}.onnx" for side in ("vision", "text")]
        self._vision, self._text = (
            onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"]) for graph in graphs
        )
        self._tokenizer = FastTokenizer.from_file(str(folder / "tokenizer.json"))
        settings = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
        method = {number: name for name, number in RESAMPLING.items()}[settings["resample"]]
        resize = "shortest" if settings["do_center_crop"] else "squash"
        self._images = ImagePipeline(settings["crop_size"]["width"], resize=resize, interpolation=method)

    def encode_image(self, images: Sequence[Image.Image] | np.ndarray, /) -> np.ndarray:
        pixels = np.stack([self._images.evaluate(image).numpy() for image in images])
        parts = [pixels[start : start + BATCH].astype(np.float32) / 255 for start in range(0, len(pixels), BATCH)]
        return np.concatenate([self._vision.run(["image_embeds"], {"pixel_values": part})[0] for part in parts])

    def encode_text(self, captions: Sequence[str], language: str, /) -> np.ndarray:
        rows = self._tokenizer.encode_batch(list(captions))
        inputs = {"input_ids": [row.ids for row in rows], "attention_mask": [row.attention_mask for row in rows]}
        names = [each.name for each in self._text.get_inputs()]
        return self._text.run(["text_embeds"], {name: np.array(inputs[name], np.int64) for name in names})[0]


def write(encoder: Encoder, folder: Path) -> None:
    """Writes the folder; prints size and least cosine of the smaller graphs, and which could not be made.

    Raises ValueError for towers or tokenizers that transformers.js has no place for.
    """
    model, images, tokenizer = encoder.model, encoder.images, encoder.tokenizer
    if not isinstance(model, ImageTextModel) or images is None or not isinstance(model.image, TimmTower):
        name = type(getattr(model, "image", model)).__name__
        raise ValueError(f"{PREFIX}it takes pictures by a timm tower, not {name}; use safetensors or onnx")
    if isinstance(model.text, WordGRU):
        raise ValueError(f"{PREFIX}WordGRU has a network for each language, ONNX one graph; safetensors holds it")
    write_tokenizer(tokenizer, folder, PREFIX)
    (folder / "onnx").mkdir()
    rows, length = torch.export.Dim("rows", min=1), torch.export.Dim("length", min=1)
    pixels = torch.zeros(2, *images.shape)
    path = folder / "onnx" / "vision_model.onnx"
    export_graph(ImageGraph(model), (pixels,), {"pixel_values": {0: rows}}, path, "image_embeds")
    tokens, mask = tokenizer(["two", "captions"], ["en", "en"])
    path, end = folder / "onnx" / "text_model.onnx", _end(tokenizer)
    if isinstance(tokenizer, TransformersTokenizer) and tokenizer.attend_padding:
        padded = PaddedText(model, end, tokenizer.tokenizer.pad_token_id)
        export_graph(padded, (tokens,), {"input_ids": {0: rows}}, path, "text_embeds")
    else:
        text = BrowserText(model, end, isinstance(tokenizer, ByteTokenizer))
        axes = {0: rows, 1: length}
        export_graph(text, (tokens, mask.long()), {"input_ids": axes, "attention_mask": axes}, path, "text_embeds")
    _write_settings(encoder, model, images, folder, _name_weights(folder))
    _write_smaller(encoder, folder)


def _name_weights(folder: Path) -> list[str]:
    """Calls weights in a file of their own NAME.onnx_data, as transformers.js does; the names of such graphs."""
    separate = sorted(folder.glob("onnx/*.onnx.data"))
    for weights in separate:
        graph = weights.with_suffix("")
        model = onnx.load(graph, load_external_data=False)
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = f"{graph.name}_data"
        onnx.save(model, graph)
        weights.rename(graph.with_name(f"{graph.name}_data"))
    return [weights.stem for weights in separate]


def _write_settings(
    encoder: Encoder, model: ImageTextModel, images: ImagePipeline, folder: Path, separate: list[str]
) -> None:
    side = {"width": images.size, "height": images.size}
    config: dict[str, Any] = {
        "model_type": "clip",
        "architectures": ["CLIPModel"],
        "projection_dim": model.dimension,
        "logit_scale_init_value": math.log(encoder.scale or SCALE),
        "text_config": {"model_type": "clip_text_model", "vocab_size": model.text.vocabulary_size},
        "vision_config": {"model_type": "clip_vision_model", "image_size": images.size},
        "transformers.js_config": {"use_external_data_format": {name: True for name in separate}},
    }
    preprocessing = {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": side if images.resize == "squash" else {"shortest_edge": images.size},
        "resample": RESAMPLING[images.interpolation],
        "do_center_crop": images.resize != "squash",
        "crop_size": side,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": False,  # the graph does
        "image_mean": [0.0, 0.0, 0.0],
        "image_std": [1.0, 1.0, 1.0],
    }
    for name, settings in (("config.json", config), ("preprocessor_config.json", preprocessing)):
        (folder / name).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _end(tokenizer: Tokenizer) -> int | None:
    """The token that ends every caption, an empty one and those that were cut; None where there is none."""
    captions = ["a " * 1000, "42 " * 1000]
    if not getattr(tokenizer, "attend_padding", False):  # else padding ends an empty one
        captions.append("")
    tokens, mask = tokenizer(captions, ["en"] * len(captions))
    ends = {int(row[present][-1]) if present.any() else None for row, present in zip(tokens, mask, strict=True)}
    return ends.pop() if len(ends) == 1 else None


def _write_smaller(encoder: Encoder, folder: Path) -> None:
    exact = sum(graph.stat().st_size for graph in folder.glob("onnx/*")) / 2**20
    for suffix, convert in ((HALF, _half), (EIGHT_BITS, _eight_bits)):
        graphs = [folder / "onnx" / f"{side}_model{suffix}.onnx" for side in ("vision", "text")]
        try:
            for graph in graphs:
                convert(graph.with_name(graph.name.replace(suffix, "")), graph)
            cosine = least_cosine(encoder, Graphs(folder, suffix))
            reason = "its rows are no numbers" if math.isnan(cosine) else None
        except Exception as error:  # the converters' own, and onnxruntime's
            reason = first_line(error)
        if reason is not None:
            for graph in graphs:
                graph.unlink(missing_ok=True)
            say(f"{suffix[1:]}: left out ({reason})")
            continue
        mib = sum(graph.stat().st_size for graph in graphs) / 2**20
        say(f"{suffix[1:]}: {mib:.1f} MiB, exact {exact:.1f}; least cosine with the model's rows {cosine:.4f}")


def _half(source: Path, target: Path) -> None:
    onnx.save(convert_float_to_float16(onnx.load(source), keep_io_types=True), target)


def _eight_bits(source: Path, target: Path) -> None:
    # convolutions are there for unsigned weights only
    convolutional = any(node.op_type == "Conv" for node in onnx.load(source, load_external_data=False).graph.node)
    write_8_bits(source, target, QuantType.QUInt8 if convolutional else QuantType.QInt8)


WRITER = Writer(write, Graphs)
