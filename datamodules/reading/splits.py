"""The splits of a data module: whose shards were read, in which languages, with which labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from datamodules.account import Counts, SkipAccount
from datamodules.captions.rewriting import TextTransform
from datamodules.images import ImagePipeline
from datamodules.reading.choices import choose_labels, choose_languages
from datamodules.reading.parts import Part
from datamodules.shards.locations import Reading, weighted_parts
from datamodules.shards.survey import CAPTIONED, ShardSurvey, filtered_shown, lacking_shown
from datamodules.stream.identity import inform
from datamodules.stream.mixture import Source, SurveyedSource, survey_sources


@dataclass
class Splits:
    """Surveys each split once, and chooses what all of them share.

    Args:
        specs: By split its shards as the user gives them, None where there are none.
        chosen: Languages the user chose; None takes those there are.
        label_names: For tasks labelled by strings, the strings in the order of their numbers, where chosen.
        account: Gets what is lost already.
        images: Encoded images to pixels, where a source has no way of its own.
        text: Rewriting of the training split's captions, where a source has none of its own.
        parts: For splits of a part of the step, the part; its languages, images, text, prompts come before the run's.
        prompts: What stands before texts of a role.
    """

    specs: dict[str, list[Source] | str | None]
    chosen: list[str] | None
    label_names: dict[str, list[str]]
    account: SkipAccount
    images: ImagePipeline
    text: TextTransform
    reading: Reading
    parts: dict[str, Part] = field(default_factory=dict)
    prompts: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.languages: list[str] = list(self.chosen or [])
        self.elsewhere: list[str] = []  # languages that a split may lack, since splits have languages of their own
        self.tasks: list[str] = []
        self.sources: dict[str, list[SurveyedSource]] = {}
        self.needs: dict[str, frozenset[str]] = {}  # by split what its samples must hold, where that is not CAPTIONED
        self.left_out: dict[str, Counts] = {}  # by split, rows of a manifest that could not be packed

    def survey(self, names: Sequence[str]) -> None:
        """Reads the shards of splits that are new. Raises ValueError, one line, for shards that cannot be used."""
        for name in names:
            self.sources[name] = self._survey(name)
        self.languages = choose_languages(self.sources, self.languages, self.elsewhere)
        for name in names:
            present = set(self.elsewhere).union(*(source.captions for source in self.sources[name]))
            chosen = self.parts[name].languages if name in self.parts else None
            if absent := [language for language in chosen or self.languages if language not in present]:
                inform(f"{name}: no caption in {', '.join(absent)}")
        every = [source for sources in self.sources.values() for source in sources]
        self.tasks, self.label_names = choose_labels(every, self.label_names)

    def holds(self, name: str) -> list[ShardSurvey]:
        """The shards of a split, whatever its samples hold."""
        return [shard for source in self._read(name, frozenset()) for shard in source.shards]

    def _read(self, name: str, needs: frozenset[str]) -> list[SurveyedSource]:
        spec, part = self.specs[name], self.parts.get(name, Part())
        assert spec is not None
        if part.languages is not None and isinstance(spec, str):
            spec = [Source(shards, weight, part.languages) for shards, weight in weighted_parts(spec, f"data.{name}")]
        elif part.languages is not None and not isinstance(spec, str):
            spec = [replace(source, languages=source.languages or part.languages) for source in spec]
        # in the test split an image without a caption in the chosen languages stays: captions are ranked against all
        return survey_sources(
            spec,
            field=f"data.{name}",
            images=part.images or self.images,
            text=part.text or self.text,
            languages=None if name == "test" else self.chosen,
            reading=self.reading,
            needs=needs,
            prompts={**self.prompts, **(part.prompts or {})},
        )

    def _survey(self, name: str) -> list[SurveyedSource]:
        spec = self.specs[name]
        sources = self._read(name, self.needs.get(name, CAPTIONED))
        shards = [shard for source in sources for shard in source.shards]
        lost = Counter({(shard.name, cause): n for shard in shards for cause, n in shard.lost.items()})
        lost += self.left_out.get(name, Counter())
        self.account.add_survey(shards, lost)
        for (place, cause), count in lost.items():
            inform(f"{name}: {place}: {cause} ({count})")
        for columns in dict.fromkeys(shard.columns for shard in shards if shard.columns):
            inform(f"{name}: columns {columns}")
        for shard in shards:
            if not shard.samples and not shard.lost:
                inform(f"{name}: {shard.name} is empty")
        lacking = sum((shard.lacking for shard in shards), Counter())
        if lacking:
            inform(f"{name}: {lacking_shown(lacking)}: left out")
        if left_out := sum((shard.filtered for shard in shards), Counter()):
            inform(f"{name}: filters left out {filtered_shown(left_out)}")
        samples = sum(shard.samples for shard in shards)
        if lacking.keys() - {"texts"} and not any(map(len, shards)):
            raise ValueError(f"data.{name}: no sample holds all that is needed: {lacking_shown(lacking)}")
        if not samples:
            causes = ", ".join(sorted({cause for _, cause in lost})) or "empty shards"
            where = spec if isinstance(spec, str) else ", ".join(source.shards for source in spec or ())
            raise ValueError(f"data.{name}: no sample in {where} ({causes}); shards with samples")
        self.account.check_lost(lost, samples + lost.total())
        return sources
