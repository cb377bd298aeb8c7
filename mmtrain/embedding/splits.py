"""SHARDS as a split to measure on, read as a model was trained; no training stands around it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.account import SkipAccount
from datamodules.batch import Batch
from datamodules.captions.rewriting import AsWritten
from datamodules.images import ImagePipeline
from datamodules.reading.dataset import ShardDataset
from datamodules.reading.fields import Features, FieldReader
from datamodules.reading.labels import check_labels, classes_of
from datamodules.reading.loaders import EvaluationBatches, make_loader
from datamodules.reading.splits import Splits
from datamodules.shards.locations import Reading
from datamodules.shards.survey import CAPTIONED
from datamodules.stream.identity import check_all_alike, rank_and_world, shards_digest
from datamodules.tokenizers.tokenizer import Tokenizer
from mmtrain.display.messages import say
from mmtrain.models.encoder import Encoder
from mmtrain.models.image_text import ImageTextModel

MAX_SKIP_RATE = 0.01  # as the data modules' default


class Untokenised(Tokenizer):
    """Makes no tokens, for captions that are not embedded."""

    vocabulary_size = 1

    def __call__(self, captions: Sequence[str], languages: Sequence[str]) -> tuple[Tensor, Tensor]:
        return torch.zeros(len(captions), 1, dtype=torch.int64), torch.zeros(len(captions), 1, dtype=torch.bool)

    def save(self, folder: str | Path) -> None:
        raise ValueError("Untokenised: a model needs a tokenizer")


class MeasuredShards:
    """All samples and captions of SHARDS, or those in some languages; surveyed once, read for one model or several.

    Args:
        data: SHARDS.
        languages: Languages to read, in this order; default: all there are.
        label_names: Classes by task, in the order in which a head was trained on them.
        labelled: Whether labels are checked and their classes counted.
        tokenised: Whether captions become tokens too; without, they are text alone.
        preview_side: Pixels of the longer side of the previews that come with each batch; None for none.
        captioned: Whether a sample needs a picture and a caption; without, those that lack one are read too.

    Raises:
        ValueError: one line, for shards that cannot be used.
    """

    def __init__(
        self,
        encoder: Encoder,
        data: str,
        languages: Sequence[str] | None = None,
        batch_size: int = 64,
        workers: int = 0,
        *,
        label_names: Mapping[str, Sequence[str]] | None = None,
        labelled: bool = False,
        tokenised: bool = True,
        preview_side: int | None = None,
        captioned: bool = True,
    ) -> None:
        self._lacking = frozenset() if captioned else CAPTIONED
        self._batch_size, self._workers, self._tokenised = batch_size, workers, tokenised
        self.preview_side = preview_side
        self._splits = Splits(
            {"test": data},
            chosen=None if languages is None else list(languages),
            label_names={task: list(names) for task, names in (label_names or {}).items()},
            account=SkipAccount(MAX_SKIP_RATE),
            images=_images(encoder),
            text=AsWritten(),
            reading=Reading(),
        )
        self._splits.needs["test"] = CAPTIONED - self._lacking | _readers(encoder).keys()
        self.classes: dict[str, int] = {}
        facts: dict | ValueError
        try:
            self._splits.survey(["test"])
            sources = self._splits.sources["test"]
            if labelled:
                check_labels(self._splits, {})
                self.classes = classes_of(self._splits, {})
            facts = {"samples": sum(map(len, sources)), "shards": shards_digest(sources)}
        except ValueError as error:
            facts = error
        check_all_alike(facts)
        self.read_for(encoder, self._splits.languages)

    def read_for(self, encoder: Encoder, languages: Sequence[str]) -> None:
        """From now on the samples are read as this model was trained, in these languages; skips are counted anew."""
        sources = [replace(source, images=_images(encoder)) for source in self._splits.sources["test"]]
        self.languages = list(languages)
        self.account = SkipAccount(MAX_SKIP_RATE)
        self.account.lost, self.account.lacking = self._splits.account.lost, self._splits.account.lacking
        self.dataset = ShardDataset(
            sources,
            languages=self.languages,
            tokenizer=encoder.tokenizer_for("query") if self._tokenised else Untokenised(),
            label_names=self.label_names,
            tasks=self.tasks,
            reading=Reading(),
            fields=_readers(encoder),
            lacking=self._lacking,
            preview_side=self.preview_side,
        )

    @property
    def label_names(self) -> dict[str, list[str]]:
        """For tasks labelled by strings, the strings in the order of their numbers."""
        return self._splits.label_names

    @property
    def tasks(self) -> list[str]:
        """Tasks that the samples' labels are of."""
        return self._splits.tasks

    def class_names(self, task: str) -> list[str]:
        """The classes of a task in words: its strings, or its numbers."""
        return self.label_names.get(task) or [str(number) for number in range(self.classes[task])]

    def __len__(self) -> int:
        """Samples."""
        return len(self.dataset)

    def loader(self) -> DataLoader[Batch]:
        """Every sample once over all processes, with all captions of the languages."""
        batches = EvaluationBatches(self.dataset, self._batch_size, *rank_and_world())
        return make_loader(DataLoader, self.dataset, batches, self._workers)

    def count(self, batch: Batch) -> None:
        """Counts a batch's skips, each sample once however often it comes."""
        self.account.add_once(batch.skipped)


def open_split(
    encoder: Encoder,
    data: str,
    languages: list[str] | None,
    batch_size: int,
    workers: int,
    *,
    labelled: bool = False,
    label_names: Mapping[str, Sequence[str]] | None = None,
    captioned: bool = True,
) -> MeasuredShards:
    """SHARDS in the languages, or in the model's as far as the shards have them. The arguments are MeasuredShards'.

    Raises:
        ValueError: one line, for shards that cannot be used or, where captions are needed, are in none of the model's
            languages.
    """
    unknown = [language for language in languages or () if language not in encoder.languages]
    if encoder.languages and unknown:
        say(f"{', '.join(unknown)}: not trained on; measured by transfer")
    chosen = languages if captioned else None
    options: dict[str, Any] = {"label_names": label_names, "labelled": labelled, "captioned": captioned}
    shards = MeasuredShards(encoder, data, chosen, batch_size, workers, **options)
    if not captioned and languages is not None:
        shards.read_for(encoder, [language for language in languages if language in shards.languages])
    if languages is not None or not encoder.languages:
        return shards
    shared = [language for language in encoder.languages if language in shards.languages]
    if not shared and captioned:
        raise ValueError(
            f"--data: {data} has {', '.join(shards.languages[:20])}, the model was trained on"
            f" {', '.join(encoder.languages[:20])}; name some with --languages to measure them nevertheless"
        )
    absent = [language for language in encoder.languages if language not in shared]
    if absent and shared != shards.languages:
        say(f"{data} has no captions in {', '.join(absent)}")
    shards.read_for(encoder, shared)
    return shards


def _readers(encoder: Encoder) -> dict[str, FieldReader]:
    """Of the further modalities that a model multiplies with a text; each lies under its own name."""
    model = encoder.model
    if not isinstance(model, ImageTextModel) or model.composition == "sum":
        return {}
    return {name: Features(name) for name in model.modalities}


def _images(encoder: Encoder) -> ImagePipeline:
    return ImagePipeline() if encoder.images is None else encoder.images


def language_indices(encoder: Encoder, languages: list[str]) -> Tensor:
    """int64 [K]: the index of each language among the encoder's, whose order is the run's; -1 where it has none."""
    return torch.tensor([encoder.languages.index(name) if name in encoder.languages else -1 for name in languages])
