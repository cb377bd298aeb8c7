"""The hardest wrong texts and pictures of every caption of SHARDS, written into their records.

Letters: A anchors (pictures or queries), T texts, D dimensions, L lines (a text that is right for an anchor), m
negatives.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datamodules.files import write_whole
from datamodules.reading.whole import WholeSample
from datamodules.shards.encoding import BadRow
from mmtrain.embedding.rewriting import NOT_EMBEDDED, RewrittenShards, Samples, Written, record_bytes
from mmtrain.evaluation.ranking.nearest import FlatSearch, flat_search
from mmtrain.evaluation.ranking.tiles import Similarity, pair_scores
from mmtrain.search.contrasts import Contrast, Contrasts
from mmtrain.search.mining import nearest_allowed

ANY = ""  # the pool of the texts of all languages
LINES = "jsonl"


@dataclass(frozen=True)
class Hardness:
    """Which wrong answers are negatives.

    Args:
        count: m, at most so many of each caption.
        across: Of any language, not of the caption's own.
        min_margin, max_margin: How far below the right answer's score.
        min_score, max_score: In what range of scores.

    Raises:
        ValueError: for a count below 1, and bounds that nothing is between.
    """

    count: int = 7
    across: bool = False
    min_margin: float | None = None
    max_margin: float | None = None
    min_score: float | None = None
    max_score: float | None = None

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"--negatives: got {self.count}, expected at least 1")
        for name, least, most in (
            ("margin", self.min_margin, self.max_margin),
            ("score", self.min_score, self.max_score),
        ):
            if least is not None and most is not None and least > most:
                raise ValueError(f"--min_{name}, --max_{name}: nothing is between {least} and {most}")

    def bounds(self, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The lowest and the highest score [L] that a negative may have, by the right answers' scores [L]."""
        lowest, highest = np.full(len(scores), -np.inf), np.full(len(scores), np.inf)
        if self.max_margin is not None:
            lowest = scores - self.max_margin
        if self.min_margin is not None:
            highest = scores - self.min_margin
        if self.min_score is not None:
            lowest = np.maximum(lowest, self.min_score)
        if self.max_score is not None:
            highest = np.minimum(highest, self.max_score)
        return lowest, highest


@dataclass
class Line:
    """A text that is right for an anchor, and what is wrong: the numbers and scores of texts and of anchors."""

    sample: int
    anchor: int
    text: int
    score: float
    texts: list[tuple[int, float]]
    anchors: list[tuple[int, float]]


class Miner:
    """Finds the negatives in one contrast, exactly and in memory linear in its rows.

    Args:
        contrast: What is compared.
        hardness: Which wrong answers are negatives.
        similarity: What rows are compared by.
        turned: Whether texts look for wrong anchors too.
    """

    def __init__(self, contrast: Contrast, hardness: Hardness, similarity: Similarity, turned: bool) -> None:
        self.contrast, self.hardness, self._similarity, self._turned = contrast, hardness, similarity, turned
        self._anchors, self._texts = (
            np.stack(rows) if rows else np.zeros((0, 1), np.float32) for rows in (contrast.anchors, contrast.texts)
        )
        self._words, self._lines = np.array(contrast.words, np.int64), np.array(contrast.lines, np.int64).reshape(-1, 3)
        right = [anchor * contrast.word_count + word for anchor, word in contrast.right]
        self._right = np.sort(np.array(right, np.int64))
        self._pool = np.array([ANY if hardness.across else language for language, _ in contrast.written])
        self._searches: dict[str, FlatSearch] = {}
        self._search_anchors: FlatSearch | None = None

    def lines(self, first: int, end: int) -> list[Line]:
        """The lines of the samples from `first` up to `end`."""
        lines = self._lines[slice(*np.searchsorted(self._lines[:, 0], [first, end]))]
        if not len(lines):
            return []
        _, anchors, texts = lines.T
        rows, columns = torch.from_numpy(self._anchors), torch.from_numpy(self._texts)
        scores = pair_scores(rows, columns, anchors, texts, self._similarity)
        lowest, highest = self.hardness.bounds(scores)
        found: list[Any] = [None] * len(lines)
        for pool in np.unique(self._pool[texts]).tolist():
            own = np.flatnonzero(self._pool[texts] == pool)
            for line, negatives in zip(own, self._texts_of(pool, anchors[own], lowest[own], highest[own]), strict=True):
                found[line] = negatives
        others = self._anchors_of(texts, lowest, highest) if self._turned else [[]] * len(lines)
        return [Line(*line) for line in zip(*lines.T.tolist(), scores.tolist(), found, others, strict=True)]

    def _texts_of(
        self, pool: str, anchors: np.ndarray, lowest: np.ndarray, highest: np.ndarray
    ) -> list[list[tuple[int, float]]]:
        """The wrong texts of a pool that are nearest to each anchor."""
        items = np.flatnonzero(self._pool == pool)
        if pool not in self._searches:
            self._searches[pool] = flat_search(self._texts[items], self._similarity)

        def allowed(asked: np.ndarray, found: np.ndarray, best: np.ndarray) -> np.ndarray:
            return (found <= highest[asked, None]) & ~self._is_right(anchors[asked, None], items[best])

        queries = self._anchors[anchors]
        scores, best = nearest_allowed(self._searches[pool], len(items), queries, self.hardness.count, allowed, lowest)
        return _found(scores, np.where(best >= 0, items[best], -1))

    def _anchors_of(self, texts: np.ndarray, lowest: np.ndarray, highest: np.ndarray) -> list[list[tuple[int, float]]]:
        """The wrong anchors that are nearest to each text."""
        if self._search_anchors is None:
            self._search_anchors = flat_search(self._anchors, self._similarity, turned=True)

        def allowed(asked: np.ndarray, found: np.ndarray, best: np.ndarray) -> np.ndarray:
            return (found <= highest[asked, None]) & ~self._is_right(best, texts[asked, None])

        queries = self._texts[texts]
        return _found(
            *nearest_allowed(self._search_anchors, len(self._anchors), queries, self.hardness.count, allowed, lowest)
        )

    def _is_right(self, anchors: np.ndarray, texts: np.ndarray) -> np.ndarray:
        """bool [q, k]: whether what texts say is said of the anchors anywhere."""
        pairs = anchors * self.contrast.word_count + self._words[texts]
        places = np.searchsorted(self._right, pairs).clip(max=len(self._right) - 1)
        return self._right[places] == pairs


