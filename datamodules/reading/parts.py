"""The parts of a step: what a config says of each, and what its samples must hold."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, Protocol, runtime_checkable

from torch.utils.data import Dataset

from datamodules.batch import Batch, Batches
from datamodules.captions.drawing import Drawing, Uniform
from datamodules.captions.rewriting import AsWritten, TextTransform
from datamodules.images import ImagePipeline
from datamodules.reading.dataset import SCORES, Draw, ShardDataset
from datamodules.reading.fields import Features, FieldReader, Pictures, Texts
from datamodules.shards.samples import COMMON, PAIR_TEXTS, TAKEN
from datamodules.shards.survey import CAPTIONED, ShardSurvey
from datamodules.stream.identity import inform
from datamodules.stream.mixture import Mixing, Source, SurveyedSource, adapter_named
from datamodules.tokenizers.tokenizer import Tokenizer, check_prompts

OF_THE_RUN = frozenset({"labels"})  # what a sample may lack


@dataclass
class Part:
    """A part of each step, an entry of data.parts: so many samples of one kind.

    A part whose samples hold `query` reads query, positive and negatives, and neither pictures nor captions.

    Args:
        train: Its shards, or a list of `datamodules.Source`.
        batch_size: Its samples in a batch of one process.
        captions_per_image: K, as of the data module.
        views_per_image: V, as of the data module.
        languages: Languages read; default: all that the run uses.
        drawing: Which K languages of a sample; default: data.drawing.
        images: Its way from encoded images to pixels, of a size of its own; default: data.images.
        text: Its rewriting of captions; default: data.text.
        text_length: The tokenizer's max_length for this part.
        prompts: Of its sources that name none, by role.
        adapter: Of its sources that name none.
        adapter_of: Of its sources that name none; see `datamodules.Source`.
        negatives: Read so many of a pair's negatives.
        fields: Readers of further inputs by name.
        mixing: "samples" mixes its sources sample by sample, "batches" takes each global batch from one source;
            default: data.mixing.
        val: Shards to validate it on, logged as val/PART/...
    """

    train: list[Source] | str | None = None
    batch_size: int = 64
    captions_per_image: int | Literal["all"] | None = None
    views_per_image: int = 1
    languages: list[str] | None = None
    drawing: Drawing | None = None
    images: ImagePipeline | None = None
    text: TextTransform | None = None
    text_length: int | None = None
    negatives: int = 0
    fields: dict[str, FieldReader] | None = None
    mixing: Mixing | None = None
    val: str | None = None
    prompts: dict[str, str] | None = None
    adapter: str | None = None
    adapter_of: Literal["language"] | None = None

    def check(self, name: str) -> None:
        """Raises ValueError, one line, for an option out of range; `name` is the part's, "" for the only one."""
        where = f"data.parts.{name}" if name else "data"
        if name and not self.train:
            raise ValueError(f"{where}.train: no shards are named; a folder, a tar or a brace pattern")
        if isinstance(self.captions_per_image, int):
            check_least(f"{where}.captions_per_image", self.captions_per_image, 1)
        check_least(f"{where}.views_per_image", self.views_per_image, 1)
        check_least(f"{where}.batch_size", self.batch_size, 1)
        check_least(f"{where}.negatives", self.negatives, 0)
        check_prompts(self.prompts or {}, f"{where}.prompts")
        adapter_named(self, where)

    def say_unread(
        self,
        split: str,
        sources: Iterable[SurveyedSource],
        drawing: Drawing,
        language_alpha: float | None,
        language_caps: Mapping[str, int],
    ) -> None:
        """Says which options of captions were given and have no effect, where its samples are read without captions.

        Args:
            split: Its training split.
            sources: Of the split.
            drawing: The data module's; so are language_alpha and language_caps.
        """
        given = {
            "language_alpha": language_alpha is not None,
            "language_caps": language_caps,
            "drawing": not isinstance(self.drawing or drawing, Uniform),
            "text": any(not isinstance(source.text, AsWritten) for source in sources),
            "caption_fields": any(source.caption_fields for source in sources),
        }
        if unread := [name for name, value in given.items() if value]:
            inform(f"{split}: its samples are read without captions; {', '.join(unread)} have no effect there")


