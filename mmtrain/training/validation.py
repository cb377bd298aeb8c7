"""What is measured while training: retrieval on data.val, and on the validation shards of each part of a step."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytorch_lightning as pl
import torch

from datamodules.batch import Batch
from losses import Embeddings
from losses.objective import Similarity
from mmtrain.embedding.collected import Embedded, EmbeddedSplit
from mmtrain.evaluation.metrics.retrieval import flat_figures, retrieval_metrics
from mmtrain.training.waiting import told_by_first


class Validation:
    """Collects the embeddings of each validation split, by the name of its part, "" for data.val."""

    def __init__(self) -> None:
        self._splits: dict[str, EmbeddedSplit] = {}

    def add(self, part: str, batch: Batch, embeddings: Embeddings) -> None:
        self._splits.setdefault(part, EmbeddedSplit()).add(*_as_captioned(batch, embeddings))

    def gather(self) -> dict[str, Embedded | None]:
        """The whole splits, in process 0. Collective: every process must call it."""
        splits, self._splits = self._splits, {}
        return {part: split.gather() for part, split in splits.items()}


def _as_captioned(batch: Batch, embeddings: Embeddings) -> tuple[Batch, Embeddings]:
    """Pairs of texts stand as captions that look for pictures: text_to_image is a query's search for its positive."""
    if embeddings.image is not None:
        return batch, embeddings
    query, positive = batch.fields["query"], batch.fields["positive"]
    asked = embeddings.fields["query"]
    assert query.languages is not None and positive.ids is not None
    present = (query.present if asked.present is None else asked.present) & positive.present[:, :1]
    captioned = replace(
        batch,
        present=present,
        languages=query.languages if asked.rows.shape[1] > 1 else query.languages.amax(1, keepdim=True),
        image_ids=positive.ids[:, 0],
        captions=[[""] * present.shape[1]] * len(batch),
    )
    rows = embeddings.fields["positive"].rows[:, 0]
    return captioned, replace(embeddings, image=rows, texts=asked.rows)


def figures_of(
    splits: Mapping[str, Embedded | None], languages: Sequence[str], recall_at: tuple[int, ...], similarity: Similarity
) -> dict[str, float]:
    """`retrieval_figures` of every split, behind the names of their parts."""
    figures: dict[str, float] = {}
    for part, split in splits.items():
        own = retrieval_figures(split, languages, recall_at, similarity)
        figures |= {f"{part}/{name}" if part else name: value for name, value in own.items()}
    return figures


def retrieval_figures(
    split: Embedded | None, languages: Sequence[str], recall_at: tuple[int, ...], similarity: Similarity
) -> dict[str, float]:
    """Flat figures for the log; none where there is nothing to measure."""
    if split is None or not len(split.texts):
        return {}
    metrics = retrieval_metrics(
        split.images,
        split.texts,
        split.image_of_text,
        np.asarray(languages)[split.language_of_text],
        recall_at=recall_at,
        similarity=similarity,
        bootstrap=0,
    )
    return flat_figures(metrics, recall_at)


def log_validation(
    module: pl.LightningModule, samples_seen: int, measure: Callable[[], dict[str, float]], headline: str
) -> None:
    """Logs what process 0 measures, on every process; the progress bar shows `headline`."""
    figures = {name: torch.tensor(value, dtype=torch.float32) for name, value in told_by_first(measure).items()}
    if figures:
        module.log_dict({f"val/{name}": value for name, value in figures.items()})
        module.log("samples_seen", float(samples_seen))
        if headline in figures:
            module.log(headline, figures[headline], prog_bar=True, logger=False)
