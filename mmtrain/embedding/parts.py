"""Embedding on several processes, in parts that outlive a kill and need no network between the processes.

A part is a run of consecutive samples, written to a file of its own under a temporary name, then renamed. Which samples
it holds, and in which batches they go through the model, does not depend on the number of processes: any number of
them makes the same files, and those a killed embedding left are good for another one. Process r takes every
world-th part from r on; when process 0 is through it makes what is still missing, so it never waits for one that died.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules import Batch, ShardDataModule
from datamodules.batch import Skip
from datamodules.reading.dataset import Draw, ShardDataset
from datamodules.reading.loaders import make_loader
from mmtrain.display.messages import first_line
from mmtrain.display.thumbnails import thumbnail
from mmtrain.embedding.processes import Processes
from mmtrain.embedding.splits import language_indices
from mmtrain.models.batches import embed_batch
from mmtrain.models.encoder import Encoder

LEAVING_SECONDS = 60  # how long process 0, when all parts are there, leaves the others to notice


@dataclass(frozen=True)
class Part:
    """n pictures and m embedded captions of consecutive samples of a split."""

    rows: np.ndarray  # int64 [n], the samples' places in the split
    image_ids: np.ndarray  # int64 [n], equal for equal pictures
    images: np.ndarray  # float32 [n, D]
    text_rows: np.ndarray  # int64 [m]
    text_languages: np.ndarray  # int64 [m], index into the split's languages
    texts: np.ndarray  # float32 [m, D]
    thumbnails: list[bytes]  # n
    ids: list[str]  # n
    captions: list[list[tuple[int, str]]]  # n lists of (language index, caption), those that were not embedded too
    skipped: list[Skip]


class EmbeddingParts:
    """The parts of one split under one model.

    Args:
        folder: Where the parts lie; each model and split has a folder of its own below it.
        fingerprint: Of the model.
        batch_size: Samples that go through the model together.
        part_size: Samples of a part, rounded up to whole batches.
        text_every: Captions of every so many samples are embedded; None embeds none.
    """

    def __init__(
        self,
        folder: Path,
        encoder: Encoder,
        shards: ShardDataModule,
        *,
        fingerprint: str,
        batch_size: int = 64,
        part_size: int = 1024,
        text_every: int | None = 1,
    ) -> None:
        self.encoder, self.shards = encoder, shards
        loader = shards.test_dataloader()
        assert isinstance(loader, DataLoader) and isinstance(loader.dataset, ShardDataset)
        self.dataset = loader.dataset
        self.batch_size, self.text_every = batch_size, text_every
        self.part_size = -(-part_size // batch_size) * batch_size
        self.count = -(-len(self.dataset) // self.part_size)
        content = [
            fingerprint,
            shards.languages,
            [batch_size, self.part_size, text_every],
            [[shard.shard, len(shard), _stamp(shard.shard)] for shard in self.dataset.shards],
        ]
        identity = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
        self.parent, self.folder = folder, folder / identity

    def missing(self) -> list[int]:
        """Parts that are not written yet."""
        written = {path.name for path in self.folder.glob("*.safetensors")}
        return [number for number in range(self.count) if self._path(number).name not in written]

    def embed(self, processes: Processes, workers: int = 0) -> None:
        """Makes this process's parts that are missing; process 0 then those that the others have not made yet.

        Raises:
            OSError: when a part cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        left = self._path(processes.rank, "left")
        left.unlink(missing_ok=True)
        missing = self.missing()
        if processes.rank == 0 and len(missing) < self.count:
            print(f"{self.folder}: going on, {self.count - len(missing)} of {self.count} parts are there")
        self._make([number for number in missing if number % processes.world == processes.rank], workers, processes)
        if processes.rank:
            if self.folder.exists():
                left.touch()
            return
        # from the end: whoever still works on a part of its own is more likely at its beginning
        for number in reversed(self.missing()):
            if not self._path(number).exists():
                self._make([number], workers, processes)

    def read(self) -> Iterator[Part]:
        """All parts in the split's order.

        Raises:
            ValueError: when one cannot be read.
        """
        for number in range(self.count):
            yield _part(_tensors(self._path(number)))

    def image_ids(self) -> Iterator[int]:
        """The picture of every sample that could be read, in the split's order."""
        for number in range(self.count):
            yield from _tensors(self._path(number), "image_ids")["image_ids"].tolist()

    def remove(self, processes: Processes) -> None:
        """Removes the parts once the other processes have noticed that there is nothing left to do."""
        deadline = time.monotonic() + LEAVING_SECONDS
        others = [self._path(rank, "left") for rank in range(1, processes.world)]
        while time.monotonic() < deadline and not all(path.exists() for path in others):
            time.sleep(0.2)
        shutil.rmtree(self.parent, ignore_errors=True)

    def _make(self, numbers: Sequence[int], workers: int, processes: Processes) -> None:
        from rich.progress import track

        if not numbers:
            return
        batches = _Batches(self.dataset, numbers, self.part_size, self.batch_size)
        loader = iter(make_loader(DataLoader, self.dataset, batches, workers))  # type: ignore[arg-type]  # batches of draws
        indices = language_indices(self.encoder, self.shards.languages)
        shown = track(numbers, description="embedding", transient=True, disable=processes.rank > 0)
        with torch.inference_mode():
            for number in shown:
                encoded = [self._encode(next(loader), indices) for _ in batches.of(number)]
                if not self.folder.exists():  # process 0 made the rest itself and is done
                    return
                _write(self._path(number), encoded)

    def _encode(self, batch: Batch, indices: Tensor) -> tuple[Batch, Tensor, Tensor, Tensor]:
        chosen = torch.zeros_like(batch.present)
        if self.text_every is not None:
            sampled = (batch.rows >= 0) & (batch.rows % self.text_every == 0)
            known = (indices >= 0) | (not self.encoder.languages)  # another library's model does not say
            chosen = batch.present & sampled[:, None] & known[batch.languages.clamp(min=0)]
        device = self.encoder.device
        moved = batch.to(device)
        rows = embed_batch(self.encoder.model, moved, chosen=chosen.to(device), languages=indices.to(device))
        assert rows.image is not None
        return batch, rows.image.cpu(), rows.texts.cpu(), chosen

    def _path(self, number: int, ending: str = "safetensors") -> Path:
        return self.folder / f"{number:06d}.{ending}"


