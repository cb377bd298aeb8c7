"""The account of what was trained on and what was not: counted, written down, and limited."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from datamodules.batch import Skip
from datamodules.files import write_whole
from datamodules.shards.survey import ShardSurvey
from datamodules.stream.identity import gathered

JUDGED_FROM = 100  # samples tried before a rate means anything; an epoch's end is judged whatever it had
EXAMPLES = 5  # keys remembered for each shard and cause

Counts = Counter[tuple[str, str]]
T = TypeVar("T")


@dataclass
class Trained:
    """What training read: samples tried, those of them skipped by (shard, cause), and what was drawn of the others:
    captions by (source, language), samples by (source, ""); texts that the tokenizer cut.
    """

    tried: int = 0
    skipped: Counts = field(default_factory=Counter)
    drawn: Counts = field(default_factory=Counter)
    cut: int = 0

    def __add__(self, other: Trained) -> Trained:
        return Trained(
            self.tried + other.tried, self.skipped + other.skipped, self.drawn + other.drawn, self.cut + other.cut
        )


class SkipAccount:
    """Counts skipped samples, and stops the run when they are too many; counts what was drawn, by source and language.

    The rate is skipped / tried, where tried counts every sample read for training, the replaced ones included. It is
    judged after each batch from the 100th sample tried, and at an epoch's end. Samples that were already gone when
    the shards were surveyed (`lost`) are judged once, against all samples there should be. Samples that lack what the
    run needs (`lacking`, by shard and need), such as a caption in a chosen language, are noted and are no fault, and so
    are captions and samples that a source's filters left out (`filtered`, by shard and cause).

    Args:
        max_rate: Highest share of broken samples, e.g. 0.01.
    """

    def __init__(self, max_rate: float = 0.01) -> None:
        self.max_rate = max_rate
        self.evaluated: Counts = Counter()  # skipped in validation and test, each sample once
        self.lost: Counts = Counter()
        self.lacking: Counts = Counter()
        self.filtered: Counts = Counter()
        self.examples: dict[tuple[str, str], list[str]] = {}
        self._own, self._restored = Trained(), Trained()  # of this process; of all processes before a resume
        self._seen: set[Skip] = set()

    @property
    def _trained(self) -> Trained:
        return self._own + self._restored

    @property
    def tried(self) -> int:
        """Samples that this process read for training since it began or resumed."""
        return self._own.tried

    def add_survey(self, shards: Iterable[ShardSurvey], lost: Counts) -> None:
        """Counts what is already gone, and what is left out because it lacks something."""
        self.lost += lost
        for shard in shards:
            self.lacking.update({(shard.name, need): count for need, count in shard.lacking.items()})
            self.filtered.update({(shard.name, cause): count for cause, count in shard.filtered.items()})

    def add(self, tried: int, skips: Iterable[Skip], drawn: Counts, cut: int = 0) -> None:
        """Counts samples tried for training, those of them that were skipped, and what was drawn of the others."""
        self._own.tried += tried
        self._own.cut += cut
        self._own.drawn.update(drawn)
        for skip in skips:
            self._count(self._own.skipped, skip)

    def add_once(self, skips: Iterable[Skip]) -> None:
        """Counts skips of validation, which comes again and again: each sample once."""
        for skip in skips:
            if skip not in self._seen:
                self._seen.add(skip)
                self._count(self.evaluated, skip)

    def _count(self, counts: Counts, skip: Skip) -> None:
        counts[skip.shard, skip.cause] += 1
        self._remember((skip.shard, skip.cause), [skip.key])

    def _remember(self, place: tuple[str, str], keys: Iterable[str]) -> None:
        examples = self.examples.setdefault(place, [])
        examples += [key for key in keys if key not in examples][: EXAMPLES - len(examples)]

    @property
    def rate(self) -> float:
        """Share of this process's samples that were broken, resumed runs included."""
        trained = self._trained
        return trained.skipped.total() / trained.tried if trained.tried else 0.0

    def check(self, epoch_end: bool = False) -> None:
        """Raises ValueError with the table when the rate is above the limit."""
        judged = self._own.tried + self._restored.tried >= JUDGED_FROM or (epoch_end and self._own.tried)
        if judged and self.rate > self.max_rate:
            self._stop(f"{self.rate:.1%} of the samples are broken", self._trained.skipped)

    def check_lost(self, lost: Counts, total: int) -> None:
        """Raises ValueError with the table when too many of a split's samples are gone before anything is read."""
        if lost.total() > self.max_rate * total:
            self._stop(f"{lost.total()} of {total} samples are lost", lost)

    def _stop(self, what: str, counts: Counts) -> None:
        worst = [f"{shard}: {cause} {count}" for (shard, cause), count in counts.most_common(10)]
        more = f"; and {len(counts) - len(worst)} more" if len(counts) > len(worst) else ""
        raise ValueError(
            f"data: {what}, more than max_skip_rate = {self.max_rate:g}; mend the shards or raise it: "
            f"{'; '.join(worst)}{more}"
        )

    def merged(self) -> SkipAccount:
        """The account over all processes. Collective: every process of the default group must call it."""
        whole = SkipAccount(self.max_rate)
        whole._restored = self._restored
        for own, evaluated, examples in gathered((self._own, self.evaluated, self.examples)):
            whole._own += own
            whole.evaluated += evaluated
            for place, keys in examples.items():
                whole._remember(place, keys)
        whole.lost, whole.lacking, whole.filtered = (
            self.lost,
            self.lacking,
            self.filtered,
        )  # every process surveys the same shards
        return whole

    def per_image(self, sources: Sequence[str], languages: Sequence[str], world: int = 1) -> dict[str, float]:
        """captions/<language>: captions in it an image drawn; samples/<source>: each source's share of the
        images, where there are several.

        Of this process, what was restored being shared out evenly. Every process draws as many images, so the mean over
        processes is the figure of all.
        """

        def drawn(source: str, language: str = "") -> float:
            return self._own.drawn[source, language] + self._restored.drawn[source, language] / world

        images = sum(drawn(source) for source in sources)
        if not images:
            return {}
        figures = {f"captions/{name}": sum(drawn(source, name) for source in sources) / images for name in languages}
        shares = {f"samples/{source}": drawn(source) / images for source in sources}
        return figures | (shares if len(sources) > 1 else {})

    def summary(self) -> dict:
        """What skipped.json holds."""
        trained = self._trained
        everything = trained.skipped + self.evaluated + self.lost
        causes: Counter[str] = Counter()
        for (_, cause), count in everything.items():
            causes[cause] += count
        return {
            "tried": trained.tried,
            "skipped": everything.total(),
            "rate": round(self.rate, 6),
            "max_rate": self.max_rate,
            "causes": dict(sorted(causes.items())),
            "shards": _nested(everything),
            "examples": _nested(self.examples),
            "texts_cut": trained.cut,
            "lacking": _nested(self.lacking),
            "filtered": _nested(self.filtered),
            "no_chosen_language": {shard: n for (shard, need), n in sorted(self.lacking.items()) if need == "texts"},
            "drawn": {
                source: {"samples": counts.pop("", 0), "captions": counts}
                for source, counts in _nested(trained.drawn).items()
            },
        }

    def write(self, path: str | Path) -> None:
        """Writes skipped.json whole or not at all. Not collective; call it on `merged()` where there are ranks."""
        write_whole(path, json.dumps(self.summary(), ensure_ascii=False, indent=1) + "\n")

    def state_dict(self) -> dict:
        """Plain lists and numbers, for a checkpoint that is loaded as weights only."""
        trained = self._trained
        return {
            "tried": trained.tried,
            "cut": trained.cut,
            "skipped": [[*place, count] for place, count in sorted(trained.skipped.items())],
            "drawn": [[*place, count] for place, count in sorted(trained.drawn.items())],
        }

    def load_state_dict(self, state: dict) -> None:
        """Goes on from what `state_dict` gave: the counts of all processes before a resume."""
        skipped, drawn = (
            Counter({(first, second): count for first, second, count in state[name]}) for name in ("skipped", "drawn")
        )
        self._own, self._restored = Trained(), Trained(state["tried"], skipped, drawn, state.get("cut", 0))


def _nested(values: Mapping[tuple[str, str], T]) -> dict[str, dict[str, T]]:
    """{(a, b): value} as {a: {b: value}}, sorted."""
    nested: dict[str, dict[str, T]] = {}
    for (outer, inner), value in sorted(values.items()):
        nested.setdefault(outer, {})[inner] = value
    return nested
