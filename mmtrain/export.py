"""`mmtrain export`: a model for other programs, without any pickle in it."""

import json
import shutil
from pathlib import Path

import numpy as np
from safetensors.torch import save_file

from mmtrain.loading import DESCRIPTION, WEIGHTS, Encoder, load
from mmtrain.spec import spec_of

PROBES = ("forty-two", "četrdesmit divi", "四十二", "اثنان وأربعون", "")
# arguments of tokenizers that name files, and where those lie in an export
TOKENIZER_FILES = {"name_or_folder": "./tokenizer", "vocabulary": "./tokenizer/words.json"}


def export(model: str, out: str | Path, format: str = "safetensors") -> Path:
    """Writes MODEL into the folder `out` and checks what was written by loading it again.

    Args:
        format: safetensors: model.safetensors, mmtrain.json (towers, preprocessing, languages), tokenizer files and a
            README.

    Raises:
        ValueError: when `out` holds something else already, or what was written does not give the same embeddings.
    """
    if format != "safetensors":
        raise ValueError(f"--format: got {format!r}, expected safetensors")
    encoder = load(model)
    target = Path(out)
    if target.exists() and any(target.iterdir()) and not (target / DESCRIPTION).is_file():
        raise ValueError(f"--out: {out} holds other files; give an empty folder, or an older export")
    temporary = target.with_name(target.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        _write(encoder, temporary)
        difference = _largest_difference(encoder, load(temporary))
        if difference > 1e-4:
            raise ValueError(f"--out: the export differs from the model by {difference:.1e}; nothing was kept")
        if target.exists():
            shutil.rmtree(target)
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    print(f"{target}: written, loaded again, largest difference {difference:.1e}")
    return target


def _write(encoder: Encoder, folder: Path) -> None:
    network = encoder.model
    encoder.tokenizer.save(folder / "tokenizer")
    tokenizer = spec_of(encoder.tokenizer)
    for argument, place in TOKENIZER_FILES.items():
        if argument in tokenizer["init_args"]:
            tokenizer["init_args"][argument] = place
    description = {
        "model": {
            "image": spec_of(network.image),
            "text": spec_of(network.text),
            "dimension": network.dimension,
            "projection": network.projection,
        },
        "languages": encoder.languages,
        "similarity": encoder.similarity,
        "tokenizer": tokenizer,
        "images": spec_of(encoder.images) if encoder.images is not None else None,
    }
    text = json.dumps(description, ensure_ascii=False, indent=2)
    (folder / DESCRIPTION).write_text(text, encoding="utf-8")
    weights = {name: tensor.contiguous().clone() for name, tensor in network.state_dict().items()}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / "README.md").write_text(_card(encoder), encoding="utf-8")


def _card(encoder: Encoder) -> str:
    languages = "\n".join(f"- {language}" for language in encoder.languages)
    parameters = sum(parameter.numel() for parameter in encoder.model.parameters())
    return f"""---
library_name: mmtrain
language:
{languages}
tags: [image-text-retrieval, multilingual]
---
# An image-text space in {len(encoder.languages)} languages

{type(encoder.model.image).__name__} and {type(encoder.model.text).__name__}, {parameters:,} parameters, rows of
{encoder.model.dimension} numbers, {encoder.similarity} similarity.

    import mmtrain
    model = mmtrain.load("FOLDER")
    scores = model.encode_text(["..."], language="{(encoder.languages or ["en"])[0]}") @ model.encode_image([picture]).T
"""


def _largest_difference(before: Encoder, after: Encoder) -> float:
    texts = before.encode_text(PROBES, before.languages[0]) - after.encode_text(PROBES, after.languages[0])
    generator = np.random.default_rng(0)
    if before.images is None:
        pictures = generator.standard_normal((2, before.model.image.width)).astype(np.float32)
    else:
        pictures = generator.integers(0, 256, (2, 96, 128, 3), dtype=np.uint8)
    images = before.encode_image(pictures) - after.encode_image(pictures)
    return float(max(np.abs(texts).max(), np.abs(images).max()))
