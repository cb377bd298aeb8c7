"""The samples that questions look for, as rows: a sample's picture, or the text of one that has none."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from datamodules.batch import Batch, Skip
from datamodules.shards.progress import with_progress
from datamodules.shards.samples import BrokenSample, Sample, read_texts
from losses import Embeddings
from mmtrain.embedding.collected import real_samples
from mmtrain.embedding.items import item_rows
from mmtrain.embedding.rows import Text, text_rows
from mmtrain.embedding.splits import MeasuredShards
from mmtrain.evaluation.measuring.late import ManyRows
from mmtrain.evaluation.questions import pool_names
from mmtrain.evaluation.ranking.tiles import Rows
from mmtrain.evaluation.ranking.token_rows import TokenRows
from mmtrain.models.composing import composes
from mmtrain.models.encoder import Encoder


class Items:
    """Collects the rows of all pictures, by a model that composes with their captions; `add_texts` adds those of
    samples without. Of several samples with one id the first is the item.

    Args:
        shards: The samples.
        many: Collects their token rows, which are then compared; None where single rows are.
        encoder: Encodes them.

    Attributes:
        ids: Of the N items.
        repeated: How many samples have the id of another.
        of_text: How many items are texts; they are the last.
    """

    def __init__(self, shards: MeasuredShards, many: ManyRows | None, encoder: Encoder) -> None:
        self.ids, self.repeated, self.of_text = list[str](), 0, 0
        self._shards, self._many, self._encoder, self._known = shards, many, encoder, set[str]()
        self._read, self._places = np.zeros(len(shards), bool), list[int]()
        self._rows, self._late_texts = list[Tensor](), list[np.ndarray]()

    def add(self, batch: Batch, embeddings: Embeddings) -> None:
        assert embeddings.image is not None
        self._read[batch.rows[batch.rows >= 0].numpy()] = True
        new = [number for number in real_samples(batch) if self._is_new(batch.ids[number], int(batch.rows[number]))]
        if self._many is None and composes(self._encoder):
            self._rows.append(item_rows(self._encoder, batch, self._shards.languages)[new])
        elif self._many is None:
            self._rows.append(embeddings.image[new].float().cpu())

    def add_texts(self) -> None:
        """Encodes the texts of samples without a picture, as passages; those without a text are counted as skipped."""
        texts: list[Text] = []
        for row in np.flatnonzero(~self._read).tolist():
            try:
                sample = self._sample(row)
            except BrokenSample:
                continue  # counted when the pictures were read
            if sample.image is not None:
                continue
            if not (text := page_text(sample))[1]:
                name = self._shards.dataset.shards[self._shards.dataset.at(row).shard].name
                self._shards.account.add_once([Skip(name, "neither picture nor text", sample.id)])
            elif self._is_new(sample.id, row):
                texts.append(text)
        self.of_text = len(texts)
        with torch.inference_mode():
            rows = text_rows(self._encoder, texts, "passage", multi=self._many is not None)
        if isinstance(rows, list):
            self._late_texts = rows
        else:
            self._rows.append(torch.from_numpy(rows))

    def rows(self) -> Rows:
        """float32 [N, D], or token rows of N items."""
        if self._many is None:
            self._rows = [torch.cat(self._rows)]
            return self._rows[0]
        pictures = self._many.images(self._places[: len(self.ids) - self.of_text])
        return TokenRows.joined(pictures, TokenRows.of(self._late_texts))

    def sample(self, item: int) -> Sample:
        """An item as it lies in its shard."""
        return self._sample(self._places[item])

    def samples(self) -> Iterator[Sample]:
        """All items, read once more."""
        yield from with_progress(map(self.sample, range(len(self.ids))), "reading items", len(self.ids), "items")

    def named_pools(self) -> dict[str, list[int]]:
        """The items of each pool that an item's JSON names."""
        pools: dict[str, list[int]] = {}
        for item, sample in enumerate(self.samples()):
            for name in dict.fromkeys(pool_names(sample.record)):
                pools.setdefault(name, []).append(item)
        return pools

    def _is_new(self, id: str, row: int) -> bool:
        """Makes a sample an item where it is the first of its id."""
        if id in self._known:
            self.repeated += 1
            return False
        self._known.add(id)
        self.ids.append(id)
        self._places.append(row)
        return True

    def _sample(self, row: int) -> Sample:
        dataset = self._shards.dataset
        return dataset.sample(*dataset.place(dataset.at(row)))


def page_text(sample: Sample) -> Text:
    """The language and the text of an item: "text" of its JSON, else its captions, else what it is the positive of; ""
    without any.
    """
    captions = [(language, text) for language, each in sample.captions.items() for text in each]
    try:
        texts = read_texts(sample.record, "text", "") or captions or read_texts(sample.record, "positive", "")
    except BrokenSample:
        texts = captions
    return (texts[0][0], "\n".join(text for _, text in texts)) if texts else ("", "")
