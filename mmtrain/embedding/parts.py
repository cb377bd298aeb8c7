"""Embedding on several processes, in parts that outlive a kill: runs of consecutive samples, in whole batches."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.batch import Batch, Skip
from datamodules.files import whole_file
from datamodules.reading.loaders import make_loader
from datamodules.shards.locations import file_stamp
from datamodules.shards.progress import with_progress
from mmtrain.display.messages import first_line
from mmtrain.display.thumbnails import thumbnail
from mmtrain.embedding.collected import columns, joined, real_samples
from mmtrain.embedding.division import Division
from mmtrain.embedding.processes import Processes
from mmtrain.embedding.splits import MeasuredShards, language_indices
from mmtrain.models.encoder import Encoder


@dataclass(frozen=True)
class Part:
    """n images and m embedded captions of consecutive samples of a split."""

    rows: np.ndarray  # int64 [n], the samples' places in the split
    image_ids: np.ndarray  # int64 [n], equal for equal images
    images: np.ndarray  # float32 [n, D]
    text_rows: np.ndarray  # int64 [m]
    text_languages: np.ndarray  # int64 [m], index into the split's languages
    texts: np.ndarray  # float32 [m, D]
    thumbnails: list[bytes]  # n JPEGs of the whole pictures, or of the name of what has none
    ids: list[str]  # n
    captions: list[list[tuple[int, str]]]  # n lists of (language index, caption), embedded or not
    skipped: list[Skip]


class EmbeddingParts:
    """The parts of one split under one model.

    Args:
        folder: Holds a folder of parts for each model and split.
        fingerprint: Of the model.
        batch_size: Samples that go through the model together.
        part_size: Samples of a part, rounded up to whole batches.
        text_every: Captions of one in so many samples are embedded; None embeds none.
    """

    def __init__(
        self,
        folder: Path,
        encoder: Encoder,
        shards: MeasuredShards,
        *,
        fingerprint: str,
        batch_size: int = 64,
        part_size: int = 1024,
        text_every: int | None = 1,
    ) -> None:
        self.encoder, self.shards = encoder, shards
        self.dataset = shards.dataset
        self.batch_size, self.text_every = batch_size, text_every
        self.part_size = -(-part_size // batch_size) * batch_size
        content = [
            fingerprint,
            shards.languages,
            [batch_size, self.part_size, text_every, shards.preview_side],
            [[shard.shard, len(shard), file_stamp(shard.shard)] for shard in self.dataset.shards],
        ]
        identity = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
        self.division = Division(folder / identity, -(-len(self.dataset) // self.part_size), ["safetensors"])

    def room(self) -> int:
        """Bytes that the rows of the missing parts need at least, and those of all parts once more when joined."""
        samples = min(len(self.division.missing()) * self.part_size, len(self.dataset)) + len(self.dataset)
        return samples * self.encoder.model.dimension * 4

    def embed(self, processes: Processes, workers: int = 0) -> None:
        """Makes the parts with the other processes, as `Division.make` does."""
        self.division.make(processes, lambda numbers: self._make(numbers, workers, processes))

    def read(self) -> Iterator[Part]:
        """All parts in the split's order.

        Raises:
            ValueError: when one cannot be read.
        """
        for number in range(self.division.count):
            yield _part(_tensors(self.division.path(number)))

    def image_ids(self) -> Iterator[int]:
        """The image of every sample that could be read, in the split's order."""
        for number in range(self.division.count):
            yield from _tensors(self.division.path(number), "image_ids")["image_ids"].tolist()

    def _make(self, numbers: Sequence[int], workers: int, processes: Processes) -> None:
        if not numbers:
            return
        draws = ([self.dataset.at(row) for row in rows] for number in numbers for rows in self._batches(number))
        batches = make_loader(DataLoader, self.dataset, draws, workers)
        total = sum(len(rows) for number in numbers for rows in self._batches(number))
        loader = with_progress(batches, "embedding", total, "samples", len, quiet=processes.rank > 0)
        indices = language_indices(self.encoder, self.shards.languages)
        with torch.inference_mode(), closing(loader):
            for number in numbers:
                encoded = [self._encode(next(loader), indices) for _ in self._batches(number)]
                if not self.division.folder.exists():  # process 0 made the rest itself and is done
                    return
                _write(self.division.path(number), encoded)

    def _batches(self, number: int) -> list[range]:
        """The rows of each batch of a part."""
        end = min(len(self.dataset), (number + 1) * self.part_size)
        starts = range(number * self.part_size, end, self.batch_size)
        return [range(start, min(start + self.batch_size, end)) for start in starts]

    def _encode(self, batch: Batch, indices: Tensor) -> tuple[Batch, dict[str, np.ndarray]]:
        """Embeds the images and the chosen captions, which are tokenised here: few are, of an exact index none."""
        chosen = torch.zeros_like(batch.present)
        if self.text_every is not None:
            sampled = (batch.rows >= 0) & (batch.rows % self.text_every == 0)
            trained = (indices >= 0) | (not self.encoder.languages)  # another library's model does not say
            chosen = batch.present & sampled[:, None] & trained[batch.languages.clamp(min=0)]
        model, device = self.encoder.model, self.encoder.device
        assert batch.images is not None
        images = model.encode_image(batch.images.to(device))
        b, k = chosen.nonzero(as_tuple=True)
        texts = images[:0]
        if len(b):
            captions = [batch.captions[i][j] for i, j in zip(b.tolist(), k.tolist(), strict=True)]
            languages = batch.languages[b, k]
            tokenizer = self.encoder.tokenizer_for("query")
            tokens, mask = tokenizer(captions, [self.shards.languages[i] for i in languages.tolist()])
            texts = model.encode_text(tokens.to(device), mask.to(device), indices[languages].to(device))
        return batch, columns(batch, images, texts, b, k)


