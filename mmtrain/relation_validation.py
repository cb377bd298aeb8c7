"""A split's predictions, collected over batches and processes, and the figures of validation."""

from dataclasses import dataclass, field

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from datamodules import Batch
from mmtrain.validation import of_all_processes


@dataclass
class Predictions:
    """N pairs of a picture and a text, in the order of the split."""

    rows: np.ndarray  # int64 [N], the sample's place in the split
    languages: np.ndarray  # int64 [N], index into the data module's languages
    ids: list[str]
    captions: list[str]
    labels: dict[str, np.ndarray]  # int64 [N], -1 where nobody labelled the pair
    probabilities: dict[str, np.ndarray]  # float32 [N, C]


@dataclass
class PredictedSplit:
    """Collects the pairs of batches."""

    parts: list[dict] = field(default_factory=list)

    def add(self, batch: Batch, posts: Tensor, slots: Tensor, probabilities: dict[str, Tensor]) -> None:
        """The pairs (posts [N], slots [N]) of a batch and their probabilities [N, C] by task."""
        places = list(zip(posts.tolist(), slots.tolist(), strict=True))
        unlabelled = torch.full((len(places),), -1)
        self.parts.append(
            {
                "rows": batch.rows[posts].cpu().numpy(),
                "languages": batch.languages[posts, slots].cpu().numpy(),
                "ids": [batch.ids[b] for b, _ in places],
                "captions": [batch.captions[b][k] for b, k in places],
                "labels": {
                    task: (batch.labels[task][posts] if task in batch.labels else unlabelled).cpu().numpy()
                    for task in probabilities
                },
                "probabilities": {task: rows.float().cpu().numpy() for task, rows in probabilities.items()},
            }
        )

    def gather(self) -> Predictions | None:
        """The whole split in its own order, on every process; None when it is empty."""
        parts = of_all_processes(self.parts)
        if not parts:
            return None
        rows, languages = (np.concatenate([part[name] for part in parts]) for name in ("rows", "languages"))
        order = np.lexsort((languages, rows))
        ids, captions = ([item for part in parts for item in part[name]] for name in ("ids", "captions"))
        labels, probabilities = (
            {task: np.concatenate([part[name][task] for part in parts])[order] for task in parts[0][name]}
            for name in ("labels", "probabilities")
        )
        return Predictions(
            rows[order], languages[order], [ids[i] for i in order], [captions[i] for i in order], labels, probabilities
        )

    def figures(self, trainer: pl.Trainer) -> dict[str, Tensor]:
        """Flat figures for the log, the same on every process; empty when nothing was labelled.

        macro_f1 is the mean over tasks and languages, and <task>/macro_f1/<language> what it is the mean of.
        """
        split = self.gather()
        figures: dict[str, float] = {}
        if split is not None and trainer.is_global_zero:
            from mmtrain.evaluation.relation import relation_metrics

            names = np.asarray(trainer.datamodule.languages)[split.languages]
            for task, rows in split.probabilities.items():
                labels = split.labels[task]
                if (labels < 0).all():
                    continue
                table = relation_metrics(labels, rows, names, groups=split.rows, bootstrap=0)
                figures |= {f"{task}/macro_f1/{language}": each["macro_f1"] for language, each in table.items()}
            means = [value for name, value in figures.items() if name.endswith("/mean")]
            figures |= {"macro_f1": float(np.mean(means))} if means else {}
        figures = trainer.strategy.broadcast(figures)
        return {name: torch.tensor(value, dtype=torch.float32) for name, value in figures.items()}
