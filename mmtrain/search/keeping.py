"""The captions that a MODEL finds most similar to their pictures, as `curate --by_model` keeps them."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from datamodules.curation.joining import CURATION, KEEP, SHOWN, check_curation_folder, is_curation
from datamodules.files import room_for, whole_folder, write_whole
from datamodules.reading.whole import WholeSamples
from mmtrain.display.curation import Examples, print_curation, write_curation_page
from mmtrain.display.messages import say
from mmtrain.embedding.division import parts_beside
from mmtrain.embedding.processes import Processes
from mmtrain.embedding.rewriting import Sizes
from mmtrain.evaluation.ranking.tiles import pair_scores
from mmtrain.search.building import lasting
from mmtrain.search.rows import Rows, open_rows

SAMPLES_PER_SHARD = 1024


class Scored(NamedTuple):
    """A caption; its similarity is None where there is no picture."""

    id: str
    language: str
    caption: str
    similarity: float | None


def keep_by_model(
    model: str,
    data: str,
    target: Path,
    share: float,
    *,
    batch_size: int = 64,
    workers: int = 2,
    device: str | None = None,
    trust: Sequence[str] | None = None,
) -> Path:
    """Writes keep.jsonl, curation.json and curation.html: the most similar captions of each language are kept.

    Args:
        model: A MODEL, or the folder that `embed` wrote of these SHARDS.
        data: SHARDS.
        target: The folder that is written.
        share: Of the captions of each language that have a picture; above 0, at most 1.

    Raises:
        ValueError: for a share out of range, and what `embed` finds.
    """
    if not 0 < share <= 1:
        raise ValueError(f"--share: got {share}, expected a share above 0, at most 1")
    check_curation_folder(target)
    processes = Processes.launched()
    with parts_beside(target, processes.rank) as folder, room_for(target):
        sizes = Sizes(batch_size, SAMPLES_PER_SHARD)
        rows = open_rows(model, data, folder, sizes, device=processes.device(device), trust=trust)
        identity = hashlib.sha256(json.dumps([rows.identity, share]).encode()).hexdigest()[:16]
        if is_curation(target, identity):
            say(f"{target}: all is there already")
            return target
        if not rows.make(processes, workers) or processes.rank:
            return target
        samples = WholeSamples.named(data, "SHARDS")
        limits = {language: Limit.of(found, share) for language, found in _similarities(rows, samples).items()}
        with whole_folder(target, check_curation_folder) as unfinished:
            facts, examples = _write(unfinished, _scored(rows, samples), limits)
            facts |= {
                "model": lasting(model),
                "share": share,
                "similarity": rows.similarity,
                "skipped": {},
                "identity": identity,
            }
            write_whole(unfinished / CURATION, json.dumps(facts, ensure_ascii=False, indent=1) + "\n")
            write_curation_page(unfinished, data, facts, examples, balanced=False)
        rows.remove(processes)
    print_curation(target, facts)
    return target


def _similarities(rows: Rows, samples: WholeSamples) -> dict[str, np.ndarray]:
    """float32 of all captions of each language that have one."""
    found: dict[str, list[float]] = {}
    for each in _scored(rows, samples):
        if each.similarity is not None:
            found.setdefault(each.language, []).append(each.similarity)
    return {language: np.array(own, np.float32) for language, own in found.items()}


@dataclass
class Limit:
    """The lowest similarity that is kept, and how many captions that have exactly it."""

    similarity: float
    equal: int

    @classmethod
    def of(cls, similarities: np.ndarray, share: float) -> "Limit":
        kept = max(1, round(share * len(similarities)))
        limit = -np.partition(-similarities, kept - 1)[kept - 1]
        return cls(float(limit), kept - int((similarities > limit).sum()))

    def keeps(self, similarity: float) -> bool:
        """Whether a caption is kept; of equal ones the first."""
        if similarity == self.similarity:
            self.equal -= 1
            return self.equal >= 0
        return similarity > self.similarity


def _scored(rows: Rows, samples: WholeSamples) -> Iterator[Scored]:
    for each in rows.read(samples):
        texts, own = each.sample.texts["captions"], each.rows.get("captions")
        scores: list[float] | list[None] = [None] * len(texts)
        if each.image is not None and own is not None:
            image, pairs = torch.from_numpy(each.image[None]), np.arange(len(texts))
            found = pair_scores(image, torch.from_numpy(own), np.zeros_like(pairs), pairs, rows.similarity)
            scores = found.astype(np.float32).tolist()
        for (language, caption), score in zip(texts, scores, strict=True):
            yield Scored(each.sample.sample.id, language, caption, score)


def _write(
    folder: Path, scored: Iterator[Scored], limits: dict[str, Limit]
) -> tuple[dict[str, Any], dict[str, Examples]]:
    languages: dict[str, dict[str, Any]] = {}
    examples: dict[str, Examples] = {}
    with (folder / KEEP).open("w", encoding="utf-8") as file:
        for each in scored:
            limit = limits.get(each.language)
            kept = each.similarity is not None and limit is not None and limit.keeps(each.similarity)
            record: dict[str, Any] = {"id": each.id, "language": each.language, "caption": each.caption, "matched": 0}
            record |= {"probability": float(kept), "kept": kept, "similarity": each.similarity}
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
            counts: dict[str, Any] = dict.fromkeys(("captions", "matched", "kept"), 0) | {
                "threshold": limit and limit.similarity
            }
            own = languages.setdefault(each.language, counts | {"tail_before": None, "tail_after": None})
            own["captions"] += 1
            own["matched"] += each.similarity is not None
            own["kept"] += kept
            shown = examples.setdefault(each.language, Examples()).let_go
            if not kept and each.similarity is not None and len(shown) < SHOWN:
                shown.append((each.caption, 0, each.similarity, ""))
    return {"languages": dict(sorted(languages.items()))}, examples
