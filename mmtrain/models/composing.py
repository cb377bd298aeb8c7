"""Texts with pictures as one row each, by a model that composes: queries of several inputs, and what they look for."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from datamodules.batch import Field
from datamodules.reading.fields import Pieces, Text, Value, field_of
from mmtrain.models.batches import compose
from mmtrain.models.image_text import ImageTextModel

if TYPE_CHECKING:
    from mmtrain.models.encoder import Encoder

AT_ONCE = 64


def composes(encoder: "Encoder") -> bool:
    """Whether a network of the model makes one row of several inputs."""
    return isinstance(encoder.model, ImageTextModel) and encoder.model.composer is not None


def composed_rows(
    encoder: "Encoder",
    texts: Sequence[Sequence[str]],
    pictures: Sequence[Tensor],
    languages: Sequence[str],
    role: str | None = None,
    adapter: str | None = None,
) -> Tensor:
    """Rows float32 [N, D], on the CPU, of N texts with their pictures, by a model that composes.

    Args:
        encoder: Of that model.
        texts: Each in pieces, see `datamodules.Pieces`; without any for pictures alone.
        pictures: Of each text [n, ...], as the image tower takes them.
        languages: Of the texts, "" where it is not known.
        role: Of the texts, as for `Encoder.encode_text`.
        adapter: Likewise.
    """
    parts = []
    for start in range(0, len(texts), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        fields = _texts(encoder, texts[part], languages[part], role), _pictures(pictures[part])
        by = [encoder.adapter_number(adapter, language or None) for language in languages[part]]
        said = any(number is not None for number in by)
        adapters = torch.tensor([-1 if number is None else number for number in by]) if said else None
        parts.append(_composed(encoder, *fields, adapters))
    return torch.cat(parts)


def _texts(encoder: "Encoder", texts: Sequence[Sequence[str]], languages: Sequence[str], role: str | None) -> Field:
    rows = [
        [Value(Text(language, piece), 0) for piece in each] for each, language in zip(texts, languages, strict=True)
    ]
    numbers = {language: number for number, language in enumerate(encoder.languages)}
    prompts = [encoder.model.prompts.get(role or "", "")] * len(rows)
    return field_of(Pieces("text", max(1, *map(len, rows))), rows, None, encoder.tokenizer, numbers, prompts)


def _pictures(pictures: Sequence[Tensor]) -> Field:
    values = pad_sequence(list(pictures), batch_first=True)
    count = torch.tensor([len(each) for each in pictures])
    return Field("image", values, torch.arange(values.shape[1]) < count[:, None])


def _composed(encoder: "Encoder", texts: Field, pictures: Field, adapters: Tensor | None) -> Tensor:
    model = encoder.model
    assert isinstance(model, ImageTextModel)
    words, seen = _moved(texts, encoder.device), _moved(pictures, encoder.device)
    adapters = None if adapters is None else adapters.to(encoder.device)
    with torch.inference_mode(), encoder.autocast():
        return compose(model, words, seen, adapters=adapters)[0].rows[:, 0].float().cpu()


def _moved(field: Field, device: torch.device) -> Field:
    tensors: dict[str, Any] = {
        name: value.to(device) for name, value in vars(field).items() if isinstance(value, Tensor)
    }
    return replace(field, **tensors)
