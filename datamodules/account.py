"""The account of what was trained on and what was not: counted, written down, and limited."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch.distributed

from datamodules.batch import Skip
from datamodules.files import write_whole
from datamodules.shards.survey import ShardSurvey

JUDGED_FROM = 100  # samples tried before a rate means anything; an epoch's end is judged whatever it had
EXAMPLES = 5  # keys remembered for each shard and cause

Counts = Counter[tuple[str, str]]


class SkipAccount:
    """Counts skipped samples, and stops the run when they are too many; counts what was drawn, by source and language.

    The rate is skipped / tried, where tried counts every sample read for training, the replaced ones included. It is
    judged after each batch from the 100th sample tried, and at an epoch's end. Samples that were already gone when
    the shards were surveyed (`lost`) are judged once, against all samples there should be. Samples without a caption
    in a chosen language (`left_out`) are noted and are no fault.

    Args:
        max_rate: Highest share of broken samples, e.g. 0.01.
    """

    def __init__(self, max_rate: float = 0.01) -> None:
        self.max_rate = max_rate
        self.tried = 0
        self.skipped: Counts = Counter()
        self.evaluated: Counts = Counter()  # of validation and test, each sample once
        self.drawn: Counts = Counter()  # captions by (source, language), samples by (source, "")
        self.lost: Counts = Counter()
        self.left_out: Counter[str] = Counter()
        self.examples: dict[tuple[str, str], list[str]] = {}
        self._restored: Counts = Counter()
        self._restored_tried = 0
        self._restored_drawn: Counts = Counter()
        self._seen: set[Skip] = set()

    def add_survey(self, shards: Iterable[ShardSurvey]) -> None:
        """Counts what is already gone from shards, and what has no chosen language."""
        for shard in shards:
            for cause, count in shard.lost.items():
                self.lost[shard.shard, cause] += count
            if shard.left_out:
                self.left_out[shard.shard] += shard.left_out

    def add(self, tried: int, skips: Iterable[Skip], drawn: Counts | None = None) -> None:
        """Counts samples tried for training, those of them that were skipped, and what was drawn of the others."""
        self.tried += tried
        self.drawn.update(drawn or {})
        for skip in skips:
            self._count(self.skipped, skip)

    def add_once(self, skips: Iterable[Skip]) -> None:
        """Counts skips of validation, which comes again and again: each sample once."""
        for skip in skips:
            if skip not in self._seen:
                self._seen.add(skip)
                self._count(self.evaluated, skip)

    def _count(self, counts: Counts, skip: Skip) -> None:
        shard, cause, key = skip
        counts[shard, cause] += 1
        examples = self.examples.setdefault((shard, cause), [])
        if len(examples) < EXAMPLES and key not in examples:
            examples.append(key)

    @property
    def rate(self) -> float:
        """Share of this process's samples that were broken, resumed runs included."""
        tried = self.tried + self._restored_tried
        return (self.skipped.total() + self._restored.total()) / tried if tried else 0.0

    def check(self, epoch_end: bool = False) -> None:
        """Raises ValueError with the table when the rate is above the limit."""
        if self.tried + self._restored_tried >= JUDGED_FROM or (epoch_end and self.tried):
            if self.rate > self.max_rate:
                self._stop(f"{self.rate:.1%} of the samples are broken", self.skipped + self._restored)

    def check_lost(self, total: int) -> None:
        """Raises ValueError with the table when too many of `total` samples are gone before training begins."""
        if self.lost.total() > self.max_rate * total:
            self._stop(f"{self.lost.total()} of {total} samples are lost", self.lost)

    def _stop(self, what: str, counts: Counts) -> None:
        raise ValueError(
            f"data: {what}, more than max_skip_rate = {self.max_rate:g}; mend the shards or raise it:{table(counts)}"
        )

    def merged(self) -> SkipAccount:
        """The account over all processes. Collective: every process of the default group must call it."""
        whole = SkipAccount(self.max_rate)
        own = {
            "tried": self.tried,
            "skipped": self.skipped,
            "evaluated": self.evaluated,
            "drawn": self.drawn,
            "examples": self.examples,
        }
        parts: list = [own]
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            parts = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(parts, own)
        for part in parts:
            whole.tried += part["tried"]
            whole.skipped += part["skipped"]
            whole.evaluated += part["evaluated"]
            whole.drawn += part["drawn"]
            for place, keys in part["examples"].items():
                examples = whole.examples.setdefault(place, [])
                examples += [key for key in keys if key not in examples][: EXAMPLES - len(examples)]
        whole.tried += self._restored_tried
        whole.skipped += self._restored
        whole.drawn += self._restored_drawn
        whole.lost, whole.left_out = self.lost, self.left_out  # every process surveys the same shards
        return whole

    def per_image(self, sources: Sequence[str], languages: Sequence[str], world: int = 1) -> dict[str, float]:
        """captions/<language>: captions in it an image drawn; samples/<source>: each source's share of the
        images, where there are several.

        Of this process, what was restored being shared out evenly. Every process draws as many images, so the mean over
        processes is the figure of all.
        """

        def drawn(source: str, language: str = "") -> float:
            return self.drawn[source, language] + self._restored_drawn[source, language] / world

        images = sum(drawn(source) for source in sources)
        if not images:
            return {}
        figures = {f"captions/{name}": sum(drawn(source, name) for source in sources) / images for name in languages}
        shares = {f"samples/{source}": drawn(source) / images for source in sources}
        return figures | (shares if len(sources) > 1 else {})

    def summary(self) -> dict:
        """What skipped.json holds."""
        everything = self.skipped + self._restored + self.evaluated + self.lost
        shards: dict[str, dict[str, int]] = {}
        for (shard, cause), count in sorted(everything.items()):
            shards.setdefault(shard, {})[cause] = count
        causes: Counter[str] = Counter()
        for (_, cause), count in everything.items():
            causes[cause] += count
        examples: dict[str, dict[str, list[str]]] = {}
        for (shard, cause), keys in sorted(self.examples.items()):
            examples.setdefault(shard, {})[cause] = keys
        drawn: dict[str, dict] = {}
        for (source, language), count in sorted((self.drawn + self._restored_drawn).items()):
            entry = drawn.setdefault(source, {"samples": 0, "captions": {}})
            if language:
                entry["captions"][language] = count
            else:
                entry["samples"] = count
        return {
            "tried": self.tried + self._restored_tried,
            "skipped": everything.total(),
            "rate": round(self.rate, 6),
            "max_rate": self.max_rate,
            "causes": dict(sorted(causes.items())),
            "shards": shards,
            "examples": examples,
            "no_chosen_language": dict(sorted(self.left_out.items())),
            "drawn": drawn,
        }

    def write(self, path: str | Path) -> None:
        """Writes skipped.json whole or not at all. Not collective; call it on `merged()` where there are ranks."""
        write_whole(path, json.dumps(self.summary(), ensure_ascii=False, indent=1) + "\n")

    def state_dict(self) -> dict:
        """Plain lists and numbers, for a checkpoint that is loaded as weights only."""
        counts = self.skipped + self._restored
        return {
            "tried": self.tried + self._restored_tried,
            "skipped": [[shard, cause, count] for (shard, cause), count in sorted(counts.items())],
            "drawn": [[*place, count] for place, count in sorted((self.drawn + self._restored_drawn).items())],
        }

    def load_state_dict(self, state: dict) -> None:
        self._restored = Counter({(shard, cause): count for shard, cause, count in state["skipped"]})
        self._restored_tried = state["tried"]
        self._restored_drawn = Counter({(source, language): count for source, language, count in state["drawn"]})
        self.tried, self.skipped, self.drawn = 0, Counter(), Counter()


def table(counts: Counts) -> str:
    """`shard: cause n` for the worst, on the line of an error."""
    worst = [f"{shard}: {cause} {count}" for (shard, cause), count in counts.most_common(10)]
    more = len(counts) - len(worst)
    return " " + "; ".join(worst) + (f"; and {more} more" if more > 0 else "")
