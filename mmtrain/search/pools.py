"""The items that some questions are hard for: of each question the nearest, and what is relevant to it.

The union is a smaller corpus on which models differ as on the whole one (the construction of MIRACL-VISION).

Letters: Q questions, N items, D dimensions, K nearest items.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datamodules.files import write_whole
from datamodules.reading.whole import WholeSample
from datamodules.shards.encoding import BadRow
from mmtrain.embedding.rewriting import NOT_EMBEDDED, Samples, Written, record_bytes
from mmtrain.embedding.rows import Text, text_rows
from mmtrain.evaluation.measuring.items import page_text
from mmtrain.evaluation.measuring.questions import question_rows
from mmtrain.evaluation.questions import Question, pool_names
from mmtrain.evaluation.ranking.nearest import flat_search
from mmtrain.evaluation.ranking.tiles import Similarity
from mmtrain.models.composing import composes
from mmtrain.models.encoder import Encoder
from mmtrain.search.rows import RowSample

Item = tuple[int, str, list[str], np.ndarray]  # its place in SHARDS, id, names of its pools, row float32 [D]


@dataclass
class Pooled:
    """An item of a pool: for how many questions it is among the nearest, and for how many it is relevant."""

    id: str
    pool: set[str] = field(default_factory=set)
    nearest: int = 0
    relevant: int = 0


class PooledShards:
    """Keeps the samples that are near or relevant to a question, with the names of their pools in their records.

    The pool of a question is the one that it names, of the items whose record says so; without, it is of all items and
    gets the name of the question's language. Items are those of `evaluate --questions`: of several samples with one id
    the first, by its picture, else by its text.

    Args:
        questions: Q questions.
        rows: Of the samples.
        k: K.
        similarity: What rows are compared by.
        encoder: The model that the rows are of; None where it is not at hand.

    Raises:
        ValueError: for a question that lists its pool, a picture of one that cannot be read, no model, or one that
            composes pictures with their captions.

    Attributes:
        items: The items of the pools by their place in SHARDS.
        said: How many there are.
    """

    def __init__(
        self,
        questions: Sequence[Question],
        rows: Iterable[RowSample],
        k: int,
        similarity: Similarity,
        encoder: Encoder | None,
    ) -> None:
        if encoder is None:
            raise ValueError("--questions: rows that are there already embed no question; give the MODEL they are of")
        if composes(encoder):
            raise ValueError(f"--questions: {encoder.source} composes pictures with captions; a MODEL that does not")
        pools: dict[str | None, list[int]] = {}
        for number, question in enumerate(questions):
            if isinstance(question.pool, list):
                raise ValueError(f"--questions: {question.id!r} lists its pool already; leave it out, or name one")
            pools.setdefault(question.pool, []).append(number)
        self._questions = questions
        self.items: dict[int, Pooled] = {}
        asked = question_rows(encoder, questions)
        assert isinstance(asked, torch.Tensor)
        samples = self._items(rows, encoder)
        for pool, own in pools.items():
            found = [(place, id, row) for place, id, names, row in samples if pool is None or pool in names]
            place_of = {id: number for number, (_, id, _) in enumerate(found)}
            matrix = np.stack([row for *_, row in found]) if found else np.zeros((0, asked.shape[1]), np.float32)
            _, best = flat_search(matrix, similarity, turned=True)(asked[own].numpy(), k)
            for number, nearest in zip(own, best.tolist(), strict=True):
                question = questions[number]
                relevant = [place_of[id] for id in question.right if id in place_of]
                for item in {*nearest, *relevant}:
                    place, id, _ = found[item]
                    pooled = self.items.setdefault(place, Pooled(id))
                    pooled.pool.add(pool_of(question))
                    pooled.nearest += item in nearest
                    pooled.relevant += item in relevant
        self.said = f"{len(self.items):,} of {len(samples):,} items for {len(questions):,} questions"

    def _items(self, rows: Iterable[RowSample], encoder: Encoder) -> list[Item]:
        self._embedded, known = set[int](), set[str]()
        found: list[tuple[int, str, list[str], np.ndarray | None]] = []
        texts: list[Text] = []
        for each in rows:
            self._embedded.add(each.row)
            sample, text = each.sample.sample, page_text(each.sample.sample)
            if sample.id not in known and (each.image is not None or text[1]):
                known.add(sample.id)
                found.append((each.row, sample.id, pool_names(sample.record), each.image))
                texts += [] if each.image is not None else [text]
        with torch.inference_mode():
            of_texts = iter(text_rows(encoder, texts, "passage"))
        return [(row, id, names, next(of_texts) if image is None else image) for row, id, names, image in found]

    def begin(self, number: int) -> Callable[[Samples], Written]:
        """What makes the samples of a shard."""
        return lambda samples: [self._written(each) for each in samples if not self._is_far(each)]

    def join(self, folder: Path) -> None:
        """Writes pool.jsonl, the items with their counts, and the questions with the names of their pools."""
        items = [vars(self.items[place]) | {"pool": sorted(self.items[place].pool)} for place in sorted(self.items)]
        _write_lines(folder / "pool.jsonl", items)
        _write_lines(folder / "questions.jsonl", [each.record | {"pool": pool_of(each)} for each in self._questions])

    def _is_far(self, sample: WholeSample | BadRow) -> bool:
        return isinstance(sample, WholeSample) and sample.row in self._embedded and sample.row not in self.items

    def _written(self, sample: WholeSample | BadRow) -> dict | BadRow:
        if isinstance(sample, BadRow):
            return sample
        if sample.row not in self.items:
            return BadRow(NOT_EMBEDDED, sample.key)
        record = sample.sample.record | {"pool": sorted(self.items[sample.row].pool)}
        return {"__key__": sample.key, **sample.files, "json": record_bytes(record)}


def pool_of(question: Question) -> str:
    """The name of a question's pool."""
    return question.pool if isinstance(question.pool, str) else question.language or "und"


def _write_lines(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    write_whole(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
