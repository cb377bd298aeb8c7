"""A model written for other programs, without any pickle in it, and read again before it gets its name."""

import importlib
import json
from pathlib import Path
from typing import get_args

from datamodules.files import room_for, whole_folder
from datamodules.naflex import NaFlexPipeline
from mmtrain.display.messages import say
from mmtrain.export import Format, peft_folder
from mmtrain.export.formats import Writer
from mmtrain.export.marker import check_target, write_marker
from mmtrain.export.parity import check_parity
from mmtrain.export.paths import remove_paths
from mmtrain.models.card import model_card
from mmtrain.models.encoder import Encoder
from mmtrain.models.fingerprint import fingerprint
from mmtrain.models.image_text import ImageTextModel
from mmtrain.models.leaderboard import META, base_models, model_meta

FORMATS = tuple(name for name in get_args(Format) if name != "peft")
CARD = "README.md"


def write(
    encoder: Encoder, model: str, out: str | Path, format: str = "safetensors", *, int8: str | None = None
) -> Path:
    """Writes an encoder into the folder `out`, reads it again, compares, and only then gives it its name.

    Args:
        model: The name on the card.
        out: An empty folder, or an older export.
        format: One of FORMATS, or peft for the adapter alone that the encoder reads with.
        int8: onnx only: SHARDS, to measure the recall of graphs with 8-bit weights, which are written too.

    Raises:
        ValueError: when `out` holds something else already, the towers cannot be written in this format, a library is
            missing, or what was written does not give the same embeddings.
    """
    writer = peft_folder.writer(encoder) if format == "peft" else _writer(format)
    if int8 is not None and writer.write_int8 is None:
        raise ValueError(f"--int8: only onnx has it, not {format}")
    target, network = Path(out), encoder.model
    if format not in ("safetensors", "peft") and (others := list(getattr(network, "modalities", {}))):
        say(f"{', '.join(others)}: {format} holds pictures and texts alone; safetensors holds further modalities too")
    if format not in ("safetensors", "peft") and isinstance(encoder.images, NaFlexPipeline):
        raise ValueError(f"--format {format}: it takes pictures of one size, this model those of any; use safetensors")
    if format not in ("safetensors", "peft") and getattr(network, "composer", None) is not None:
        say(f"composition: {format} holds single pictures and texts; safetensors holds queries of several inputs too")
    if format not in ("safetensors", "peft") and isinstance(network, ImageTextModel) and network.image is None:
        raise ValueError(f"--format {format}: it holds pictures and texts, this is a model of texts alone; safetensors")
    multi = network.multi_dimension is not None
    if multi and not writer.multi:
        raise ValueError(f"--format {format}: it holds no token rows; safetensors, onnx and multi_vector do")
    parts = [network, *([] if encoder.decoder is None else [encoder.decoder])]
    size = sum(tensor.nbytes for part in parts for tensor in (*part.parameters(), *part.buffers()))
    with room_for(target, size), whole_folder(target, check_target) as folder:
        writer.write(encoder, folder)
        remove_paths(folder, keep="open_clip_config.json")
        (folder / CARD).write_text(model_card(encoder, model, format), encoding="utf-8")
        meta = model_meta(encoder, fingerprint(encoder), base_models(model), format)
        (folder / META).write_text(json.dumps(meta, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        difference = check_parity(encoder, writer.read(folder), writer.cleaned, dense=writer.dense, multi=multi)
        if int8 is not None and writer.write_int8 is not None:
            writer.write_int8(encoder, folder, int8)
        if writer.place is not None:
            writer.place(folder, target)
        write_marker(folder, format)
    say(f"{target}: written, loaded again, largest difference {difference:.1e}")
    return target


def _writer(format: str) -> Writer:
    if format not in FORMATS:
        raise ValueError(f"--format: got {format!r}, expected {', '.join(FORMATS)}")
    try:
        return importlib.import_module(f"mmtrain.export.{format}_folder").WRITER
    except ImportError as error:
        if (error.name or "").startswith("mmtrain"):
            raise
        raise ValueError(f"--format: {format} needs {error.name}: pip install 'mmtrain[export]'") from error
