"""The splits of a data module: whose shards were read, in which languages, with which labels."""

from __future__ import annotations

from collections.abc import Sequence

from pytorch_lightning.utilities import rank_zero_info

from datamodules.account import SkipAccount
from datamodules.captions.rewriting import TextTransform
from datamodules.images import ImagePipeline
from datamodules.reading.choices import choose_labels, choose_languages, missing_languages
from datamodules.shards.locations import Reading
from datamodules.stream.mixture import Source, SurveyedSource, survey_sources


class Splits:
    """Surveys each split once, and chooses what all of them share.

    Args:
        specs: By split what the user named, None where nothing.
        chosen: Languages the user chose; None takes those there are.
        label_names: For tasks labelled by strings, the strings in the order of their numbers, where chosen.
        account: Gets what is lost already.
        images: Encoded images to pixels, where a source has no way of its own.
        text: Rewriting of the training split's captions, where a source has none of its own.
    """

    def __init__(
        self,
        specs: dict[str, list[Source] | str | None],
        *,
        chosen: list[str] | None,
        label_names: dict[str, list[str]],
        account: SkipAccount,
        images: ImagePipeline,
        text: TextTransform,
        reading: Reading,
    ) -> None:
        self.specs = specs
        self.languages: list[str] = list(chosen or [])
        self.elsewhere: list[str] = []  # languages that a split may lack, since splits have languages of their own
        self.label_names = dict(label_names)
        self.tasks: list[str] = []
        self.sources: dict[str, list[SurveyedSource]] = {}
        self._account, self._images, self._text = account, images, text
        self._chosen, self._reading = chosen, reading

    def survey(self, names: Sequence[str]) -> None:
        """Reads the shards of splits that are new. Raises ValueError, one line, for shards that cannot be used."""
        for name in names:
            self.sources[name] = self._survey(name)
        self.languages = choose_languages(self.sources, self.languages, self.elsewhere)
        everywhere = [language for language in self.languages if language not in self.elsewhere]
        for name in names:
            if absent := missing_languages(self.sources[name], everywhere):
                rank_zero_info(f"{name}: no caption in {', '.join(absent)}")
        every = [source for sources in self.sources.values() for source in sources]
        self.tasks, self.label_names = choose_labels(every, self.label_names)

    def _survey(self, name: str) -> list[SurveyedSource]:
        spec = self.specs[name]
        assert spec is not None
        # in the test split an image without a caption in the chosen languages stays: captions are ranked against all
        sources = survey_sources(
            spec,
            field=f"data.{name}",
            images=self._images,
            text=self._text,
            languages=None if name == "test" else self._chosen,
            reading=self._reading,
        )
        shards = [shard for source in sources for shard in source.shards]
        self._account.add_survey(shards)
        for shard in shards:
            for cause, count in shard.lost.items():
                rank_zero_info(f"{name}: {shard.shard}: {cause} ({count})")
            if not shard.samples and not shard.lost:
                rank_zero_info(f"{name}: {shard.shard} is empty")
        samples = sum(shard.samples for shard in shards)
        if not samples:
            causes = ", ".join(sorted({cause for shard in shards for cause in shard.lost})) or "empty shards"
            where = spec if isinstance(spec, str) else ", ".join(source.shards for source in spec)
            raise ValueError(f"data.{name}: no sample in {where} ({causes}); shards with samples")
        self._account.check_lost(samples + sum(shard.lost.total() for shard in shards))
        return sources
