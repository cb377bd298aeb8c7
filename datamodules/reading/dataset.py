"""Draws to batches: reading, choosing captions, decoding and tokenising, in whichever process it happens.

A draw names a sample and the place it takes in the stream. All randomness of a sample is seeded by (seed, position), so
a batch is the same in any worker, on any rank, before and after a resume.
"""

from __future__ import annotations

import contextlib
import random
import warnings
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.batch import Batch, Skip
from datamodules.captions.drawing import Drawing, Uniform, by_field
from datamodules.curation.kept import restrict
from datamodules.images import ImagePipeline
from datamodules.reading.collating import Collator, Loaded
from datamodules.reading.fields import FieldReader, Value
from datamodules.reading.views import sample_views
from datamodules.shards.index_cache import IndexCache
from datamodules.shards.locations import Reading
from datamodules.shards.reader import ShardReader
from datamodules.shards.records import PROBED, features_shape
from datamodules.shards.remote import local_path
from datamodules.shards.samples import (
    SUFFIXES,
    TEXT_FILES,
    BrokenSample,
    Sample,
    read_sample,
    read_scores,
)
from datamodules.shards.survey import CAPTIONED
from datamodules.stream.mixture import SurveyedSource
from datamodules.tokenizers.tokenizer import Tokenizer

NOTHING_DRAWN: Sequence[random.Random | None] = (None,)  # the one row of evaluation
ATTEMPTS = 16  # samples tried for one place in a batch before the data counts as unusable


class Draw(NamedTuple):
    """Sample `sample` (among the usable ones) of shard `shard` at `position`; shard -1 is padding.

    With a `language`, its caption in it comes whatever else is drawn. `part` is the number of its part of the step.
    """

    position: int
    shard: int
    sample: int
    end: int = 0  # of the global batch, in training
    language: int = -1
    part: int = 0


SCORES, PADDING = frozenset({"score", "scores"}), Draw(-1, -1, -1)