def parts_of(parts: Mapping[str, Part] | None, run: Part) -> dict[str, Part]:
    """The parts by name; where there are none, what the data module says of the run is the only one, "".

    Raises:
        ValueError: for what the data module says beside parts, which have it themselves.
    """
    if not parts:
        return {"": run}
    if run.train is not None or run.fields or run.views_per_image != 1:
        names = ", ".join(parts)
        raise ValueError(f"data.train, data.fields, data.views_per_image: with data.parts they are a part's ({names})")
    count = run.captions_per_image
    return {
        name: replace(part, captions_per_image=count) if part.captions_per_image is None else part
        for name, part in parts.items()
    }


def check_least(option: str, value: float, least: int) -> None:
    """Raises ValueError for a value below the least."""
    if value < least:
        raise ValueError(f"{option}: {value} is too small; at least {least}")


@runtime_checkable
class Reads(Protocol):
    """A training module that says what it reads of a sample; `mmtrain.ContrastiveModule` is one.

    Attributes:
        lacking: What of it a sample may lack.
    """

    @property
    def lacking(self) -> frozenset[str]: ...

    def reads(self, part: str, brings: frozenset[str] | None) -> frozenset[str]:
        """Some of "image", "texts", "labels", "score", "scores" and names of fields.

        Args:
            part: Its name, "" where there are none.
            brings: What its samples hold; None where that is not known yet.
        """
        ...


@runtime_checkable
class Prompting(Protocol):
    """A training module that wants prompts before its texts, by their role, query or passage."""

    @property
    def prompts(self) -> Mapping[str, str]: ...


def readers_of(needs: Iterable[str], fields: Mapping[str, FieldReader], negatives: int) -> dict[str, FieldReader]:
    """The fields' readers, and those of a pair's texts that need no word in a config.

    Raises:
        ValueError: for a field named like what samples have beside fields, or that reads from such a name.
    """
    implied = {name: Texts(count=negatives if name == "negatives" and negatives else 1) for name in PAIR_TEXTS}
    readers = {name: reader for name, reader in (implied | dict(fields)).items() if name in needs or name in fields}
    for name, reader in readers.items():
        reader.key = reader.key or name
        taken = COMMON if isinstance(reader, Texts) else TAKEN if isinstance(reader, Features | Pictures) else ()
        if name in COMMON or reader.key in taken:
            what = "its name" if name in COMMON else f"its key {reader.key}"
            raise ValueError(f"data.fields.{name}: {what} stands for what samples have beside fields; another name")
    return readers


def held(needs: Iterable[str], readers: Mapping[str, FieldReader]) -> frozenset[str]:
    """What a sample must hold of what is needed; texts of other keys than a pair's show when they are read."""
    names = {readers[name].key if name in readers else name for name in needs}
    lax = {
        each.key
        for each in readers.values()
        if not each.required or (each.kind == "text" and each.key not in PAIR_TEXTS)
    }
    return frozenset(names - lax - OF_THE_RUN)


def brought(shards: Iterable[ShardSurvey], fields: Iterable[str], negatives: int) -> frozenset[str]:
    """What the samples of a part bring: of pairs their texts and scores, else pictures and captions; and its fields."""
    there = set().union(*(shard.holds for shard in shards))
    if "query" in there:
        own = there & {"query", "positive", *SCORES, *(["negatives"] if negatives else [])}
    else:
        own = there & CAPTIONED
    return frozenset(own | set(fields) | OF_THE_RUN)


def shortened(tokenizer: Tokenizer, length: int, option: str) -> Tokenizer:
    """The tokenizer with another max_length. Raises ValueError where it has none, or where that is too short."""
    if not hasattr(tokenizer, "max_length") or length < 3:
        reason = "at least 3" if length < 3 else f"{type(tokenizer).__name__} has no max_length"
        raise ValueError(f"{option}: got {length}; {reason}")
    shorter = copy.copy(tokenizer)
    shorter.max_length = length
    return shorter


class StepDataset(Dataset):
    """The parts of a run. `dataset[list of draws]` is a Batches."""

    def __init__(self, datasets: Mapping[str, ShardDataset]) -> None:
        self._datasets = dict(datasets)

    def __getitems__(self, draws: list[Draw]) -> Batches:
        batches: dict[str, Batch] = {}
        for number, (name, dataset) in enumerate(self._datasets.items()):
            batches[name] = dataset.__getitems__([draw for draw in draws if draw.part == number])
        return Batches(batches)