class _Batches:
    """The batches of some parts, one part after the other."""

    def __init__(self, dataset: ShardDataset, numbers: Sequence[int], part_size: int, batch_size: int) -> None:
        self._dataset, self._numbers, self._part_size, self._batch_size = dataset, numbers, part_size, batch_size

    def of(self, number: int) -> list[range]:
        """The rows of each batch of a part."""
        end = min(len(self._dataset), (number + 1) * self._part_size)
        starts = range(number * self._part_size, end, self._batch_size)
        return [range(start, min(start + self._batch_size, end)) for start in starts]

    def __len__(self) -> int:
        return sum(len(self.of(number)) for number in self._numbers)

    def __iter__(self) -> Iterator[list[Draw]]:
        for number in self._numbers:
            for rows in self.of(number):
                yield [self._dataset.at(row) for row in rows]


def _write(path: Path, encoded: Sequence[tuple[Batch, Tensor, Tensor, Tensor]]) -> None:
    tensors: dict[str, list[np.ndarray]] = {}
    pictures, ids, captions, skipped = [], [], [], []
    for batch, images, texts, wanted in encoded:
        kept = (batch.rows >= 0).nonzero()[:, 0].tolist()
        b, k = wanted.nonzero(as_tuple=True)
        for name, tensor in {
            "rows": batch.rows[kept],
            "image_ids": batch.image_ids[kept],
            "images": images[kept].float(),
            "text_rows": batch.rows[b],
            "text_languages": batch.languages[b, k],
            "texts": texts[b, k].float(),
        }.items():
            tensors.setdefault(name, []).append(tensor.numpy())
        pictures += [thumbnail(batch.images[i], batch.ids[i]) for i in kept]
        ids += [batch.ids[i] for i in kept]
        for i in kept:
            slots = batch.present[i].nonzero()[:, 0].tolist()
            captions.append([(int(batch.languages[i, slot]), batch.captions[i][slot]) for slot in slots])
        skipped += batch.skipped
    listed = json.dumps({"ids": ids, "captions": captions, "skipped": skipped}, ensure_ascii=False)
    joined = {name: np.concatenate(parts) for name, parts in tensors.items()}
    joined["thumbnails"] = np.frombuffer(b"".join(pictures), np.uint8)
    joined["thumbnail_sizes"] = np.array([len(picture) for picture in pictures], np.int64)
    joined["json"] = np.frombuffer(listed.encode(errors="replace"), np.uint8)  # half a pair is no text
    unfinished = path.with_name(f".{path.name}.{os.uname().nodename}.{os.getpid()}")
    try:
        save_file(joined, unfinished)
        unfinished.replace(path)
    except FileNotFoundError:
        if path.parent.exists():
            raise
    finally:
        unfinished.unlink(missing_ok=True)


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
    pictures = [content[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    captions = [[(language, caption) for language, caption in each] for each in texts["captions"]]
    skipped = [Skip(*each) for each in texts["skipped"]]
    return Part(**tensors, thumbnails=pictures, ids=texts["ids"], captions=captions, skipped=skipped)


def _stamp(shard: str) -> list[int] | None:
    """Size and time of a local shard: a mended one is another."""
    path = Path(shard.removeprefix("file://"))
    return [path.stat().st_size, path.stat().st_mtime_ns] if path.is_file() else None
