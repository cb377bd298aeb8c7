"""Samples with all their files, for what writes shards again."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, repeat
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from datamodules.images import BrokenImage, ImagePipeline, ImageTooLarge
from datamodules.shards.encoding import BadRow
from datamodules.shards.locations import Reading, expand, file_stamp
from datamodules.shards.reader import ShardReader
from datamodules.shards.records import sample_captions
from datamodules.shards.remote import local_path
from datamodules.shards.samples import (
    FEATURE_SUFFIX,
    PAIR_TEXTS,
    BrokenSample,
    Sample,
    read_features,
    read_sample,
    read_texts,
)
from datamodules.shards.survey import survey


@dataclass
class WholeSample:
    """A sample and the files that it was read from.

    key         what its files share
    files       bytes by what follows the key
    sample      the same, read
    texts       (language, text) of "captions", in the record's order, and of "query", "positive" and "negatives"
    image       uint8 [3, H, W] or float32 features [F] or [P, F]; None without, or where images are not read
    row         its place among all samples
    """

    key: str
    files: dict[str, bytes]
    sample: Sample
    texts: dict[str, list[tuple[str, str]]]
    image: np.ndarray | None
    row: int


class WholeSamples(Dataset):
    """All samples of some shards in their order, broken ones included; `samples[row]` reads one.

    Args:
        shards: Files or addresses.
        images: Encoded images to pixels; None leaves images as they are.
        features: Whether images are features.
        text_language: Language of `.txt` captions.

    Raises:
        OSError: for a remote shard that cannot be fetched.
    """

    def __init__(
        self,
        shards: Sequence[str],
        *,
        images: ImagePipeline | None = None,
        features: bool = False,
        text_language: str = "und",
    ) -> None:
        self._images, self._features, self._reading = images, features, Reading(text_language)
        self.shards = survey(shards, None, self._reading, frozenset())
        self.starts = list(accumulate((shard.samples for shard in self.shards), initial=0))
        self._reader = ShardReader()

    @classmethod
    def named(cls, data: str, field: str = "--data", **options: Any) -> WholeSamples:
        """Those of SHARDS, the option `field`. Raises ValueError, one line, where that names no sample."""
        shards = [each for part in expand(data, field=field) for each in part.shards]
        try:
            samples = cls(shards, **options)
        except OSError as error:
            raise ValueError(f"{field}: {error}") from None
        if not len(samples):
            causes = ", ".join(sorted({cause for shard in samples.shards for cause in shard.lost})) or "empty shards"
            raise ValueError(f"{field}: no sample in {data} ({causes}); shards with samples")
        return samples

    def __len__(self) -> int:
        return self.starts[-1]

    def place(self, row: int) -> tuple[str, int]:
        """File and number of a sample. Raises BrokenSample where the shard cannot be had."""
        shard = self.shards[number := bisect_right(self.starts, row) - 1]
        try:
            return local_path(shard.shard, self._reading, shard.checksum), row - self.starts[number]
        except OSError:
            raise BrokenSample("missing shard") from None

    @property
    def stamps(self) -> list[list[Any]]:
        """Name, samples, size and time of each shard: others are other samples."""
        return [[shard.shard, shard.samples, file_stamp(shard.shard)] for shard in self.shards]

    def captions(self, run: range) -> Iterator[tuple[str, dict[str, list[str]]] | BrokenSample]:
        """Id and captions by language of the samples of one of `runs`, read without their pictures."""
        try:
            path, first = self.place(run.start)
        except BrokenSample as error:
            return repeat(error, len(run))
        numbers = range(first, first + len(run))
        return sample_captions(self._reader, path, numbers, self._reading.text_language)

    def key(self, row: int) -> str:
        """The key of a sample; its number where the shard cannot be read."""
        try:
            path, number = self.place(row)
            self._reader.index(path)
            return self._reader.key(path, number)
        except BrokenSample:
            return f"#{row}"

    def __getitems__(self, rows: Sequence[int]) -> list[WholeSample | BadRow]:
        return [self[row] for row in rows]

    def __getitem__(self, row: int) -> WholeSample | BadRow:
        """A sample, or what is wrong with it."""
        try:
            key, files = self._reader.read(*self.place(row))
            sample = read_sample(key, files, self._reading.text_language)
            texts = {name: read_texts(sample.record, name) for name in PAIR_TEXTS}
            texts["captions"] = [(language, text) for language, each in sample.captions.items() for text in each]
            return WholeSample(key, files, sample, texts, self._image(sample), row)
        except (BrokenSample, BrokenImage, ImageTooLarge) as error:
            return BadRow(error.cause, self.key(row))

    def _image(self, sample: Sample) -> np.ndarray | None:
        if sample.image is None or (self._images is None and not self._features):
            return None
        if (sample.suffix == FEATURE_SUFFIX) is not self._features:
            raise BrokenSample("a picture, not features" if self._features else "features, not a picture")
        if self._images is None:
            return read_features(sample.image)
        return self._images.evaluate(self._images.open(sample.image)).numpy()


def runs(samples: WholeSamples, length: int) -> list[range]:
    """All rows in runs of at most `length`, none of them over the end of a shard: keys may be the same in the next."""
    bounds = zip(samples.starts, samples.starts[1:], strict=False)
    return [range(start, min(start + length, end)) for first, end in bounds for start in range(first, end, length)]
