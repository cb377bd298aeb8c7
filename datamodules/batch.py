"""What a DataLoader yields: images, K captions an image, and where all of it came from.

Letters: B rows, K caption slots, L tokens, H x W pixels, F features.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from hashlib import blake2b
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor


class Skip(NamedTuple):
    """One sample that was left out: the shard it lies in, the cause, and its key there."""

    shard: str
    cause: str
    key: str


@dataclass
class Field:
    """A further input of B samples, n values each.

    values      image uint8 [B, n, 3, H, W]; features float32 [B, n, F] or [B, n, P, F]; text int64 [B, n, L, ...];
                absent ones are all zeros
    present     bool [B, n], which values are there
    mask        bool [B, n, L], of texts: which tokens are there
    languages   int64 [B, n], of texts: index into `ShardDataModule.languages`, -1 absent
    ids         int64 [B, n], equal for equal values
    texts       of texts: they themselves, without a reader's prefix, "" absent
    """

    kind: Literal["image", "features", "text"]
    values: Tensor
    present: Tensor
    mask: Tensor | None = None
    languages: Tensor | None = None
    ids: Tensor | None = None
    texts: list[list[str]] = field(default_factory=list)


@dataclass
class Batch:
    """B rows of one split: a sample each, or in training V rows in turn that are views of one sample.

    images      uint8 [B, 3, H, W] (the tower normalises on the device), patches as NaFlexPipeline packs them, or
                float32 features [B, F] or [B, P, F]; None where no objective reads pictures
    tokens      int64 [B, K, L] (or as the tokenizer gives them, [B, K, L, ...] of any type), token_mask bool [B, K, L];
                absent captions are all zeros and False; K = 0 where no objective reads captions
    present     bool [B, K], which caption slots are filled
    languages   int64 [B, K], index into `ShardDataModule.languages`, -1 absent
    image_ids   int64 [B], equal for equal images
    text_ids    int64 [B, K], equal for equal captions in any language, -1 absent
    rows        int64 [B], index of the sample in its split, -1 for a padding row of validation
    sources     int64 [B], which source of the training mixture it came from, -1 for padding
    adapters    int64 [B], the number of the adapter that reads a row: -1 none, -2 that of each text's language; the
                training module sets it, None where nothing is said
    pictured    bool [B], which samples have a picture, where some may lack one; None for all
    ids         sample ids, "" for padding
    captions    the texts of the K slots, "" absent; a rewritten one keeps its language and has an id of its own
    labels      task -> int64 [B], -1 unlabelled
    fields      further inputs by name
    scores      "score" float32 [B], the graded similarity of query and positive; "scores" float32 [B, 1 + n], a
                reranker's of the positive and of each negative; NaN where there is none
    skipped     what was left out while this batch was made
    cut         texts that the tokenizer cut, where it counts them
    previews    where asked for: a JPEG of each picture, b"" for padding and features
    views       V, the rows of a sample, which share its ids
    drawn       training only: (source, language) -> captions, (source, -1) -> samples; where captions are
                curated, (source, -2 - language) -> captions of the tail
    end         training only: the place behind this batch in the stream, in samples of all ranks
    lengths     int64 [B, K] of numpy, which stays on the CPU: the tokens of each caption, -1 absent; None where
                `token_mask` is there too
    """

    images: Tensor | None
    tokens: Tensor
    token_mask: Tensor
    present: Tensor
    languages: Tensor
    image_ids: Tensor
    text_ids: Tensor
    rows: Tensor
    sources: Tensor
    ids: list[str]
    captions: list[list[str]]
    labels: dict[str, Tensor] = field(default_factory=dict)
    fields: dict[str, Field] = field(default_factory=dict)
    scores: dict[str, Tensor] = field(default_factory=dict)
    pictured: Tensor | None = None
    adapters: Tensor | None = None
    skipped: list[Skip] = field(default_factory=list)
    cut: int = 0
    previews: list[bytes] = field(default_factory=list)
    views: int = 1
    drawn: Counter[tuple[int, int]] = field(default_factory=Counter)
    end: int = 0
    lengths: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def samples(self) -> int:
        """Samples in the batch, each counted once however many views it has."""
        return len(self) // self.views

    @property
    def sample_ids(self) -> list[str]:
        """The id of each sample, once."""
        return self.ids[:: self.views]

    @property
    def parts(self) -> dict[str, Batch]:
        """Itself: the one part of the step, which has no name."""
        return {"": self}

    def only(self, rows: Sequence[int]) -> Batch:
        """These rows alone, as one whose every sample has a picture."""
        chosen = self._each(lambda tensor: tensor[rows])
        for each in chosen.fields.values():
            each.texts = [each.texts[row] for row in rows] if each.texts else []
        ids, captions = [self.ids[row] for row in rows], [self.captions[row] for row in rows]
        previews = [self.previews[row] for row in rows] if self.previews else []
        return replace(chosen, pictured=None, ids=ids, captions=captions, previews=previews, lengths=None)

    def joined(self, other: Batch) -> Batch:
        """The samples of both, those of `other` last, without further inputs; the rest is this batch's own."""
        length = max(self.tokens.shape[2], other.tokens.shape[2])
        values = _tensors(self, lambda tensor: tensor)
        for name, own in values.items():
            parts = [own, getattr(other, name)]
            if name in ("tokens", "token_mask"):
                parts = [_padded(part, length) for part in parts]
            values[name] = torch.cat(parts)
        labels = {task: torch.cat([own, other.labels[task]]) for task, own in self.labels.items()}
        ids, captions = self.ids + other.ids, self.captions + other.captions
        return replace(self, labels=labels, ids=ids, captions=captions, lengths=None, **values)

    def take(self, samples: Tensor) -> Batch:
        """These samples alone, int64 [n], each with its views; what was counted stays that of all."""
        rows = (samples[:, None] * self.views + torch.arange(self.views, device=samples.device)).flatten()
        numbers = rows.tolist()

        def listed(values: list[Any]) -> list[Any]:
            return [values[number] for number in numbers] if values else []

        taken = self._each(lambda tensor: tensor[rows])
        further = {name: replace(each, texts=listed(each.texts)) for name, each in taken.fields.items()}
        lists: dict[str, Any] = {name: listed(getattr(self, name)) for name in ("ids", "captions", "previews")}
        return replace(taken, fields=further, lengths=None if self.lengths is None else self.lengths[numbers], **lists)

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Batch:
        """The same batch with every tensor on `device`; the captions' lengths stay, lest anybody wait for them."""
        moved = self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))
        if self.token_mask.device.type == "cpu" and moved.token_mask.device.type != "cpu":
            moved.lengths = self.token_mask.sum(2).where(self.present, -1).numpy()
        return moved

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory, for DataLoader(pin_memory=True)."""
        return self._each(Tensor.pin_memory)

    def _each(self, function: Callable[[Tensor], Tensor]) -> Batch:
        labels = {task: function(labels) for task, labels in self.labels.items()}
        scores = {name: function(scores) for name, scores in self.scores.items()}
        further = {name: replace(each, **_tensors(each, function)) for name, each in self.fields.items()}
        return replace(self, labels=labels, fields=further, scores=scores, **_tensors(self, function))


@dataclass
class Batches:
    """The batches of one step of several parts, each of one kind.

    parts       name -> Batch, in the order of data.parts
    """

    parts: dict[str, Batch]

    def __len__(self) -> int:
        return sum(map(len, self.parts.values()))

    @property
    def samples(self) -> int:
        """Samples of all parts, each counted once however many views it has."""
        return sum(batch.samples for batch in self.parts.values())

    @property
    def sample_ids(self) -> list[str]:
        """The id of each sample, once."""
        return [name for batch in self.parts.values() for name in batch.sample_ids]

    @property
    def end(self) -> int:
        """The place behind these batches in the stream, in samples of all ranks."""
        return next(iter(self.parts.values())).end

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Batches:
        """The same batches with every tensor on `device`."""
        return Batches({name: batch.to(device, non_blocking) for name, batch in self.parts.items()})

    def pin_memory(self) -> Batches:
        """The same batches in page-locked memory, for DataLoader(pin_memory=True)."""
        return Batches({name: batch.pin_memory() for name, batch in self.parts.items()})


def _tensors(holder: Batch | Field, function: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """The tensors of a dataclass by name, each through the function."""
    values = {part.name: getattr(holder, part.name) for part in fields(holder)}
    return {name: function(value) for name, value in values.items() if isinstance(value, Tensor)}


def _padded(tokens: Tensor, length: int) -> Tensor:
    """Tokens or their mask [B, K, L, ...] with zeros up to a length."""
    B, K, L = tokens.shape[:3]
    return torch.cat([tokens, tokens.new_zeros(B, K, length - L, *tokens.shape[3:])], 2)


def stable_id(content: bytes) -> int:
    """A 63-bit number that is equal for equal bytes, on every machine and in every run."""
    return int.from_bytes(blake2b(content, digest_size=8).digest(), "little") >> 1


def text_id(caption: str) -> int:
    """The id of a caption: of its stripped NFC text, so that two languages that write the same share it."""
    return stable_id(unicodedata.normalize("NFC", caption.strip()).encode())
