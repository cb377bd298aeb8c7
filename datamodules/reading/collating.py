"""Samples that were read, and the batch they make."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from datamodules.batch import Batch, Field, text_id
from datamodules.reading.choices import class_of
from datamodules.reading.fields import FieldReader, Value, field_of
from datamodules.shards.samples import Sample
from datamodules.tokenizers.tokenizer import Tokenizer, role_of


class Loaded(NamedTuple):
    """One row of a batch: a sample, or a view of it."""

    sample: Sample
    view: Tensor | None
    texts: Sequence[tuple[int, str] | None]  # one a slot: language index and text
    row: int
    source: int
    values: dict[str, list[Value]]
    scores: dict[str, list[float]]
    preview: bytes = b""


@dataclass
class Collator:
    """Makes rows a batch.

    Args:
        languages: In the order of their indices.
        shape: Of one image; None where pictures are not read.
        label_names: For tasks labelled by strings, the strings in the order of their numbers.
        field_shapes: Of one value of each field.
        scores: Which scores are read: "score", "scores".
        pictured: Whether every sample has a picture.
        prompts: What stands before texts of a role, for each source.
    """

    tokenizer: Tokenizer
    languages: Sequence[str]
    shape: tuple[int, ...] | None
    label_names: Mapping[str, list[str]]
    tasks: Sequence[str]
    fields: Mapping[str, FieldReader]
    field_shapes: Mapping[str, tuple[int, ...]]
    scores: Sequence[str]
    pictured: bool = True
    prompts: Sequence[Mapping[str, str]] = ()

    def __post_init__(self) -> None:
        self._index = {language: i for i, language in enumerate(self.languages)}

    def __call__(self, loaded: Sequence[Loaded | None], slots: int) -> Batch:
        """The batch of rows with so many caption slots each; None is padding."""
        size, cut = len(loaded), self.tokenizer.cut
        languages = [[-1] * slots for _ in range(size)]
        text_ids = [[-1] * slots for _ in range(size)]
        captions = [[""] * slots for _ in range(size)]
        for b, item in enumerate(loaded):
            for k, text in enumerate(item.texts if item else ()):
                if text is not None:
                    languages[b][k], captions[b][k] = text
                    text_ids[b][k] = text_id(text[1])
        present = torch.tensor(languages, dtype=torch.int64).view(size, slots) >= 0
        # without any caption, an empty one says what tokens look like
        texts = [
            (self.languages[text[0]], self._prompt(item, "texts") + text[1])
            for item in loaded
            if item
            for text in item.texts
            if text
        ]
        names, written = zip(*(texts or [("und", "")]), strict=True)
        ids, mask = self.tokenizer(list(written), list(names))
        tokens = ids.new_zeros(size, slots, *ids.shape[1:])
        token_mask = mask.new_zeros(size, slots, mask.shape[1])
        if present.any():
            tokens[present], token_mask[present] = ids, mask
        return Batch(
            images=None if self.shape is None else self._images(loaded, self.shape),
            tokens=tokens,
            token_mask=token_mask,
            present=present,
            languages=torch.tensor(languages, dtype=torch.int64).view(size, slots),
            image_ids=torch.tensor([item.sample.image_id if item else -1 for item in loaded]),
            text_ids=torch.tensor(text_ids, dtype=torch.int64).view(size, slots),
            rows=torch.tensor([item.row if item else -1 for item in loaded]),
            sources=torch.tensor([item.source if item else -1 for item in loaded]),
            ids=[item.sample.id if item else "" for item in loaded],
            captions=captions,
            labels={task: torch.tensor([self._label(item, task) for item in loaded]) for task in self.tasks},
            fields={name: self._field(name, loaded) for name in self.fields},
            scores={name: self._scores(name, loaded) for name in self.scores},
            pictured=None
            if self.pictured
            else torch.tensor([item is not None and item.view is not None for item in loaded]),
            previews=[item.preview if item else b"" for item in loaded],
            cut=self.tokenizer.cut - cut,  # behind the fields, whose texts it reads too
        )

    def _images(self, loaded: Sequence[Loaded | None], shape: tuple[int, ...]) -> Tensor:
        views = [item.view if item else None for item in loaded]
        there = next((view for view in views if view is not None), None)
        dtype = there.dtype if there is not None else torch.uint8 if len(shape) == 3 else torch.float32
        blank = torch.zeros(shape, dtype=dtype)
        return torch.stack([blank if view is None else view for view in views])

    def _field(self, name: str, loaded: Sequence[Loaded | None]) -> Field:
        rows = [item.values[name] if item else [] for item in loaded]
        prompts = [self._prompt(item, name) if item else "" for item in loaded]
        return field_of(self.fields[name], rows, self.field_shapes[name], self.tokenizer, self._index, prompts)

    def _prompt(self, item: Loaded, name: str) -> str:
        """What stands before the texts of this name."""
        return self.prompts[item.source].get(role_of(name), "") if self.prompts else ""

    def _label(self, item: Loaded | None, task: str) -> int:
        return class_of(item.sample.labels.get(task) if item else None, self.label_names.get(task))

    def _scores(self, name: str, loaded: Sequence[Loaded | None]) -> Tensor:
        """The graded "score" [B], or "scores" [B, 1 + n] of the positive and of the negatives that were read."""
        n = self.fields["negatives"].count if "negatives" in self.fields else 0
        rows = []
        for item in loaded:
            there = item.scores[name] if item else []
            places = [0, *(1 + value.place for value in item.values.get("negatives", ()))] if item else []
            own = [there[place] if place < len(there) else math.nan for place in places]
            rows.append((own + [math.nan] * (1 + n))[: 1 + n])
        return torch.tensor(rows, dtype=torch.float32)[:, 0 if name == "score" else slice(None)]
