"""Which streams a training mixture is read as: one for all, one a source, or one a language.

Drawing languages by p ~ n^alpha makes a language a stream of its own: the samples that have a caption in it, read pass
after pass, and mixed with the other languages' by exact quotas. So the share of each language is the one configured in
any stretch of the run, whatever languages a sample has besides, and the place in all streams is still one number.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from datamodules.curation.kept import drawable
from datamodules.shards.locations import Reading
from datamodules.shards.progress import with_progress
from datamodules.shards.records import read_records
from datamodules.shards.survey import ShardSurvey
from datamodules.stream.mixture import SurveyedSource, shown

BLOCK = 512  # bits that a draw looks through


@dataclass
class Stream:
    """Samples that are read pass after pass by themselves; with a language, those that have a caption in it."""

    counts: list[int]  # samples in each of its shards
    first: int = 0  # number of its first shard among all shards
    weight: float = 1.0
    language: int = -1  # index of the language that each of its samples brings
    having: list[np.ndarray] | None = None  # for each shard one bit a usable sample: whether it has the language
    density: float = 1.0  # share of the shards' samples that it reads

    def __post_init__(self) -> None:
        # for each shard how many of its samples come before each block of bits, so that a draw unpacks only one
        self._before = []
        for bits in map(np.unpackbits, self.having or ()):
            blocks = np.split(bits, range(BLOCK, len(bits), BLOCK))
            self._before.append(np.cumsum([0, *(int(block.sum()) for block in blocks)]))

    def sample(self, shard: int, place: int) -> int:
        """The number, among the usable samples of the shard, of the stream's sample at `place` of it."""
        if self.having is None:
            return place
        before = self._before[shard]
        block = int(np.searchsorted(before, place, side="right")) - 1
        bits = np.unpackbits(self.having[shard][block * BLOCK // 8 : (block + 1) * BLOCK // 8])
        return block * BLOCK + int(np.flatnonzero(bits)[place - before[block]])


def streams_of(
    sources: Sequence[SurveyedSource],
    languages: Sequence[str],
    alpha: float | None,
    caps: Mapping[str, int],
    reading: Reading,
    apart: bool = False,
) -> list[Stream]:
    """The streams of a mixture: by language where alpha or caps are given, else all samples as one, or one a source
    where they have weights or are to be `apart`. Raises ValueError for a cap on a language that is not in use, and for
    languages and sources apart.
    """
    for language in caps:
        if language not in languages:
            raise ValueError(f"data.language_caps: {language!r} is not among the languages in use, {shown(languages)}")
    if apart and (alpha is not None or caps):
        raise ValueError("data.mixing: batches takes a source at a time, data.language_alpha a language; one of them")
    if apart:
        firsts = np.cumsum([0, *(len(source.shards) for source in sources)]).tolist()
        return [
            Stream([len(shard) for shard in source.shards], first, source.weight or float(len(source)))
            for first, source in zip(firsts, sources, strict=False)
        ]
    if alpha is not None or caps:
        return language_streams(sources, languages, 1.0 if alpha is None else alpha, caps, reading)
    return [
        Stream([len(shard) for source in group for shard in source.shards], first, group[0].weight or 1.0)
        for first, group in _groups(sources)
    ]


def language_streams(
    sources: Sequence[SurveyedSource],
    languages: Sequence[str],
    alpha: float,
    caps: Mapping[str, int],
    reading: Reading,
) -> list[Stream]:
    """One stream a language (and source, where they have weights), weighted by `language_shares`.

    Reads the captions of each shard once, except where every language is on all of its samples or on none. A sample
    that cannot be read is in the stream of the most frequent language, where it is counted.
    """
    streams = []
    for first, group in _groups(sources):
        shards = [shard for source in group for shard in source.shards]
        sources_of = [source for source in group for _ in source.shards]
        having = _having(shards, sources_of, languages, reading)
        counts = np.array([table.sum(1) for table in having]).T  # [languages, shards]
        most = int(counts.sum(1).argmax())
        for shard, table in enumerate(having):
            table[most] |= ~table.any(0)
            counts[most, shard] = table[most].sum()
        captions = dict(zip(languages, counts.sum(1).tolist(), strict=True))
        for name, share in language_shares(captions, alpha, caps).items():
            i = languages.index(name)
            bits = [np.packbits(table[i]) for table in having]
            density = captions[name] / sum(len(shard) for shard in shards)
            streams.append(Stream(counts[i].tolist(), first, share * (group[0].weight or 1.0), i, bits, density))
    return streams


def language_shares(captions: Mapping[str, int], alpha: float, caps: Mapping[str, int]) -> dict[str, float]:
    """p ~ min(n, cap)^alpha over the languages that have captions, summing to 1.

    The exponent is that of multilingual language models (Conneau and Lample 2019, section 3.1: 0.5 and 0.7; XLM-R: 0.3;
    1 is the data as it is, 0 all languages alike); the cap is T5's artificial size limit (Raffel et al. 2020, section
    3.5.2), for each language by itself.

    Args:
        captions: n, for each language the samples with a caption in it.
        alpha: Exponent, 0 to 1.
        caps: The most captions of a language that count.
    """
    sizes = {name: min(n, caps.get(name, n)) ** alpha for name, n in captions.items() if n}
    return {name: size / sum(sizes.values()) for name, size in sizes.items()}


def _groups(sources: Sequence[SurveyedSource]) -> list[tuple[int, list[SurveyedSource]]]:
    """(number of its first shard, sources) of what is drawn as one: all sources, or each one that has a weight."""
    if sources[0].weight is None:
        return [(0, list(sources))]
    firsts = np.cumsum([0, *(len(source.shards) for source in sources)]).tolist()
    return [(first, [source]) for first, source in zip(firsts, sources, strict=False)]


def _having(
    shards: Sequence[ShardSurvey],
    sources: Sequence[SurveyedSource],
    languages: Sequence[str],
    reading: Reading,
) -> list[np.ndarray]:
    """For each shard bool [languages, usable samples]: which may be drawn in which language."""

    def one(task: tuple[ShardSurvey, SurveyedSource]) -> np.ndarray:
        shard, source = task
        only = source.languages
        names = [name if only is None or name in only else None for name in languages]
        if all(name is None or shard.languages[name] in (0, shard.samples) for name in names):
            column = [name is not None and shard.languages[name] > 0 for name in names]
            return np.repeat(np.array(column)[:, None], len(shard), 1)
        found: Iterable[Mapping | None] = (captions for _, captions in read_records(shard, reading))
        if source.kept is not None or shard.let_go is not None:
            found = (captions for _, _, captions in drawable(shard, source.kept, reading))
        cells = (name in (captions or ()) for captions in found for name in names)
        return np.fromiter(cells, bool).reshape(-1, len(names)).T

    with ThreadPoolExecutor(8) as threads:
        tables = threads.map(one, zip(shards, sources, strict=True))
        return list(with_progress(tables, "counting languages", len(shards)))
