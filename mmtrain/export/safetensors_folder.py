"""model.safetensors, mmtrain.json and the tokenizer's files: what `mmtrain.load` reads, without any pickle."""

import json
from pathlib import Path

from safetensors.torch import save_file

from mmtrain.encoder import Encoder
from mmtrain.export.description import describe_preprocessing
from mmtrain.loading import DESCRIPTION, WEIGHTS, load
from mmtrain.spec import spec_of


def write(encoder: Encoder, folder: Path, target: Path) -> None:
    """
    Raises:
        ValueError: for another library's model, which has no description of ours.
    """
    network = encoder.model
    parts = {
        "image": spec_of(network.image),
        "text": spec_of(network.text),
        "dimension": network.dimension,
        "projection": network.projection,
    }
    description = {"model": parts} | describe_preprocessing(encoder, folder)
    (folder / DESCRIPTION).write_text(json.dumps(description, ensure_ascii=False, indent=2), encoding="utf-8")
    weights = {name: tensor.contiguous().clone() for name, tensor in network.state_dict().items()}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


read = load
