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
from mmtrain.embedding.items import item_rows
from mmtrain.embedding.processes import Processes
from mmtrain.embedding.splits import MeasuredShards, language_indices
from mmtrain.models.composing import composes
from mmtrain.models.encoder import Encoder
from mmtrain.models.token_rows import Stored, TokenPooling, kept, pooled, stored


@dataclass(frozen=True)
class TokenOptions:
    """Which token rows of pictures are kept.

    Attributes:
        dtype: In which they are stored.
        budget: The most of a picture; None for all.
        pooling: How more become so many.
    """

    dtype: Stored
    budget: int | None = None
    pooling: TokenPooling = "kmeans"


@dataclass(frozen=True)
class PartTokens:
    """Token rows of a part: n pictures, of which the sampled ones and m captions have exact rows too."""

    rows: np.ndarray  # float16 or int8 [sum of counts, d]
    counts: np.ndarray  # int64 [n]
    clusters: np.ndarray  # int16 [n, P], the row that stands for each patch
    exact: np.ndarray  # float32 [.., d], of sampled pictures
    exact_counts: np.ndarray  # int64 [n], 0 for others
    texts: np.ndarray  # float32 [.., d]
    text_counts: np.ndarray  # int64 [m]


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
    tokens: PartTokens | None = None


class EmbeddingParts:
    """The parts of one split under one model.

    Args:
        folder: Holds a folder of parts for each model and split.
        fingerprint: Of the model.
        batch_size: Samples that go through the model together.
        part_size: Samples of a part, rounded up to whole batches.
        text_every: Captions of one in so many samples are embedded; None embeds none.
        tokens: Token rows that are made beside the rows.
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
        tokens: TokenOptions | None = None,
    ) -> None:
        self.encoder, self.shards = encoder, shards
        self.dataset = shards.dataset
        self.batch_size, self.text_every = batch_size, text_every
        self.tokens = tokens
        self.part_size = -(-part_size // batch_size) * batch_size
        content = [
            fingerprint,
            shards.languages,
            [batch_size, self.part_size, text_every, shards.preview_side],
            [[shard.shard, len(shard), file_stamp(shard.shard)] for shard in self.dataset.shards],
        ]
        if tokens is not None:
            content.append([tokens.dtype, tokens.budget, tokens.pooling])
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
        sampled = torch.zeros_like(batch.rows, dtype=torch.bool)
        if self.text_every is not None:
            sampled = (batch.rows >= 0) & (batch.rows % self.text_every == 0)
            trained = (indices >= 0) | (not self.encoder.languages)  # another library's model does not say
            chosen = batch.present & sampled[:, None] & trained[batch.languages.clamp(min=0)]
        model, device = self.encoder.model, self.encoder.device
        assert batch.images is not None
        b, k = chosen.nonzero(as_tuple=True)
        languages = batch.languages[b, k]
        captions = [batch.captions[i][j] for i, j in zip(b.tolist(), k.tolist(), strict=True)]
        names = [self.shards.languages[i] for i in languages.tolist()]
        inputs = [each.to(device) for each in self.encoder.tokenizer_for("query")(captions, names)] if len(b) else []
        inputs += [indices[languages].to(device)] if inputs else []
        pixels = batch.images.to(device)
        if self.tokens is None:
            composing = composes(self.encoder)
            images = item_rows(self.encoder, batch, self.shards.languages) if composing else model.encode_image(pixels)
            texts = model.encode_text(*inputs) if inputs else images[:0]
            return batch, columns(batch, images, texts, b, k)
        images, *patches = (each.cpu() for each in model.encode_image_multi(pixels))
        texts, *words = (each.cpu() for each in model.encode_text_multi(*inputs)) if inputs else (images[:0],)
        tokens = _tokens(self.tokens, patches, words, real_samples(batch), sampled.tolist())
        if pixels.ndim != 4:  # features lie nowhere in a picture
            tokens["token_clusters"] = tokens["token_clusters"][:, :0]
        return batch, columns(batch, images, texts, b, k) | tokens


def _tokens(
    options: TokenOptions, patches: Sequence[Tensor], words: Sequence[Tensor], real: list[int], sampled: list[bool]
) -> dict[str, np.ndarray]:
    """The columns of `PartTokens` of a batch, from the token rows and masks of its pictures and of its captions."""
    rows, mask = patches
    exact = [rows[i][mask[i]] for i in real]
    few = [pooled(each, options.budget or len(each), options.pooling) for each in exact]
    measured = [each for each, i in zip(exact, real, strict=True) if sampled[i]]
    texts = list(kept(words[0], words[1])) if words else []
    nothing = rows.new_zeros(0, rows.shape[2])

    def flat(parts: Sequence[Tensor]) -> np.ndarray:
        return torch.cat([nothing, *parts]).float().numpy()

    return {
        "token_rows": stored(flat([centres for centres, _ in few]), options.dtype),
        "token_counts": np.array([len(centres) for centres, _ in few], np.int64),
        "token_clusters": np.array([cluster.numpy() for _, cluster in few], np.int16).reshape(len(real), -1),
        "token_exact": flat(measured),
        "token_exact_counts": np.array([sampled[i] * len(exact[n]) for n, i in enumerate(real)], np.int64),
        "token_texts": flat(texts),
        "token_text_counts": np.array([len(each) for each in texts], np.int64),
    }


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
    prefix = "token_"
    tokens = {name.removeprefix(prefix): tensors.pop(name) for name in list(tensors) if name.startswith(prefix)}
    return Part(
        **tensors,
        thumbnails=[content[start:end] for start, end in pairwise([0, *ends])],
        ids=texts["ids"],
        captions=[[(language, caption) for language, caption in each] for each in texts["captions"]],
        skipped=[Skip(*each) for each in texts["skipped"]],
        tokens=PartTokens(**tokens) if tokens else None,
    )
