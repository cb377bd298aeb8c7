"""A split's embeddings, collected over batches and processes, and the figures of validation."""

from dataclasses import dataclass, field

import numpy as np
import pytorch_lightning as pl
import torch
from torch import distributed

from datamodules import Batch
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


def of_all_processes(parts: list[dict]) -> list[dict]:
    """The parts that every process collected, without those that hold no rows."""
    if distributed.is_available() and distributed.is_initialized():
        gathered: list = [None] * distributed.get_world_size()
        distributed.all_gather_object(gathered, parts)
        parts = [part for process in gathered for part in process]
    return [part for part in parts if len(part["rows"])]


@dataclass
class EmbeddedSplit:
    """Collects batches; padding and broken rows (rows = -1) are left out."""

    parts: list[dict] = field(default_factory=list)

    def add(self, batch: Batch, embeddings: Embeddings) -> None:
        kept = (batch.rows >= 0).nonzero()[:, 0].tolist()
        present = batch.present & (batch.rows >= 0).unsqueeze(1)
        b, k = present.nonzero(as_tuple=True)
        self.parts.append(
            {
                "rows": batch.rows[kept].cpu().numpy(),
                "image_ids": batch.image_ids[kept].cpu().numpy(),
                "ids": [batch.ids[i] for i in kept],
                "images": embeddings.image[kept].float().cpu().numpy(),
                "texts": embeddings.texts[b, k].float().cpu().numpy(),
                "text_rows": batch.rows[b].cpu().numpy(),
                "text_image_ids": batch.image_ids[b].cpu().numpy(),
                "languages": batch.languages[b, k].cpu().numpy(),
                "captions": [batch.captions[i][j] for i, j in zip(b.tolist(), k.tolist(), strict=True)],
            }
        )

    def gather(self) -> Embedded | None:
        """The whole split in its own order, on every process; None when it is empty."""
        parts = of_all_processes(self.parts)
        if not parts:
            return None
        joined = {
            key: np.concatenate([part[key] for part in parts]) for key in parts[0] if key not in ("ids", "captions")
        }
        ids = [name for part in parts for name in part["ids"]]
        captions = [text for part in parts for text in part["captions"]]
        # sorted by place in the split: the result does not depend on how many processes read it
        order = np.argsort(joined["rows"], kind="stable")
        unique, first = np.unique(joined["image_ids"][order], return_index=True)
        keep = np.sort(first)  # the first row of each picture, in the split's order
        image_index = {joined["image_ids"][order][place]: index for index, place in enumerate(keep)}
        text_order = np.argsort(joined["text_rows"], kind="stable")
        return Embedded(
            images=joined["images"][order][keep],
            texts=joined["texts"][text_order],
            image_of_text=np.array([image_index[i] for i in joined["text_image_ids"][text_order]], dtype=np.int64),
            language_of_text=joined["languages"][text_order],
            captions=[captions[i] for i in text_order],
            ids=[ids[order[i]] for i in keep],
            rows=joined["rows"][order][keep],
        )

    def retrieval(self, trainer: pl.Trainer, recall_at: tuple[int, ...], similarity: str) -> dict[str, torch.Tensor]:
        """Flat figures for the log, the same on every process; empty when there was nothing to measure."""
        split = self.gather()
        if split is None or not len(split.texts):
            return {}
        figures: dict[str, float] = {}
        if trainer.is_global_zero:
            from mmtrain.evaluation import retrieval_metrics

            languages = np.asarray(trainer.datamodule.languages)[split.language_of_text]
            metrics = retrieval_metrics(
                split.images,
                split.texts,
                split.image_of_text,
                languages,
                recall_at=recall_at,
                similarity=similarity,
                bootstrap=0,
            )
            figures = flat_figures(metrics, recall_at)
        figures = trainer.strategy.broadcast(figures)
        return {name: torch.tensor(value, dtype=torch.float32) for name, value in figures.items()}


def flat_figures(metrics: dict, recall_at: tuple[int, ...] = (1, 5, 10)) -> dict[str, float]:
    """mean_recall, <direction>/R@K/<language or mean> and mean_rank_variance/<direction> of a metrics.json."""
    figures = {"mean_recall": metrics["mean_recall"]}
    for direction in ("text_to_image", "image_to_text"):
        for language, table in metrics[direction].items():
            figures |= {f"{direction}/R@{k}/{language}": table[f"R@{k}"] for k in recall_at}
        variance = metrics.get("mean_rank_variance", {}).get(direction, {}).get("var")
        if variance is not None:
            figures[f"mean_rank_variance/{direction}"] = variance
    return figures
