"""A network as one ONNX graph, with exact or with 8-bit weights."""

from pathlib import Path
from typing import Any

import onnx
import onnxscript  # noqa: F401  the exporter needs it; without it here, it fails late
import torch
from google.protobuf.message import Message
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import Tensor, nn

from mmtrain.display.messages import first_line
from mmtrain.models.image_text import ImageTextModel
from mmtrain.towers.transformers_weights import quiet

# a graph beyond two gigabytes needs its weights in a file of their own (protobuf's limit)
LARGEST_GRAPH = 1_900_000_000


class ImageGraph(nn.Module):
    """Pictures to rows, and `multi` to their token rows too."""

    def __init__(self, model: ImageTextModel, multi: bool = False) -> None:
        super().__init__()
        self.model, self.multi = model, multi

    def forward(self, pixels: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        return self.model.image_rows_multi(pixels) if self.multi else self.model.encode_image(pixels)


class TextGraph(nn.Module):
    """Texts likewise."""

    def __init__(self, model: ImageTextModel, multi: bool = False) -> None:
        super().__init__()
        self.model, self.multi = model, multi

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        if self.multi:
            return self.model.text_rows_multi(tokens, mask, None)[:2]
        return self.model.text_rows(tokens, mask, None)


def export_graph(
    graph: nn.Module, inputs: tuple[Tensor, ...], dynamic: dict[str, dict], path: Path, *outputs: str
) -> None:
    """Writes a network as one graph; weights beyond LARGEST_GRAPH bytes go into a second file, PATH.data.

    Args:
        graph: The network.
        inputs: Examples; an axis of length 1 in them becomes a constant.
        dynamic: The inputs' names, each with its axes of any length.
        path: The file, whose stem names the tower in an error.
        outputs: The names of its outputs.

    Raises:
        ValueError: for a network that is not one graph.
    """
    try:
        with quiet():
            torch.onnx.export(
                graph.eval(),
                inputs,
                path,
                dynamo=True,
                dynamic_shapes=tuple(dynamic.values()),
                input_names=list(dynamic),
                output_names=list(outputs),
                external_data=sum(value.nbytes for value in graph.parameters()) > LARGEST_GRAPH,
                verbose=False,
            )
    except Exception as error:  # the exporter's own, and those of whatever a network does
        raise ValueError(f"--format: {path.stem} tower cannot be traced for ONNX ({first_line(error)})") from error
    model = onnx.load(path, load_external_data=False)
    _forget_sources(model)
    onnx.save(model, path)


def write_8_bits(source: Path, target: Path, weights: QuantType = QuantType.QInt8) -> None:
    """Writes a graph again with 8-bit weights."""
    graph = onnx.load(source)
    # its shapes are those of weights that the quantiser transposes
    del graph.graph.value_info[:]
    with quiet():
        quantize_dynamic(graph, target, weight_type=weights)


def _forget_sources(message: Any) -> None:
    """Drops what the exporter notes of each node of a graph, the paths and lines of our source among it."""
    for name in ("doc_string", "metadata_props"):
        if name in message.DESCRIPTOR.fields_by_name:
            message.ClearField(name)
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for inner in [value] if isinstance(value, Message) else value:
                _forget_sources(inner)