class ShardDataset(Dataset):
    """The samples of one split. `dataset[list of draws]` is a Batch.

    Args:
        sources: Sources that were surveyed; draws number the shards through all of them.
        languages: Languages in the order of their indices.
        captions_per_image: K captions of K different languages in training, slot k being language k where K is their
            number; None takes all captions (evaluation).
        views_per_image: V, rows in turn of each sample in training, each with a crop and a draw of its own.
        drawing: Which K languages of a sample are drawn.
        streams: How many streams draw from the shards at once, each from another shard: so many stay indexed.
        label_names: For tasks labelled by strings, the strings in the order of their indices.
        seed: Of everything random about a sample.
        needs: What a batch holds: "image", "texts", "score", "scores", names of fields; the rest is not read.
        fields: Readers of further inputs by name.
        lacking: What of `needs` a sample may lack.
        preview_side: Pixels of the longer side of the previews that come with a batch of evaluation; None for none.
    """

    def __init__(
        self,
        sources: Sequence[SurveyedSource],
        *,
        languages: Sequence[str],
        tokenizer: Tokenizer,
        captions_per_image: int | None = None,
        views_per_image: int = 1,
        drawing: Drawing | None = None,
        label_names: dict[str, list[str]] | None = None,
        tasks: Sequence[str] = (),
        reading: Reading,
        seed: object = 0,
        streams: int = 1,
        needs: frozenset[str] = CAPTIONED,
        fields: Mapping[str, FieldReader] | None = None,
        lacking: frozenset[str] = frozenset(),
        preview_side: int | None = None,
    ) -> None:
        self.needs, self.fields, self._lacking = needs, dict(fields or {}), lacking
        self.sources = list(sources)
        self.shards = [shard for source in sources for shard in source.shards]
        self.languages = list(languages)
        self.captions_per_image, self.views_per_image = captions_per_image, views_per_image
        self.label_names, self.tasks = label_names or {}, list(tasks)
        self._drawing = Uniform() if drawing is None else drawing
        self.reading, self._seed, self._preview_side = reading, seed, preview_side
        largest = max(shard.samples for shard in self.shards)
        most = max(200_000, 2 * streams * largest)
        # a shard that is removed from a full cache takes its room as long as it is open
        files = 2 * streams if reading.cache_gb is not None else max(64, 2 * streams)
        self._reader = ShardReader(most, files, IndexCache(reading.cache_dir), reading)
        self._index = {language: i for i, language in enumerate(self.languages)}
        # row at which each shard starts, and the shard at which each source does
        self._starts = np.concatenate(([0], np.cumsum([len(shard) for shard in self.shards]))).tolist()
        self._firsts = np.concatenate(([0], np.cumsum([len(source.shards) for source in sources]))).tolist()
        # pictures that nobody looks at stay unread
        keys = {reader.key for reader in self.fields.values() if reader.kind != "text"}
        self._suffixes = SUFFIXES if "image" in needs | keys else TEXT_FILES
        self._names = frozenset(keys - {"image"})
        self._shape = self._probe() if "image" in needs else ()
        self._field_shapes = {name: self._probe_field(reader) for name, reader in self.fields.items()}
        self._collator = Collator(
            tokenizer=tokenizer,
            languages=self.languages,
            shape=self._shape if "image" in needs else None,
            label_names=self.label_names,
            tasks=self.tasks,
            fields=self.fields,
            field_shapes=self._field_shapes,
            scores=sorted(SCORES & needs),
            pictured="image" not in lacking,
            prompts=[source.prompts or {} for source in sources],
        )

    def __len__(self) -> int:
        return self._starts[-1]

    def at(self, row: int, position: int | None = None) -> Draw:
        """The draw of a row of the split, in the order of the shards."""
        shard = bisect_right(self._starts, row) - 1
        return Draw(row if position is None else position, shard, row - self._starts[shard])

    def __getitems__(self, draws: Sequence[Draw]) -> Batch:
        """One batch. Broken samples are replaced in training, and are padding (row -1) in evaluation."""
        skipped: list[Skip] = []
        loaded = [row for draw in draws for row in self._load(draw, skipped)]
        most = self.captions_per_image or max([1, *(len(item.texts) for item in loaded if item)])
        slots = most if "texts" in self.needs else 0
        try:
            batch = self._collator(loaded, slots)
        except Exception as error:
            error.add_note(f"in a batch of the samples {', '.join(item.sample.id for item in loaded if item)}")
            raise
        batch.skipped, batch.end, batch.views = skipped, draws[0].end, self.views_per_image
        if self.captions_per_image is not None:
            batch.drawn = Counter((item.source, text[0]) for item in loaded if item for text in item.texts if text)
            samples = [item for item in loaded[:: self.views_per_image] if item]
            batch.drawn.update((item.source, -1) for item in samples)
            batch.drawn.update((item.source, -2 - i) for item in samples for i in item.sample.drawn_of_tail)
        return batch

    def _load(self, draw: Draw, skipped: list[Skip]) -> Sequence[Loaded | None]:
        """The rows of a draw: its views in training, else one; None is padding."""
        if draw.shard < 0:
            return [None]
        training = self.captions_per_image is not None
        source = self._source(draw)
        first, end = self._starts[self._firsts[source]], self._starts[self._firsts[source + 1]]
        place = draw
        for attempt in range(ATTEMPTS + 1):
            seed = f"{self._seed}/{draw.position}/{attempt}"
            rngs = [random.Random(f"{seed}/{view}" if view else seed) for view in range(self.views_per_image)]
            if attempt:
                other = self.at(rngs[0].randrange(first, end), draw.position)
                place = other._replace(language=draw.language, end=draw.end)
            try:
                return self._read(place, rngs if training else [])
            except BrokenSample as error:
                skipped.append(Skip(self.shards[place.shard].name, error.cause, self._key(place)))
                if not training:
                    return [None]
            except Exception as error:
                error.add_note(f"in sample {self._key(place)} of {self.shards[place.shard].shard}")
                raise
        causes = ", ".join(sorted({skip.cause for skip in skipped}))
        raise ValueError(
            f"data.train: {ATTEMPTS} samples drawn for one place were all broken ({causes}); mend the shards"
        )

    def _source(self, draw: Draw) -> int:
        return bisect_right(self._firsts, draw.shard) - 1

    def _read(self, place: Draw, rngs: Sequence[random.Random]) -> Sequence[Loaded]:
        """A row for each `rng`; without one, as evaluation sees the sample."""
        path, number = self.place(place)
        index = self._source(place)
        source = self.sources[index]
        try:
            sample = self.sample(path, number)
            restrict(sample, number, self.shards[place.shard], source.kept)
            if "texts" in self.needs - self._lacking and not sample.captions and sample.image is not None:
                raise BrokenSample("no caption")
            images = source.images.of_batch(random.Random(f"{self._seed}/{place.end}")) if rngs else source.images
            views, small = self._views(sample, images, rngs)
        except BrokenSample:
            if self._reader.cut(path, number):
                raise BrokenSample("truncated shard") from None
            raise
        texts = self._texts(sample, source, place, rngs)
        row = self._starts[place.shard] + place.sample
        scores = {name: read_scores(sample.record, name) for name in SCORES & self.needs}
        return [
            Loaded(sample, view, own, row, index, self._values(sample, source, rng), scores, small)
            for view, own, rng in zip(views, texts, rngs or NOTHING_DRAWN, strict=True)
        ]

    def sample(self, path: str, number: int) -> Sample:
        return read_sample(*self._reader.read(path, number, self._suffixes, self._names), self.reading.text_language)

    def _views(
        self, sample: Sample, images: ImagePipeline, rngs: Sequence[random.Random]
    ) -> tuple[Sequence[Tensor | None], bytes]:
        """The picture or features of each row, None where the run reads neither, and the sample's preview."""
        if "image" not in self.needs or (sample.image is None and "image" in self._lacking):
            return [None] * max(1, len(rngs)), b""
        views, small = sample_views(sample, images, rngs, self._preview_side)
        if views[0].shape != self._shape:
            mixed = (views[0].ndim == 3) != (len(self._shape) == 3)  # features are a row or tokens
            raise BrokenSample("pictures and features mixed" if mixed else "features of another size")
        return views, small

    def _values(self, sample: Sample, source: SurveyedSource, rng: random.Random | None) -> dict[str, list[Value]]:
        """The values of each field."""
        allowed = self._index if source.languages is None else self._index.keys() & source.languages
        values = {name: reader.read(sample, allowed, source.images, rng) for name, reader in self.fields.items()}
        for name, each in values.items():
            if not each and self.fields[name].required and name not in self._lacking:
                raise BrokenSample(f"missing {self.fields[name].key}")
            if any(isinstance(one.content, Tensor) and one.content.shape != self._field_shapes[name] for one in each):
                raise BrokenSample("features of another size")
        return values

    def place(self, place: Draw) -> tuple[str, int]:
        shard = self.shards[place.shard]
        try:
            path = local_path(shard.shard, self.reading, shard.checksum)
        except OSError as error:
            warnings.warn(f"{error}; its samples are counted as skipped", stacklevel=2)
            raise BrokenSample("missing shard") from None
        return path, place.sample if shard.usable is None else int(shard.usable[place.sample])

    def _key(self, place: Draw) -> str:
        try:
            return self._reader.key(*self.place(place))
        except BrokenSample:
            return f"#{place.sample}"

    def _texts(
        self, sample: Sample, source: SurveyedSource, place: Draw, rngs: Sequence[random.Random]
    ) -> Iterable[Sequence[tuple[int, str] | None]]:
        """The captions of each row."""
        if "texts" not in self.needs:
            return [()] * max(1, len(rngs))
        return self._drawn_texts(sample, source, place, rngs) if rngs else [self._all_texts(sample, source)]

    def _all_texts(self, sample: Sample, source: SurveyedSource) -> Sequence[tuple[int, str] | None]:
        return [
            (index, text)
            for index, language in enumerate(self.languages)
            if source.languages is None or language in source.languages
            for text in sample.captions.get(language, ())
        ]

    def _drawn_texts(
        self, sample: Sample, source: SurveyedSource, place: Draw, rngs: Sequence[random.Random]
    ) -> Iterator[Sequence[tuple[int, str] | None]]:
        """The slots of each view. Views take other captions as long as the sample has some that no view has yet."""
        allowed = self._index if source.languages is None else self._index.keys() & source.languages
        own = [name for name in sample.captions if name in allowed]
        unused = {name: list(sample.captions[name]) for name in own}
        count = self.captions_per_image or len(self.languages)
        first = self.languages[place.language] if place.language >= 0 else None
        for rng in rngs:
            names = [name for name in own if name == first]
            for fresh in (True, False):
                pool = [name for name in own if bool(unused[name] or name in self._drawing.always) is fresh]
                pool = [name for name in pool if name not in names]
                names += self._drawing.draw(pool, count - len(names), rng) if pool else []
            texts = {}
            for name in names:
                pool, weights = unused[name] or sample.captions[name], source.caption_fields
                caption = rng.choice(pool) if weights is None else by_field(pool, sample, name, weights, rng)
                if source.kept is not None and source.kept.in_tail(sample.id, name, caption):
                    sample.drawn_of_tail.append(self._index[name])
                unused[name] = [other for other in unused[name] if other != caption]
                texts[self._index[name]] = source.text(caption, name, rng)
            in_place = [(i, texts[i]) if i in texts else None for i in range(count)]
            yield in_place if len(self.languages) == count else list(texts.items())

    def _probe(self) -> tuple[int, ...]:
        """Shape of one image: that of the pipeline, or of features."""
        shape = features_shape(self._reader, self._first_places(), self.reading.text_language)
        return shape or self.sources[0].images.shape

    def _probe_field(self, reader: FieldReader) -> tuple[int, ...]:
        """Shape of one value of a field; of texts it is not known before."""
        if reader.kind != "features":
            return () if reader.kind == "text" else (getattr(reader, "images", None) or self.sources[0].images).shape
        for place in self._first_places(reader.key):
            with contextlib.suppress(BrokenSample):
                sample = self.sample(*place)
                for value in reader.read(sample, self._index, self.sources[0].images, None):
                    return tuple(value.content.shape) if isinstance(value.content, Tensor) else ()
        if self.captions_per_image is not None:
            raise ValueError(f"data.fields: no sample holds {reader.key!r}; leave the field out, or pack it")
        return ()

    def _first_places(self, key: str | None = None) -> Iterator[tuple[str, int]]:
        """The first samples of each shard; all samples of those shards that hold a field."""
        for number, shard in enumerate(self.shards):
            count = min(len(shard), PROBED) if key is None else len(shard) if shard.holds[key] else 0
            for sample in range(count):
                with contextlib.suppress(BrokenSample):
                    yield self.place(Draw(0, number, sample))
