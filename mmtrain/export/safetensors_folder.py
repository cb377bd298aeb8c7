"""model.safetensors, mmtrain.json and the tokenizer's files, and a captioner's decoder.safetensors: what `mmtrain.load`
reads, without any pickle.
"""

import json
from pathlib import Path

from safetensors.torch import save_file
from torch import nn

from mmtrain.export.formats import Writer, describe_preprocessing
from mmtrain.models.description import DECODER, DESCRIPTION, WEIGHTS
from mmtrain.models.encoder import Encoder
from mmtrain.models.image_text import ImageTextModel
from mmtrain.models.loading import load
from mmtrain.models.spec import spec_of


def write(encoder: Encoder, folder: Path) -> None:
    """Writes the folder. Raises ValueError for another library's model, which has no description of ours."""
    network = encoder.model
    if not isinstance(network, ImageTextModel):
        raise ValueError(f"--format safetensors: {encoder.source} is another library's model; export it there")
    description = describe_preprocessing(encoder, folder) | {"model": spec_of(network)}
    if encoder.decoder is not None:
        description["decoder"] = spec_of(encoder.decoder)
        _save(encoder.decoder, folder / DECODER)
    (folder / DESCRIPTION).write_text(json.dumps(description, ensure_ascii=False, indent=2), encoding="utf-8")
    _save(network, folder / WEIGHTS)


def _save(network: nn.Module, file: Path) -> None:
    weights = {name: tensor.contiguous().clone() for name, tensor in network.state_dict().items()}
    save_file(weights, file, metadata={"format": "pt"})


WRITER = Writer(write, load, multi=True)