def _write(path: Path, encoded: Sequence[tuple[Batch, dict[str, np.ndarray]]]) -> None:
    thumbnails, ids, captions, skipped = [], [], [], []
    for batch, _ in encoded:
        assert batch.images is not None
        for i in real_samples(batch):
            slots = batch.present[i].nonzero()[:, 0].tolist()
            thumbnails.append(batch.previews[i] or thumbnail(batch.images[i], batch.ids[i]))
            ids.append(batch.ids[i])
            captions.append([(int(batch.languages[i, slot]), batch.captions[i][slot]) for slot in slots])
        skipped += batch.skipped
    parts = [part for _, part in encoded]
    tensors = {name: joined(parts, name) for name in parts[0]}
    tensors["thumbnails"] = np.frombuffer(b"".join(thumbnails), np.uint8)
    tensors["thumbnail_sizes"] = np.array([len(content) for content in thumbnails], np.int64)
    texts = json.dumps({"ids": ids, "captions": captions, "skipped": skipped}, ensure_ascii=False)
    tensors["json"] = np.frombuffer(texts.encode(errors="replace"), np.uint8)  # half a pair is no text
    try:
        with whole_file(path, make_folder=False) as unfinished:
            save_file(tensors, unfinished)
    except FileNotFoundError:  # process 0 is done and removed the folder
        if path.parent.exists():
            raise


def _tensors(path: Path, *names: str) -> dict[str, np.ndarray]:
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in names or file.keys()}
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path}: cannot be read ({first_line(error)}); remove it and start again") from error


def _part(tensors: dict[str, np.ndarray]) -> Part:
    texts = json.loads(tensors.pop("json").tobytes().decode())
    ends = np.cumsum(tensors.pop("thumbnail_sizes")).tolist()
    content = tensors.pop("thumbnails").tobytes()
    return Part(
        **tensors,
        thumbnails=[content[start:end] for start, end in pairwise([0, *ends])],
        ids=texts["ids"],
        captions=[[(language, caption) for language, caption in each] for each in texts["captions"]],
        skipped=[Skip(*each) for each in texts["skipped"]],
    )