def _found(scores: np.ndarray, numbers: np.ndarray) -> list[list[tuple[int, float]]]:
    rows = zip(numbers.tolist(), scores.tolist(), strict=True)
    return [[(number, score) for number, score in zip(*row, strict=True) if number >= 0] for row in rows]


class MinedShards:
    """Makes the samples of each shard with their negatives, and the lines that show them.

    Args:
        contrasts: Of all samples.
        hardness: Which wrong answers are negatives.
        similarity: What rows are compared by.
        shards: What is written.
    """

    def __init__(
        self, contrasts: Contrasts, hardness: Hardness, similarity: Similarity, shards: RewrittenShards
    ) -> None:
        self._contrasts, self._hardness, self._shards = contrasts, hardness, shards
        self.said = ""
        self._captions = Miner(contrasts.captions, hardness, similarity, turned=True)
        self._answers = Miner(contrasts.answers, hardness, similarity, turned=False)

    def begin(self, number: int) -> Callable[[Samples], Written]:
        """Mines for a shard and writes its lines; returns what puts the negatives into its samples."""
        run = self._shards.runs[number]
        own = self._contrasts.place[run.start : run.stop]
        own = own[own >= 0]
        first, end = (int(own[0]), int(own[-1]) + 1) if len(own) else (0, 0)
        shown: dict[int, list[dict]] = {}
        for miner in (self._captions, self._answers):
            for line in miner.lines(first, end):
                shown.setdefault(line.sample, []).append(self._shown(line, miner.contrast))
        texts = [json.dumps(line, ensure_ascii=False) + "\n" for sample in sorted(shown) for line in shown[sample]]
        write_whole(self._shards.division.path(number, LINES), "".join(texts))
        return lambda samples: [self._with_negatives(sample, shown) for sample in samples]

    def join(self, folder: Path) -> None:
        """Writes the lines of all shards into one file, and notes how many there are in `said`."""
        lines = without = 0
        with (folder / f"negatives.{LINES}").open("wb") as file:
            for number in range(self._shards.division.count):
                content = self._shards.division.path(number, LINES).read_bytes()
                lines, without = lines + content.count(b"\n"), without + content.count(b'"negatives": []')
                file.write(content)
        self.said = f"{lines:,} captions and answers" + (f", {without:,} of them without a negative" if without else "")

    def _shown(self, line: Line, contrast: Contrast) -> dict[str, Any]:
        """What a line of negatives.jsonl says."""
        ids, (language, text) = self._contrasts.ids, contrast.written[line.text]
        asked = contrast.asked[line.anchor]
        what = {"caption": text} if asked is None else {"query": asked, "positive": text}
        negatives = [
            {"id": ids[contrast.text_owner[number]], "language": name, "text": wrong, "score": round(score, 6)}
            for number, score in line.texts
            for name, wrong in [contrast.written[number]]
        ]
        shown = {"id": ids[line.sample], "language": language, **what, "score": round(line.score, 6)}
        shown["negatives"] = negatives
        if asked is None:
            shown["images"] = [
                {"id": ids[contrast.anchor_owner[number]], "score": round(score, 6)} for number, score in line.anchors
            ]
        return shown

    def _with_negatives(self, sample: WholeSample | BadRow, shown: dict[int, list[dict]]) -> dict | BadRow:
        if isinstance(sample, BadRow):
            return sample
        number = int(self._contrasts.place[sample.row])
        if number < 0:
            return BadRow(NOT_EMBEDDED, sample.key)
        files = {"__key__": sample.key, **sample.files}
        if further := mined(shown.get(number, []), self._hardness):
            record = sample.sample.record | further
            if "negatives" in further:
                record.pop("scores", None)  # which were of the negatives that it had
            files["json"] = record_bytes(record)
        return files


def mined(lines: Sequence[dict[str, Any]], hardness: Hardness) -> dict[str, Any]:
    """What the lines of a sample put into its record: "negatives" and "negative_ids" by language, "negative_images".

    Of several lines the best are taken, as many as one caption has.
    """
    pools: dict[str, dict[tuple[str, str], str]] = {ANY if hardness.across else line["language"]: {} for line in lines}
    for each in sorted((each for line in lines for each in line["negatives"]), key=_by_score):
        pool = pools[ANY if hardness.across else each["language"]]
        if len(pool) < hardness.count:
            pool.setdefault((each["language"], each["text"]), each["id"])
    record: dict[str, Any] = {"negatives": {}, "negative_ids": {}}
    for (language, text), owner in (item for pool in pools.values() for item in pool.items()):
        record["negatives"].setdefault(language, []).append(text)
        record["negative_ids"].setdefault(language, []).append(owner)
    images = sorted((each for line in lines for each in line.get("images", ())), key=_by_score)
    record["negative_images"] = list(dict.fromkeys(each["id"] for each in images))[: hardness.count]
    return {name: value for name, value in record.items() if value}


def _by_score(negative: dict[str, Any]) -> float:
    return -negative["score"]
