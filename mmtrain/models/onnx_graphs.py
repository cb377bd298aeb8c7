"""Exported graphs run by onnxruntime, behind the interface of our networks."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmtrain.display.messages import first_line
from mmtrain.models.network import Network


class OnnxModel(Network):
    """image.onnx and text.onnx of a folder; on the GPU where onnxruntime has one, else on the CPU.

    Args:
        folder: What `mmtrain export --format onnx` wrote.
        dimension: D, the width of the rows.
        multi: d, the width of the token rows; None for graphs without them.
        int8: Run the graphs with 8-bit weights.

    Raises:
        ValueError: when onnxruntime is missing or a graph cannot be read.
    """

    def __init__(self, folder: Path, dimension: int, multi: int | None = None, int8: bool = False) -> None:
        super().__init__()
        try:
            import onnxruntime
        except ImportError as error:
            raise ValueError(f"MODEL: {folder} needs onnxruntime: pip install 'mmtrain[export]'") from error
        self.dimension, self.multi_dimension = dimension, multi
        graphs = [folder / f"{side}.int8.onnx" if int8 else folder / f"{side}.onnx" for side in ("image", "text")]
        providers = onnxruntime.get_available_providers()
        try:
            self._image, self._text = (onnxruntime.InferenceSession(graph, providers=providers) for graph in graphs)
        except Exception as error:  # onnxruntime's own classes, which are not public
            raise ValueError(f"MODEL: {folder} is no complete export ({first_line(error)})") from error

    def encode_image(self, images: Tensor, adapters: Tensor | None = None) -> Tensor:
        return self._run(self._image, images)[0]

    def encode_text(
        self, tokens: Tensor, mask: Tensor, languages: Tensor | None = None, adapters: Tensor | None = None
    ) -> Tensor:
        return self._run(self._text, tokens, mask)[0]

    def encode_image_multi(self, images: Tensor, adapters: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        rows, multi = self._run(self._image, images)
        return rows, multi, rows.new_ones(multi.shape[:2], dtype=torch.bool)

    def encode_text_multi(
        self, tokens: Tensor, mask: Tensor, languages: Tensor | None = None, adapters: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        rows, multi = self._run(self._text, tokens, mask)
        return rows, multi, mask

    @staticmethod
    def _run(session: Any, *inputs: Tensor) -> list[Tensor]:
        """All outputs of a graph."""
        names = [each.name for each in session.get_inputs()]
        values = {name: each.cpu().numpy() for name, each in zip(names, inputs, strict=True)}
        return [torch.from_numpy(output).to(inputs[0].device) for output in session.run(None, values)]
