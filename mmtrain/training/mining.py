"""Hard negatives from the whole training split: the samples nearest to a drawn one join its batch.

Letters: N samples of the split, m neighbours of each, B samples of a batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor

from datamodules.batch import Batch, text_id
from datamodules.shards.samples import COMMON
from mmtrain.embedding.collected import Embedded
from mmtrain.evaluation.ranking.tiles import Similarity
from mmtrain.models.image_text import ImageTextModel
from mmtrain.search.mining import nearest_wrong
from mmtrain.training.data import WholeData, training_data
from mmtrain.training.waiting import told_by_first
from mmtrain.training.whole_split import embedded_whole


@runtime_checkable
class MinedData(WholeData, Protocol):
    """A data module whose training split can be read by number; `datamodules.ShardDataModule` is one."""

    def samples(self, split: str) -> int: ...

    def read_beside(self, batch: Batch, rows: Sequence[Sequence[int]], count: int) -> Batch: ...


@dataclass
class Mining:
    """How hard negatives are mined.

    The whole training split is embedded and searched at step 0 and every n steps: the neighbours of a sample are those
    whose captions are nearest to its picture or whose pictures are nearest to its captions, without those that show the
    same picture or share a caption. Some of them, drawn anew each time, join the batch of a sample as samples like any
    other, so that every objective finds hard negatives there; they do not count as samples seen. They are read in the
    training process itself. The lists are kept in the checkpoint.

    Args:
        every_n_steps: Mine anew after so many optimiser steps.
        neighbours: m.
        beside: How many of them join each drawn sample.
    """

    every_n_steps: int = 500
    neighbours: int = 8
    beside: int = 2

    def __post_init__(self) -> None:
        if self.every_n_steps < 1:
            raise ValueError(f"model.mining.every_n_steps: got {self.every_n_steps}, expected at least 1")
        if not 1 <= self.beside <= self.neighbours:
            raise ValueError(f"model.mining.beside: got {self.beside}, expected 1 to the {self.neighbours} neighbours")


@dataclass
class Neighbours:
    """The mined lists of a run."""

    options: Mining
    numbers: Tensor | None = None  # int64 [N, m], a sample's own number where it has fewer
    step: int = -1  # when they were mined

    def mine(self, module: pl.LightningModule, model: ImageTextModel, similarity: Similarity) -> None:
        """Makes the lists where they are due. Every process must come here."""
        step = module.global_step
        if self.numbers is not None and (step % self.options.every_n_steps or step == self.step):
            return
        data = mined_data(module.trainer)
        split = embedded_whole(model, data, module.trainer, None)
        samples, m = data.samples("train"), self.options.neighbours
        self.numbers = torch.tensor(told_by_first(lambda: near_samples(split, samples, m, similarity).tolist()))
        self.step = step
        rank_zero_info(f"step {step}: mined {m} neighbours of each of {samples} training samples")

    def joined(self, batch: Batch, data: MinedData) -> Batch:
        """The batch with some neighbours of each sample."""
        assert self.numbers is not None
        others = data.read_beside(batch, self.numbers[batch.rows[:: batch.views].cpu()].tolist(), self.options.beside)
        data.evaluated(others)  # counts what was broken
        return batch.joined(others.to(batch.rows.device))

    def state(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"numbers": self.numbers, "step": self.step}


def mined_data(trainer: pl.Trainer) -> MinedData:
    """The trainer's data module. Raises ValueError, one line, for one whose samples cannot be read by number."""
    data = training_data(trainer)
    if isinstance(data, MinedData) and (data.brings.keys() != {""} or data.brings[""] - COMMON):
        raise ValueError("model.mining: it joins pictures with captions alone; leave data.parts and data.fields out")
    if not isinstance(data, MinedData):
        raise ValueError(f"model.mining: {type(data).__name__} reads no sample by number; datamodules.ShardDataModule")
    return data


def near_samples(split: Embedded | None, samples: int, m: int, similarity: Similarity) -> np.ndarray:
    """int64 [N, m]: of each sample the m others whose pair of a picture and a caption with it is nearest, best first;
    its own number where there are fewer.
    """
    numbers = np.repeat(np.arange(samples)[:, None], m, 1)
    if split is None or not len(split.texts):
        return numbers
    _, first, word = np.unique([text_id(each) for each in split.captions], return_index=True, return_inverse=True)
    texts, owner = split.texts[first], split.image_of_text[first]
    pairs = np.unique(np.stack([split.image_of_text, word], 1), axis=0)  # pictures and what is said of them
    words = np.full((len(split.images), np.bincount(pairs[:, 0]).max()), -1)
    words[pairs[:, 0], _place_in_run(pairs[:, 0])] = pairs[:, 1]
    to_texts, near_texts = nearest_wrong(split.images, texts, m, words, words[owner], similarity)
    to_images, near_images = nearest_wrong(texts, split.images, m, words[owner], words, similarity, turned=True)
    images = np.where(near_texts >= 0, owner[near_texts], -1)
    scores = np.concatenate([to_texts.ravel(), to_images[pairs[:, 1]].ravel()])
    found = np.concatenate([images.ravel(), near_images[pairs[:, 1]].ravel()])
    query = np.concatenate([np.arange(len(images)), pairs[:, 0]]).repeat(m)
    order = np.lexsort((-scores, found, query))
    order = order[(found[order] >= 0) & (_place_in_run(query[order] * len(images) + found[order]) == 0)]  # once each
    order = order[np.lexsort((-scores[order], query[order]))]
    place = _place_in_run(query[order])
    best, place = order[place < m], place[place < m]
    near = np.full((len(images), m), -1)
    near[query[best], place] = split.rows[found[best]]
    image = np.full(samples, -1)
    image[split.rows], image[split.row_of_text] = np.arange(len(images)), split.image_of_text
    read = image >= 0  # the others are broken
    numbers[read] = np.where(near[image[read]] >= 0, near[image[read]], numbers[read])
    return numbers


def _place_in_run(values: np.ndarray) -> np.ndarray:
    """Of sorted values, each one's place among its equals."""
    return np.arange(len(values)) - np.searchsorted(values, values)
