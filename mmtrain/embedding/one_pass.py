"""One pass over a split: each image is decoded and encoded once, and every collector sees the same rows."""

from collections.abc import Sequence
from tempfile import TemporaryFile
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from datamodules.batch import Batch
from datamodules.shards.progress import with_progress
from losses import Embeddings
from mmtrain.display.thumbnails import thumbnail
from mmtrain.embedding.collected import Embedded, EmbeddedSplit, real_captions, real_samples
from mmtrain.embedding.splits import MeasuredShards, language_indices
from mmtrain.models.batches import as_queries, embed_batch
from mmtrain.models.encoder import Encoder


class Collector(Protocol):
    """Keeps what it needs of a batch on the CPU and of its embeddings on the model's device."""

    def add(self, batch: Batch, embeddings: Embeddings) -> None: ...


def embed(
    encoder: Encoder,
    shards: MeasuredShards,
    collectors: Sequence[Collector] = (),
    *,
    tokens: bool = False,
    multi: bool = False,
    texts: bool = True,
) -> Embedded:
    """Every image and caption of the test split; broken samples are counted and left out, and samples without an image
    are left out where the split may have some.

    Args:
        encoder: The model.
        shards: What is embedded.
        collectors: See every batch with its embeddings.
        tokens: Whether the embeddings include token features.
        multi: Whether they include token rows.
        texts: Whether captions are encoded.

    Raises:
        ValueError: when no sample could be read.
    """
    indices = language_indices(encoder, shards.languages).to(encoder.device)
    rows = EmbeddedSplit()
    loader, read = shards.loader(), 0
    with torch.inference_mode():
        for batch in with_progress(loader, "embedding", len(shards), "samples", lambda batch: len(real_samples(batch))):
            shards.count(batch)
            read += len(real_samples(batch))
            if batch.pictured is not None:
                batch = batch.only(batch.pictured.nonzero()[:, 0].tolist())
                if not len(batch):
                    continue
            moved = batch.to(encoder.device)
            chosen = None if texts else torch.zeros_like(moved.present)
            embeddings = embed_batch(encoder.model, moved, tokens=tokens, multi=multi, chosen=chosen, languages=indices)
            embeddings = as_queries(encoder.model, embeddings)
            for collector in (rows, *collectors):
                collector.add(batch, embeddings)
    shards.account.check(epoch_end=True)
    split = rows.gather()
    if not read:
        raise ValueError("--data: no sample could be read")
    return Embedded.empty(encoder.model.dimension) if split is None else split


class Thumbnails:
    """JPEGs of the images as the model sees them, by their place in the split; in a temporary file."""

    def __init__(self) -> None:
        self._file = TemporaryFile()  # noqa: SIM115  # open as long as the collector
        self._places: dict[int, tuple[int, int]] = {}

    def add(self, batch: Batch, embeddings: Embeddings) -> None:
        assert batch.images is not None
        for place, row in enumerate(batch.rows.tolist()):
            if row >= 0:
                content = thumbnail(batch.images[place], batch.ids[place])
                self._places[row] = self._file.tell(), len(content)
                self._file.write(content)

    def __getitem__(self, row: int) -> bytes:
        start, size = self._places[row]
        self._file.seek(start)
        return self._file.read(size)


class Features:
    """Token features in half precision, N P W + M L W numbers, so that a fusion encoder can judge any pair."""

    def __init__(self) -> None:
        self._images: dict[int, Tensor] = {}
        self._texts: list[tuple[Tensor, list[Tensor]]] = []

    def add(self, batch: Batch, embeddings: Embeddings) -> None:
        images, texts = embeddings.image_tokens, embeddings.text_tokens
        assert images is not None and texts is not None
        for row, features in zip(batch.rows.tolist(), images.leading.half().cpu(), strict=True):
            if row >= 0:
                self._images[row] = features
        b, k = real_captions(batch)
        lengths = (batch.token_mask[b, k].sum(1) + 1).tolist()
        features = texts.leading[b, k].half().cpu()
        own = [each[:length].clone() for each, length in zip(features, lengths, strict=True)]
        self._texts.append((batch.rows[b], own))

    def of(self, split: Embedded) -> tuple[Tensor, list[Tensor]]:
        """Of the split's images [N, 1 + P, Wi], and of its captions, each [1 + L, Wt]; empties the collector."""
        rows = torch.cat([rows for rows, _ in self._texts])
        texts = [each for _, part in self._texts for each in part]
        images = torch.stack([self._images[int(row)] for row in split.rows])
        self._images, self._texts = {}, []
        return images, [texts[place] for place in rows.argsort(stable=True).tolist()]


def padded(texts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """float32 [n, 1 + L, W] of token features of different lengths, and the mask bool [n, 1 + L]."""
    rows = pad_sequence([each.float() for each in texts], batch_first=True)
    lengths = torch.from_numpy(np.array([len(each) for each in texts]))
    return rows, torch.arange(rows.shape[1]) < lengths[:, None]
