"""A split's embeddings, collected over batches and processes."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor, distributed

from datamodules.batch import Batch
from losses import Embeddings


@dataclass
class Embedded:
    """N pictures and M captions in one space. Rows that show the same picture are one picture."""

    images: np.ndarray  # float32 [N, D]
    texts: np.ndarray  # float32 [M, D]
    image_of_text: np.ndarray  # int64 [M]
    language_of_text: np.ndarray  # int64 [M], index into the data module's languages
    captions: list[str]  # M
    ids: list[str]  # N, the sample's id
    rows: np.ndarray  # int64 [N], the sample's place in the split
    row_of_text: np.ndarray  # int64 [M], the place of the caption's own sample
    labels: dict[str, np.ndarray]  # task -> int64 [M], of the caption's own sample, -1 unlabelled


def of_all_processes(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The parts that every process collected, without those that hold no rows."""
    if distributed.is_available() and distributed.is_initialized():
        gathered: list[Any] = [None] * distributed.get_world_size()
        distributed.all_gather_object(gathered, parts)
        parts = [part for process in gathered for part in process]
    return [part for part in parts if len(part["rows"])]


def real_captions(batch: Batch) -> tuple[Tensor, Tensor]:
    """Samples and slots of the captions of a batch, those of padding and broken samples (rows = -1) left out."""
    b, k = (batch.present & (batch.rows >= 0).unsqueeze(1)).nonzero(as_tuple=True)
    return b, k


@dataclass
class EmbeddedSplit:
    """Collects batches."""

    parts: list[dict[str, Any]] = field(default_factory=list)

    def add(self, batch: Batch, embeddings: Embeddings) -> None:
        assert embeddings.image is not None
        real = (batch.rows >= 0).nonzero()[:, 0].tolist()
        b, k = real_captions(batch)
        self.parts.append(
            {
                "rows": batch.rows[real].cpu().numpy(),
                "image_ids": batch.image_ids[real].cpu().numpy(),
                "ids": [batch.ids[i] for i in real],
                "images": embeddings.image[real].float().cpu().numpy(),
                "texts": embeddings.texts[b, k].float().cpu().numpy(),
                "text_rows": batch.rows[b].cpu().numpy(),
                "text_image_ids": batch.image_ids[b].cpu().numpy(),
                "languages": batch.languages[b, k].cpu().numpy(),
                "captions": [batch.captions[i][j] for i, j in zip(b.tolist(), k.tolist(), strict=True)],
                "labels": {task: labels[b].cpu().numpy() for task, labels in batch.labels.items()},
            }
        )

    def gather(self) -> Embedded | None:
        """The whole split in its own order, on every process; None when it is empty."""
        parts = of_all_processes(self.parts)
        if not parts:
            return None

        def joined(name: str) -> np.ndarray:
            return np.concatenate([part[name] for part in parts])

        # sorted by place in the split: the result does not depend on how many processes read it
        order = np.argsort(joined("rows"), kind="stable")
        image_ids = joined("image_ids")[order]
        first = np.sort(np.unique(image_ids, return_index=True)[1])  # each picture's first row, in the split's order
        number = {image_ids[place]: index for index, place in enumerate(first)}
        text_order = np.argsort(joined("text_rows"), kind="stable")
        ids, captions = ([item for part in parts for item in part[name]] for name in ("ids", "captions"))
        labels = {task: np.concatenate([part["labels"][task] for part in parts]) for task in parts[0]["labels"]}
        return Embedded(
            images=joined("images")[order][first],
            texts=joined("texts")[text_order],
            image_of_text=np.array([number[i] for i in joined("text_image_ids")[text_order]], dtype=np.int64),
            language_of_text=joined("languages")[text_order],
            captions=[captions[i] for i in text_order],
            ids=[ids[order[i]] for i in first],
            rows=joined("rows")[order][first],
            row_of_text=joined("text_rows")[text_order],
            labels={task: each[text_order] for task, each in labels.items()},
        )
