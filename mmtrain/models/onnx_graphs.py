"""Exported graphs run by onnxruntime, behind the interface of our networks."""

from pathlib import Path

import torch
from torch import Tensor

from mmtrain.display.messages import first_line
from mmtrain.models.network import Network


class OnnxModel(Network):
    """image.onnx and text.onnx of a folder; on the GPU where onnxruntime has one, else on the CPU.

    Args:
        folder: What `mmtrain export --format onnx` wrote.
        dimension: D, the width of the rows.
        int8: Run the graphs with 8-bit weights.

    Raises:
        ValueError: when onnxruntime is missing or a graph cannot be read.
    """

    def __init__(self, folder: Path, dimension: int, int8: bool = False) -> None:
        super().__init__()
        try:
            import onnxruntime
        except ImportError as error:
            raise ValueError(f"MODEL: {folder} needs onnxruntime: pip install 'mmtrain[export]'") from error
        self.dimension = dimension
        graphs = [folder / f"{side}.int8.onnx" if int8 else folder / f"{side}.onnx" for side in ("image", "text")]
        providers = onnxruntime.get_available_providers()
        try:
            self._image, self._text = (onnxruntime.InferenceSession(graph, providers=providers) for graph in graphs)
        except Exception as error:  # onnxruntime's own classes, which are not public
            raise ValueError(f"MODEL: {folder} is no complete export ({first_line(error)})") from error

    def encode_image(self, images: Tensor, adapters: Tensor | None = None) -> Tensor:
        name = self._image.get_inputs()[0].name
        return torch.from_numpy(self._image.run(None, {name: images.cpu().numpy()})[0]).to(images.device)

    def encode_text(
        self, tokens: Tensor, mask: Tensor, languages: Tensor | None = None, adapters: Tensor | None = None
    ) -> Tensor:
        inputs = {"tokens": tokens.cpu().numpy(), "mask": mask.cpu().numpy()}
        return torch.from_numpy(self._text.run(None, inputs)[0]).to(tokens.device)
