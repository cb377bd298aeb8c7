"""`mmtrain export`: a model for other programs, without any pickle in it."""

import importlib
import shutil
from pathlib import Path
from types import ModuleType

from mmtrain.encoder import Encoder
from mmtrain.export.card import model_card
from mmtrain.export.probes import largest_difference
from mmtrain.loading import load
from mmtrain.relation_loading import load_head

# Each is a module here with write(encoder, folder, target), which raises a ValueError for towers that the format cannot
# hold, and read(folder) -> Encoder by the library it is for. Imported when asked for, since each needs that library.
FORMATS = {
    "safetensors": "model.safetensors, mmtrain.json, tokenizer files; mmtrain.load reads it",
    "onnx": "image.onnx, text.onnx, preprocessing.json, tokenizer files; onnxruntime runs it",
    "open_clip": "a folder for open_clip.create_model_and_transforms('local-dir:...')",
    "transformers": "a folder for transformers' own classes, where it has them for the towers",
}
TOLERANCE = 1e-4
CARD = "README.md"


def export(model: str, out: str | Path, format: str = "safetensors", *, int8: str | None = None) -> Path:
    """Writes MODEL into the folder `out`, loads what was written with the library it is for, and compares.

    100 pictures and over 100 captions in twelve languages and more scripts go through both, tokenizers and image
    preprocessing included; the largest difference of a coordinate of the unit rows is printed, and above 1e-4 nothing
    is kept.

    Args:
        format: One of FORMATS.
        int8: onnx only: SHARDS; graphs with 8-bit weights are written beside the exact ones, as image.int8.onnx and
            text.int8.onnx, and the recall they cost is measured on these shards.

    Raises:
        ValueError: when `out` holds something else already, the towers cannot be written in this format, a library is
            missing, or what was written does not give the same embeddings.
    """
    encoder = load(model)
    if load_head(model, encoder) is not None:
        print(f"{model}: an export holds the space; the network behind it, for relations or matching, stays in the run")
    return write(encoder, model, out, format, int8=int8)


def write(
    encoder: Encoder, model: str, out: str | Path, format: str = "safetensors", *, int8: str | None = None
) -> Path:
    """`export` of an encoder that is loaded already; `model` is its name on the card."""
    writer = _writer(format)
    if int8 is not None and format != "onnx":
        raise ValueError(f"--int8: only onnx has it, not {format}")
    target = Path(out)
    if target.is_file() or (target.exists() and any(target.iterdir()) and not _is_export(target)):
        raise ValueError(f"--out: {out} holds other files; give an empty folder, or an older export")
    temporary = target.with_name(target.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        writer.write(encoder, temporary, target)
        (temporary / CARD).write_text(model_card(encoder, model, format), encoding="utf-8")
        difference = largest_difference(encoder, writer.read(temporary), getattr(writer, "cleaned", None))
        if not difference <= TOLERANCE:
            raise ValueError(f"--out: the export differs from the model by {difference:.1e}; nothing was kept")
        if int8 is not None:
            writer.write_int8(encoder, temporary, int8)
        if hasattr(writer, "place"):
            writer.place(temporary, target)
        if target.exists():
            shutil.rmtree(target)
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    print(f"{target}: written, loaded again, largest difference {difference:.1e}")
    return target


def _is_export(folder: Path) -> bool:
    card = folder / CARD
    return card.is_file() and card.read_text(encoding="utf-8", errors="replace").startswith("---\nlibrary_name:")


def _writer(format: str) -> ModuleType:
    if format not in FORMATS:
        raise ValueError(f"--format: got {format!r}, expected {', '.join(FORMATS)}")
    try:
        return importlib.import_module(f"mmtrain.export.{format}_folder")
    except ImportError as error:
        raise ValueError(f"--format: {format} needs {error.name}: pip install 'mmtrain[export]'") from error
