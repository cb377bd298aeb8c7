"""The files that a tokenizer is made from, inside a checkpoint: it is made again wherever the checkpoint lies."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from datamodules.tokenizers import Tokenizer, TransformersTokenizer, WordTokenizer
from mmtrain.models.spec import build, spec_of

# arguments of tokenizers that are files or folders, and where `Tokenizer.save` puts what they name
ARGUMENTS = {"name_or_folder": ".", "vocabulary": "words.json"}
Files = dict[str, Tensor]


def carried(tokenizer: Tokenizer) -> Files:
    """Name -> uint8 content of the files of a tokenizer; none for one of a hub, or of one's own class."""
    local = isinstance(tokenizer, TransformersTokenizer) and Path(tokenizer.name_or_folder).exists()
    return saved(tokenizer) if local or isinstance(tokenizer, WordTokenizer) else {}


def saved(tokenizer: Tokenizer) -> Files:
    """Name -> uint8 content of what `tokenizer.save` writes."""
    with TemporaryDirectory() as folder:
        tokenizer.save(folder)
        return {
            path.relative_to(folder).as_posix(): torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)
            for path in Path(folder).rglob("*")
            if path.is_file() and path.stat().st_size
        }


def make_tokenizer(spec: dict[str, Any], files: Files) -> Tokenizer:
    """The tokenizer that `spec` describes, from its carried files or, without any, from those that `spec` names.

    Raises ValueError for a file that would lie elsewhere.
    """
    if not files:
        return build(spec, Tokenizer)  # type: ignore[type-abstract]
    named = {name: value for name, value in spec["init_args"].items() if name in ARGUMENTS}
    with TemporaryDirectory() as folder:
        for name, content in files.items():
            path = Path(folder, name)
            if not path.resolve().is_relative_to(Path(folder).resolve()):
                raise ValueError(f"checkpoint: the tokenizer's file {name!r} would lie elsewhere; it is not read")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.numpy().tobytes())
        places = {name: str(Path(folder, ARGUMENTS[name])) for name in named}
        tokenizer = build(spec | {"init_args": spec["init_args"] | places}, Tokenizer)  # type: ignore[type-abstract]
    for name, value in named.items():  # what people know it by
        setattr(tokenizer, name, value)
    return tokenizer


def alike(one: Tokenizer, other: Tokenizer) -> bool:
    """Whether two tokenizers are one, wherever their files lie."""
    specs = [spec_of(tokenizer) for tokenizer in (one, other)]
    if specs[0] == specs[1]:
        return True
    for spec in specs:
        spec["init_args"] = {name: value for name, value in spec["init_args"].items() if name not in ARGUMENTS}
    if specs[0] != specs[1]:
        return False
    files = saved(one), saved(other)
    return files[0].keys() == files[1].keys() and all(torch.equal(files[0][name], files[1][name]) for name in files[0])
