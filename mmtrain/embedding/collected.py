"""A split's embeddings, collected over batches and processes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor, distributed

from datamodules.batch import Batch
from losses import Embeddings


@dataclass
class Embedded:
    """N images and M captions in one space. Samples of the same image share one row."""

    images: np.ndarray  # float32 [N, D]
    texts: np.ndarray  # float32 [M, D]
    image_of_text: np.ndarray  # int64 [M]
    language_of_text: np.ndarray  # int64 [M], index into the data module's languages
    captions: list[str]  # M
    ids: list[str]  # N, the sample's id
    rows: np.ndarray  # int64 [N], the sample's place in the split
    row_of_text: np.ndarray  # int64 [M], the place of the caption's own sample
    labels: dict[str, np.ndarray]  # task -> int64 [M], of the caption's own sample, -1 unlabelled

    @classmethod
    def empty(cls, dimension: int) -> "Embedded":
        """No images, no captions."""
        rows, places = np.zeros((0, dimension), np.float32), np.zeros(0, np.int64)
        return cls(rows, rows, places, places, [], [], places, places, {})


def of_all_processes(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """In process 0 the parts that every process collected, without those that hold no rows; in the others none."""
    if distributed.is_available() and distributed.is_initialized():
        gathered: list[Any] | None = [None] * distributed.get_world_size() if distributed.get_rank() == 0 else None
        distributed.gather_object(parts, gathered)
        parts = [part for process in gathered or () for part in process]
    return [part for part in parts if len(part["rows"])]


def joined(parts: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    """One column of all parts."""
    return np.concatenate([part[name] for part in parts])


def real_samples(batch: Batch) -> list[int]:
    """The samples of a batch, those of padding and broken ones (rows = -1) left out."""
    return (batch.rows >= 0).nonzero()[:, 0].tolist()


def real_captions(batch: Batch) -> tuple[Tensor, Tensor]:
    """Samples and slots of the captions of a batch, those of padding and broken samples (rows = -1) left out."""
    b, k = (batch.present & (batch.rows >= 0).unsqueeze(1)).nonzero(as_tuple=True)
    return b, k


def columns(batch: Batch, images: Tensor, texts: Tensor, b: Tensor, k: Tensor) -> dict[str, np.ndarray]:
    """The real samples of a batch, with their rows of `images` [B, D], and the captions of samples `b`, slots `k`, with
    `texts` [m, D].
    """
    real = real_samples(batch)
    tensors = {
        "rows": batch.rows[real],
        "image_ids": batch.image_ids[real],
        "images": images[real].float(),
        "text_rows": batch.rows[b],
        "text_languages": batch.languages[b, k],
        "texts": texts.float(),
    }
    return {name: tensor.cpu().numpy() for name, tensor in tensors.items()}


@dataclass
class EmbeddedSplit:
    """Collects batches."""

    parts: list[dict[str, Any]] = field(default_factory=list)

    def add(self, batch: Batch, embeddings: Embeddings) -> None:
        b, k = real_captions(batch)
        captions = [batch.captions[i][j] for i, j in zip(b.tolist(), k.tolist(), strict=True)]
        assert embeddings.image is not None and embeddings.texts is not None
        self.parts.append(
            columns(batch, embeddings.image, embeddings.texts[b, k], b, k)
            | {
                "ids": np.array([batch.ids[i] for i in real_samples(batch)], dtype=object),
                "text_image_ids": batch.image_ids[b].cpu().numpy(),
                "captions": np.array(captions, dtype=object),
                "labels": {task: labels[b].cpu().numpy() for task, labels in batch.labels.items()},
            }
        )

    def gather(self) -> Embedded | None:
        """The whole split in its own order, in process 0; None when it is empty, and in other processes."""
        parts = of_all_processes(self.parts)
        if not parts:
            return None
        # sorted by place in the split: the result does not depend on how many processes read it
        order, text_order = (np.argsort(joined(parts, name), kind="stable") for name in ("rows", "text_rows"))
        image_ids = joined(parts, "image_ids")
        first = order[np.sort(np.unique(image_ids[order], return_index=True)[1])]  # the first sample of each image
        number = {image: place for place, image in enumerate(image_ids[first])}
        labels = [part["labels"] for part in parts]
        return Embedded(
            images=joined(parts, "images")[first],
            texts=joined(parts, "texts")[text_order],
            image_of_text=np.array([number[i] for i in joined(parts, "text_image_ids")[text_order]], dtype=np.int64),
            language_of_text=joined(parts, "text_languages")[text_order],
            captions=joined(parts, "captions")[text_order].tolist(),
            ids=joined(parts, "ids")[first].tolist(),
            rows=joined(parts, "rows")[first],
            row_of_text=joined(parts, "text_rows")[text_order],
            labels={task: joined(labels, task)[text_order] for task in labels[0]},
        )
