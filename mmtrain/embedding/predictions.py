"""A split's predictions by a relation head, collected over batches and processes."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from datamodules.batch import Batch
from losses import Embeddings
from mmtrain.embedding.collected import joined, of_all_processes, real_captions
from mmtrain.fusion import RelationHead


@dataclass
class Predictions:
    """N pairs of an image and a text, in the order of the split."""

    rows: np.ndarray  # int64 [N], the sample's place in the split
    languages: np.ndarray  # int64 [N], index into the data module's languages
    captions: list[str]
    labels: dict[str, np.ndarray]  # int64 [N], -1 where nobody labelled the pair
    probabilities: dict[str, np.ndarray]  # float32 [N, C]


@dataclass
class PredictedSplit:
    """Collects the pairs of batches, as `head` judges them."""

    head: RelationHead
    parts: list[dict[str, Any]] = field(default_factory=list)

    def add(self, batch: Batch, embeddings: Embeddings) -> None:
        posts, slots = real_captions(batch)
        captions = [batch.captions[b][k] for b, k in zip(posts.tolist(), slots.tolist(), strict=True)]
        unlabelled = torch.full_like(posts, -1)
        self.parts.append(
            {
                "rows": batch.rows[posts].cpu().numpy(),
                "languages": batch.languages[posts, slots].cpu().numpy(),
                "captions": np.array(captions, dtype=object),
                "labels": {
                    task: (batch.labels[task][posts] if task in batch.labels else unlabelled).cpu().numpy()
                    for task in self.head.names
                },
                "probabilities": {
                    task: logits.softmax(1).float().cpu().numpy()
                    for task, logits in self.head.judge(embeddings, posts, slots).items()
                },
            }
        )

    def gather(self) -> Predictions | None:
        """The whole split in its own order, in process 0; None when it is empty, and in other processes."""
        parts = of_all_processes(self.parts)
        if not parts:
            return None
        rows, languages, captions = (joined(parts, name) for name in ("rows", "languages", "captions"))
        order = np.lexsort((languages, rows))
        labels, probabilities = (
            {task: joined([part[name] for part in parts], task)[order] for task in self.head.names}
            for name in ("labels", "probabilities")
        )
        return Predictions(rows[order], languages[order], captions[order].tolist(), labels, probabilities)
