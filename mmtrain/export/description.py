"""The facts of a model beside its weights: tokenizer, pictures, languages, similarity."""

from pathlib import Path
from typing import Any

from mmtrain.models.encoder import Encoder
from mmtrain.models.spec import spec_of

# arguments of tokenizers that name files, and where those lie in an export
TOKENIZER_FILES = {"name_or_folder": "./tokenizer", "vocabulary": "./tokenizer/words.json"}


def describe_preprocessing(encoder: Encoder, folder: Path) -> dict[str, Any]:
    """Saves the tokenizer into `folder`/tokenizer; returns the fields that `mmtrain.load` builds preprocessing from."""
    encoder.tokenizer.save(folder / "tokenizer")
    tokenizer = spec_of(encoder.tokenizer)
    for argument, place in TOKENIZER_FILES.items():
        if argument in tokenizer["init_args"]:
            tokenizer["init_args"][argument] = place
    return {
        "languages": encoder.languages,
        "similarity": encoder.metric,
        "scale": encoder.scale,
        "tokenizer": tokenizer,
        "images": spec_of(encoder.images) if encoder.images is not None else None,
    }
