"""The sources of a training mixture: as a config lists them, and as they are once their shards were read."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from datamodules.captions.rewriting import TextTransform
from datamodules.curation.filtering import filtered
from datamodules.curation.filters import CaptionFilter, Filter
from datamodules.curation.kept import Kept, kept_of
from datamodules.images import ImagePipeline
from datamodules.shards.locations import Reading, expand, file_of
from datamodules.shards.progress import with_progress
from datamodules.shards.survey import CAPTIONED, ShardSurvey, filtered_shown, survey
from datamodules.tokenizers.tokenizer import check_prompts

SHOWN = 20
Mixing = Literal["samples", "batches"]


@dataclass
class Source:
    """One source of a mixture, an entry of the list that data.train may be.

    Args:
        shards: A folder, a tar, a brace pattern, or several joined with `::`, without weights.
        weight: Its share of the samples drawn, relative to the other sources'. Where some sources have a weight the
            others weigh 1; where none has, every sample of all sources is drawn equally often.
        languages: Languages drawn from this source; default: all that the run uses.
        images: Its own way from encoded images to pixels, of the same size; default: data.images.
        text: Its own rewriting of captions; default: data.text.
        objectives: Names of the objectives that its captions count for; default: all. For any other objective they
            are absent, while its images stay negatives. Of `mmtrain.RelationModule`: itc, itm and task/<task>.
        name: In the log and the account; default: the folder's name.
        caption_fields: How often each of WIT's fields is drawn beside the others of a language, such as {reference: 4,
            attribution: 2}, however many captions it has; another field, or none, weighs 1. Default: captions alike.
        prompts: What stands before its texts in training, by their role, such as {query: "translate: "}; default: the
            part's, else model.prompts, which alone stay with the model.
        adapter: The one of model.adapters that reads its samples; default: the part's.
        adapter_of: "language" lets each text be read by the adapter that is called like its language; pictures, and
            texts of a language without one, are read by the base.
        keep: The folder that `mmtrain curate` wrote of these shards: draws the captions that it kept, and no sample
            without one.
        filters: Which of its samples and captions are drawn, such as `datamodules.curation.Length` or a class of yours.
            They are asked in their order when the shards are surveyed, those of pictures read all of them then.
    """

    shards: str
    weight: float | None = None
    languages: list[str] | None = None
    images: ImagePipeline | None = None
    text: TextTransform | None = None
    objectives: list[str] | None = None
    name: str | None = None
    caption_fields: dict[str, float] | None = None
    prompts: dict[str, str] | None = None
    adapter: str | None = None
    adapter_of: Literal["language"] | None = None
    keep: str | None = None
    filters: list[Filter] | None = None


@dataclass
class SurveyedSource:
    """Shards that were read and what is done with their samples."""

    name: str
    shards: list[ShardSurvey]
    images: ImagePipeline
    text: TextTransform
    weight: float | None = None  # None in every source: all samples are drawn equally often
    languages: list[str] | None = None  # None: all that the run uses
    objectives: list[str] | None = None  # None: all
    caption_fields: dict[str, float] | None = None  # weights of WIT's fields; None: all alike
    prompts: Mapping[str, str] | None = None  # before its texts, by role
    kept: Kept | None = None  # captions that may be drawn; None: all

    def __len__(self) -> int:
        return sum(len(shard) for shard in self.shards)

    @property
    def captions(self) -> Counter[str]:
        """Samples with a caption in each of the languages that this source may bring."""
        counts = self._all_captions()
        return counts if self.languages is None else Counter({name: counts[name] for name in self.languages})

    def _all_captions(self) -> Counter[str]:
        counts = Counter[str]()
        for shard in self.shards:
            counts.update(shard.languages)
        return counts


def survey_sources(
    spec: str | Sequence[Source],
    *,
    field: str,
    images: ImagePipeline,
    text: TextTransform,
    languages: list[str] | None,
    reading: Reading,
    needs: frozenset[str] = CAPTIONED,
    prompts: Mapping[str, str] | None = None,
) -> list[SurveyedSource]:
    """Reads the shards of SHARDS, or of a list of sources; samples that lack one of `needs` are left out.

    Raises ValueError, one line, for what cannot be used.
    """
    if isinstance(spec, str):
        parts = expand(spec, field=field, allow_pipe=reading.allow_pipe, patience=reading.patience)
        sources = [(Source(spec, part.weight), part.shards) for part in parts]
    else:
        sources = [(source, _unweighted(source.shards, field, reading)) for source in spec]
    if not sources:
        raise ValueError(f"{field}: an empty list of sources; at least one, with its shards")
    weighted = any(source.weight is not None for source, _ in sources)
    surveyed: list[SurveyedSource] = []
    for source, shards in sources:
        name = _unused_name(source.name or _folder(shards[0]), {other.name for other in surveyed})
        _check(source, f"{field}: source {name}", images, languages)
        chosen, kept = source.languages or languages, None
        try:
            surveys = survey(shards, chosen, reading, needs)
        except OSError as error:
            raise ValueError(f"{field}: {error}") from None
        if source.keep is not None and needs:
            kept = Kept(source.keep)
            curated = (kept_of(shard, kept, chosen, reading) for shard in surveys)
            surveys = list(with_progress(curated, "reading what is kept", len(surveys)))
        if source.filters and needs:
            where = f"{field}: source {name}: filters"
            if "texts" not in needs and any(isinstance(each, CaptionFilter) for each in source.filters):
                raise ValueError(f"{where}: got one of captions, which are not read here; those of ids or pictures")
            surveys = filtered(surveys, source.filters, kept, chosen, reading)
            if not any(map(len, surveys)):
                left_out = sum((shard.filtered for shard in surveys), Counter())
                raise ValueError(f"{where}: they leave no sample ({filtered_shown(left_out)})")
        result = SurveyedSource(
            name,
            surveys,
            source.images or images,
            source.text or text,
            (source.weight or 1.0) if weighted else None,
            source.languages,
            source.objectives,
            source.caption_fields,
            {**(prompts or {}), **(source.prompts or {})},
            kept,
        )
        captions = result._all_captions()
        for language in source.languages or ():
            if not captions[language]:
                there = shown(captions)
                raise ValueError(f"{field}: source {name}: no caption is in {language!r}; it has {there}")
        surveyed.append(result)
    return surveyed


def adapter_named(entry: Any, where: str) -> str | None:
    """What a source or part says of its adapter: a name, "language", or None. Raises ValueError where it says two."""
    if entry.adapter is not None and entry.adapter_of is not None:
        raise ValueError(
            f"{where}: got adapter {entry.adapter} and adapter_of {entry.adapter_of}; expected one of them"
        )
    return entry.adapter or entry.adapter_of


def _check(source: Source, where: str, images: ImagePipeline, languages: list[str] | None) -> None:
    if source.weight is not None and not (math.isfinite(source.weight) and source.weight > 0):
        raise ValueError(f"{where}: weight {source.weight} is no share of the samples; a number above 0")
    for field, weight in (source.caption_fields or {}).items():
        if not (math.isfinite(weight) and weight > 0):
            raise ValueError(f"{where}: caption_fields: {field} weighs {weight}; a number above 0")
    if source.images is not None and source.images.shape != images.shape:
        raise ValueError(
            f"{where}: images.size is {source.images.size}, data.images.size is {images.size}; one size for all, and"
            " one number of patches"
        )
    check_prompts(source.prompts or {}, f"{where}: prompts")
    adapter_named(source, where)
    for field in ("languages", "objectives"):
        names = getattr(source, field)
        if names is not None and (not names or len(set(names)) < len(names)):
            raise ValueError(f"{where}: {field} {names} is empty or names one twice; different ones, or leave it out")
    for language in source.languages or ():
        if languages is not None and language not in languages:
            raise ValueError(f"{where}: language {language!r} is not in data.languages, {shown(languages)}")


def _unweighted(shards: str, field: str, reading: Reading) -> list[str]:
    part, *_ = expand(shards, field=field, allow_pipe=reading.allow_pipe, patience=reading.patience)
    if part.weight is not None:
        raise ValueError(f"{field}: {shards!r} has a weight inside; in a list of sources it is the source's `weight`")
    return part.shards


def _folder(shard: str) -> str:
    path = Path(file_of(shard))
    return "pipe" if shard.startswith("pipe:") else path.parent.name or path.stem


def _unused_name(name: str, used: set[str]) -> str:
    names = [name, *(f"{name}-{number}" for number in range(2, len(used) + 2))]
    return next(each for each in names if each not in used)


def count_for(sources: Sequence[SurveyedSource], objectives: Sequence[str]) -> dict[str, list[bool]]:
    """For each objective whether each source's captions count for it; objectives that all count for are left out.

    Raises ValueError, one line, when a source names an objective that is not there or an objective has no source.
    """
    for source in sources:
        for name in source.objectives or ():
            if name not in objectives:
                raise ValueError(
                    f"data.train: source {source.name}: no objective is called {name!r}; the model has "
                    f"{', '.join(objectives)}"
                )
    counts = {}
    for name in objectives:
        counts[name] = [source.objectives is None or name in source.objectives for source in sources]
        if not any(counts[name]):
            raise ValueError(
                f"model.objectives: {name!r} has no captions, for no source of data.train names it; "
                "name it under a source's objectives, or leave it out"
            )
    return {name: by_source for name, by_source in counts.items() if not all(by_source)}


def shown(languages: Iterable[str]) -> str:
    """Languages for an error's line: the first of them."""
    languages = sorted(languages)
    more = f" and {len(languages) - SHOWN} more" if len(languages) > SHOWN else ""
    return ", ".join(languages[:SHOWN]) + more if languages else "none"


def drawn_names(sources: Sequence[SurveyedSource], languages: Sequence[str]) -> list[str]:
    """What `Batch.drawn` counts: captions of language i at i, those of its tail at -2 - i, samples at -1."""
    tails = [f"{language}/tail" for language in reversed(languages)]
    return [*languages, *(tails if any(source.kept for source in sources) else ()), ""]
