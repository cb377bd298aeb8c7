"""`mmtrain evaluate --probe`: what a linear layer reads in frozen rows of pictures, or of their patches."""

from collections.abc import Mapping, Sequence
from math import isqrt
from typing import Any

import numpy as np

from datamodules.batch import Batch
from datamodules.images import ImagePipeline
from datamodules.naflex import unpacked
from datamodules.shards.samples import BrokenSample, Sample, read_places
from losses import Embeddings
from mmtrain.display.messages import say
from mmtrain.embedding.one_pass import embed
from mmtrain.embedding.splits import MeasuredShards, open_split
from mmtrain.evaluation.measuring.classes import LabelledImages
from mmtrain.evaluation.measuring.relation_baselines import training_shards
from mmtrain.evaluation.metrics.probe import LabelledRows, probe_figures
from mmtrain.models.encoder import Encoder
from mmtrain.models.image_text import ImageTextModel


class LabelledPatches:
    """Collects the features of patches that a task labels by place, see `read_places`.

    Attributes:
        cut_off: How many places were not in the view of their picture.

    Raises:
        ValueError: for a model without patches, also where they are no square; for places that are none.
    """

    def __init__(self, encoder: Encoder, shards: MeasuredShards, task: str) -> None:
        model = encoder.model
        tower = model.image if isinstance(model, ImageTextModel) else None
        if tower is None or tower.prefix_tokens is None:
            raise ValueError(
                f"--patches: {encoder.source} has no patches; a model of ours with a vision transformer does"
            )
        self.task, self.cut_off = task, 0
        self._shards, self._first, self._images = shards, tower.prefix_tokens, encoder.images or ImagePipeline()
        self.rows, self.labels, self.pictures = list[np.ndarray](), list[int](), list[int]()

    def add(self, batch: Batch, embeddings: Embeddings) -> None:
        assert embeddings.image_tokens is not None
        features = embeddings.image_tokens.tokens[:, self._first :]
        grids, dataset = self._grids(batch, features.shape[1]), self._shards.dataset
        for number, row in enumerate(batch.rows.tolist()):
            if row < 0:
                continue
            for label, x, y in self._places(dataset.sample(*dataset.place(dataset.at(row)))):
                if not (0 <= x <= 1 and 0 <= y <= 1):
                    self.cut_off += 1
                    continue
                lines, columns = grids[number]
                line, column = min(int(y * lines), lines - 1), min(int(x * columns), columns - 1)
                self.rows.append(features[number, line * columns + column].float().cpu().numpy())
                self.labels.append(label)
                self.pictures.append(row)

    def _grids(self, batch: Batch, patches: int) -> list[list[int]]:
        """Lines and columns of each picture's patches."""
        if batch.images is not None and batch.images.ndim == 3:
            return (unpacked(batch.images)[1].amax(1) + 1).tolist()
        side = isqrt(patches)
        if side**2 != patches:
            raise ValueError(f"--patches: the {patches} patches of a picture are no square")
        return [[side, side]] * len(batch)

    def _places(self, sample: Sample) -> list[tuple[int, float, float]]:
        """Labels with their places in the view."""
        try:
            places = read_places(sample.record, self.task)
        except BrokenSample as error:
            raise ValueError(
                f"--patches: {sample.id}: {error.cause}: whole numbers from 0, shares from 0 to 1"
            ) from None
        if not places:
            return []
        assert sample.image is not None
        image = self._images.open(sample.image)
        return [(label, *self._images.in_view(image, x, y)) for label, x, y in places]


class Probe:
    """A probe of a task, and the shards that it learns from.

    Args:
        train: SHARDS; default: those of the run's config.
        patches: Whether labels lie at places of the picture.
        label_names: Classes by task that are numbered already.

    Attributes:
        learnt: The shards that it learns from; their label_names number the classes.

    Raises:
        ValueError: one line, for shards that cannot be used, and a task that nobody labels.
    """

    def __init__(
        self,
        encoder: Encoder,
        model: str,
        train: str | None,
        task: str,
        patches: bool,
        batch_size: int,
        workers: int,
        label_names: Mapping[str, Sequence[str]],
    ) -> None:
        self.encoder, self.task, self.patches = encoder, task, patches
        self.train, languages = training_shards(model, train, "--probe")
        options: dict[str, Any] = {"labelled": not patches, "label_names": label_names, "option": "--train"}
        self.learnt = open_split(encoder, self.train, languages, batch_size, workers, **options)

    def collector(self, shards: MeasuredShards, where: str) -> LabelledImages | LabelledPatches:
        """Collects what the probe is asked about, or learns from; `where` names the shards."""
        if self.patches:
            return LabelledPatches(self.encoder, shards, self.task)
        if self.task not in shards.tasks:
            others = ", ".join(shards.tasks) or "no labels"
            raise ValueError(f"--probe: no sample of {where} is labelled with {self.task!r}; there are {others}")
        return LabelledImages(self.task)

    def figures(self, asked: LabelledImages | LabelledPatches, where: str) -> dict[str, Any]:
        """`probe_figures` of what a collector of the measured shards has seen, and what the rows are "of"."""
        learnt = self.collector(self.learnt, self.train)
        embed(self.encoder, self.learnt, [learnt], tokens=self.patches, texts=False)
        return {"of": "patches" if self.patches else "pictures"} | probe_figures(
            _rows(learnt, self.train), _rows(asked, where)
        )


def _rows(collected: LabelledImages | LabelledPatches, where: str) -> LabelledRows:
    if not collected.labels:
        lacking = f"is labelled with {collected.task!r}"
        if isinstance(collected, LabelledPatches):
            lacking = f'has the label {collected.task!r} at a place of its picture ("places")'
        raise ValueError(f"--probe: no sample of {where} that can be read {lacking}")
    if isinstance(collected, LabelledImages):
        rows = np.concatenate(collected.rows)
        return LabelledRows(rows, np.array(collected.labels), np.arange(len(rows)))
    if collected.cut_off:
        say(f"{collected.cut_off:,} places of {collected.task} lie beyond what is seen of their pictures")
    return LabelledRows(np.stack(collected.rows), np.array(collected.labels), np.array(collected.pictures))
