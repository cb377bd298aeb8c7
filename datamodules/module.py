"""The LightningDataModule: shards in, batches out, with a cursor that survives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

from jsonargparse import lazy_instance
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader

from datamodules.account import SkipAccount
from datamodules.batch import Batch, Batches
from datamodules.captions.drawing import Drawing, Uniform
from datamodules.captions.rewriting import AsWritten, TextTransform
from datamodules.images import ImagePipeline
from datamodules.reading.dataset import ShardDataset
from datamodules.reading.fields import FieldReader
from datamodules.reading.labels import classes_of
from datamodules.reading.layout import Layout, splits_of, train_of
from datamodules.reading.loaders import EvaluationBatches, make_loader
from datamodules.reading.parts import Part, check_least, parts_of
from datamodules.reading.splits import Splits
from datamodules.reading.training import Training
from datamodules.shards.locations import Reading
from datamodules.shards.servers import Patience
from datamodules.stream.identity import check_all_alike, rank_and_world, shards_digest
from datamodules.stream.mixture import Mixing, Source, count_for
from datamodules.tokenizers.tokenizer import ByteTokenizer, Tokenizer

# lazy, so that the command line shows the defaults' own options
BYTES = lazy_instance(ByteTokenizer)
PIXELS = lazy_instance(ImagePipeline)
EVENLY = lazy_instance(Uniform)
AS_WRITTEN = lazy_instance(AsWritten)


class ShardDataModule(LightningDataModule):
    """Image-text shards with K captions of K languages an image.

    Training is one endless stream, pass after pass over all samples; each sample comes once a pass, in an order that
    depends on seed and position alone, not on the number of readers or ranks. A broken sample is counted and another
    takes its place. Fewer shards than readers is no problem: any reader reads any sample.
    Raises ValueError, one line, for options out of range, or that do not go together.

    Args:
        train: Shards to train on: a folder, a tar, a brace pattern, or several joined with `::`, each with an optional
            weight before it, as in 0.7@en/::0.3@lv/ (its share of the samples); or a list of `datamodules.Source`.
        val: Shards to validate on.
        test: Shards to test on.
        languages: Languages to use, in this order; default: all in the shards. A sample with none of them is left out.
        captions_per_image: K, how many captions of different languages each image brings in training, at most the
            number of languages; "all" for so many, when slot k is language k. An image with fewer leaves slots empty.
        views_per_image: V, how often each sample is in the batch in training, with a crop and a draw of K captions of
            its own each time, which differ as long as it has enough; its views are no negatives of one another. All
            counts (batch_size, samples seen, an epoch) are of samples: a batch has batch_size x V rows.
        drawing: Which K of its languages: datamodules.Uniform, Weighted, Pivot, InOrder, or a rule of your own.
        language_alpha: Draws samples by language, p ~ n^alpha for n samples with a caption in it: 1 as in the data, 0
            all alike. Each brings the language it is drawn for, the other K - 1 by `drawing`. Default: all samples.
        language_caps: The most samples of a language that count in n; alpha is 1 by default then.
        text: Rewrites captions while training, such as datamodules.CodeSwitch; their language stays what it was.
        batch_size: Samples in a batch of one process.
        workers: Reading processes beside each training process.
        tokenizer: What makes captions token ids; UTF-8 bytes by default.
        images: What makes encoded images pixels.
        fields: Readers of further inputs by name: datamodules.Texts, Pictures, Features, Crops or your own.
        parts: The parts of each step by name, such as pictures with captions beside pairs of texts. Each has shards,
            a batch and fields of its own; val is read as the first part that has pictures.
        mixing: "samples" mixes the sources of train sample by sample, "batches" takes each global batch from one.
        seed: Of order, drawn captions and augmentation.
        shuffle_window: Samples are shuffled within runs of whole shards of at least this many samples.
        text_language: Language of `.txt` captions (shards of img2dataset and open_clip).
        max_skip_rate: Highest share of broken samples; above it the run stops with the table.
        cache_dir: Where remote shards are kept; default ~/.cache/mmtrain/shards.
        allow_pipe: Whether `pipe:COMMAND` may name a shard.
        cache_gb: The most 10^9 bytes of cache for remote shards, of which the least recently used go, and row groups.
        retry_seconds: Waits before a request that a server answered badly is made again.
        timeout_seconds: So long a server may send nothing.
        epoch_samples: Length of an epoch in samples; default: one pass over a single source, or over the first part.
        label_names: For tasks labelled by strings, the strings in the order of their numbers; default: sorted.
    """

    def __init__(
        self,
        train: list[Source] | str | None = None,
        val: str | None = None,
        test: str | None = None,
        languages: list[str] | None = None,
        captions_per_image: int | Literal["all"] = 1,
        views_per_image: int = 1,
        drawing: Drawing = EVENLY,
        language_alpha: float | None = None,
        language_caps: dict[str, int] | None = None,
        text: TextTransform = AS_WRITTEN,
        batch_size: int = 64,
        workers: int = 2,
        tokenizer: Tokenizer = BYTES,
        images: ImagePipeline = PIXELS,
        seed: int = 0,
        shuffle_window: int = 10_000,
        text_language: str = "und",
        max_skip_rate: float = 0.01,
        cache_dir: str | None = None,
        allow_pipe: bool = False,
        epoch_samples: int | None = None,
        label_names: dict[str, list[str]] | None = None,
        cache_gb: float | None = None,
        retry_seconds: list[float] | tuple[float, ...] = (1, 4, 16),
        timeout_seconds: float = 10,
        fields: dict[str, FieldReader] | None = None,
        parts: dict[str, Part] | None = None,
        mixing: Mixing = "samples",
    ) -> None:
        super().__init__()
        check_least("data.workers", workers, 0)
        if not 0 <= max_skip_rate <= 1:
            raise ValueError(f"data.max_skip_rate: {max_skip_rate} is no share; 0 to 1")
        if languages is not None and (not languages or len(set(languages)) < len(languages)):
            raise ValueError(f"data.languages: {languages} is empty or names one twice; different language codes")
        # a lazy instance is of a class made on the spot, which a checkpoint could not name
        self.tokenizer = ByteTokenizer() if tokenizer is BYTES else tokenizer
        self.images = ImagePipeline() if images is PIXELS else images
        self.drawing = Uniform() if drawing is EVENLY else drawing
        self.account, self.classes = SkipAccount(max_skip_rate), dict[str, int]()  # by task, once labels were read
        patience = Patience(tuple(retry_seconds), timeout_seconds)
        self._reading = Reading(text_language, cache_dir, allow_pipe, cache_gb, patience)
        self._batch_size, self._workers = batch_size, workers
        self._datasets: dict[str, ShardDataset] = {}
        self._parts = parts_of(parts, Part(train, batch_size, captions_per_image, views_per_image, fields=fields))
        self._layout = Layout(self._parts, val, test)
        self._splits = Splits(
            self._layout.specs,
            chosen=languages,
            label_names=label_names or {},
            account=self.account,
            images=self.images,
            text=AsWritten() if text is AS_WRITTEN else text,
            reading=self._reading,
        )
        self._training = Training(
            self.account,
            parts=self._parts,
            drawing=self.drawing,
            language_alpha=language_alpha,
            language_caps=language_caps or {},
            mixing=mixing,
            epoch_samples=epoch_samples,
            seed=seed,
            shuffle_window=shuffle_window,
            processes=self._rank_and_world,
        )

    # -- what the training module uses

    @property
    def languages(self) -> list[str]:
        """Languages in use, in the order of `Batch.languages`."""
        return self._splits.languages

    @property
    def label_names(self) -> dict[str, list[str]]:
        """For tasks labelled by strings, the strings in the order of their numbers."""
        return self._splits.label_names

    @property
    def tasks(self) -> list[str]:
        """Tasks that the samples' labels are of."""
        return self._splits.tasks

    @property
    def brings(self) -> dict[str, frozenset[str]]:
        """By part of the step ("" without parts) what its batches hold: image, texts, labels, score, scores, fields."""
        return self._layout.brings(bool(self.tasks))

    @property
    def kinds(self) -> frozenset[str]:
        """What is encoded in training: "image", "text", "features"."""
        return self._layout.kinds()

    @property
    def picture_shapes(self) -> set[tuple[int, ...]]:
        """The shapes of the pictures that the training brings; that of data.images where it brings none."""
        return self._layout.picture_shapes(self.images)

    @property
    def tokenizers(self) -> dict[str, Tokenizer]:
        """Those that make its texts token ids, each by the option that sets its length."""
        return self._layout.tokenizers(self.tokenizer)

    @property
    def validated(self) -> list[str]:
        """The part that each validation loader is of: "" for data.val, which comes first."""
        return [name for name, _ in self._layout.validations()]

    @property
    def position(self) -> int:
        """Samples of all ranks trained: the place in the stream behind the last batch trained."""
        return self._training.cursor.position

    @property
    def epoch_length(self) -> int:
        """Samples of all ranks in an epoch."""
        return self._training.epoch_length

    def samples_to_come(self, epochs: int) -> int:
        """Samples of all ranks from `position` to the end of so many of the trainer's epochs, the present one too."""
        return self._training.samples_to_come(epochs)

    def samples(self, split: str) -> int:
        """How many samples a split has, once it is set up."""
        return len(self._datasets[split])

    def trained(self, batch: Batch | Batches) -> None:
        """To be called after each optimiser step: moves the cursor, counts, raises when skips are too many."""
        self._training.trained(batch)

    def evaluated(self, batch: Batch) -> None:
        """To be called for each validation or test batch: counts its skips, each sample once however often it comes."""
        self.account.add_once(batch.skipped)

    def drawn(self) -> dict[str, float]:
        """What was drawn so far, for the log: captions of each language an image, and each source's share of images."""
        return self._training.drawn()

    @property
    def adapters(self) -> dict[str, list[str | None]]:
        """By part of the step what each source says of its adapter: a name, "language", or None."""
        return self._layout.adapters()

    def count_for(self, objectives: Sequence[str]) -> dict[str, list[bool]]:
        """Objective -> which sources' captions count, where not all do. Raises ValueError for a name of one side."""
        return count_for(self._training.dataset.sources, objectives) if "" in self._parts else {}

    def train_samples(self) -> DataLoader:
        """Every training sample once over all ranks with all its captions, as validation reads it."""
        self._require("train")
        return self._every_sample(self._new_dataset(ShardDataset, "train"))

    def read_beside(self, batch: Batch, rows: Sequence[Sequence[int]], count: int) -> Batch:
        """For each sample of a training batch so many others, drawn from a list of numbers in the split."""
        return self._training.read_beside(batch, rows, count)

    # -- Lightning's hooks

    def setup(self, stage: str | None = None) -> None:
        """Surveys the shards of the stage's splits. Raises ValueError, one line, for shards that cannot be used."""
        facts: dict | ValueError
        try:
            self._set_up(stage)
            facts = {name: [len(dataset), shards_digest(dataset.sources)] for name, dataset in self._datasets.items()}
        except ValueError as error:
            facts = error
        check_all_alike(facts)

    def teardown(self, stage: str | None = None) -> None:
        """Ends the reading processes of the training."""
        if stage in (None, "fit"):
            self._training.close()

    def train_dataloader(self) -> DataLoader:
        """Always the same loader; an iteration starts at `position` and ends with the epoch.

        With the trainer's limit_train_batches every epoch has that many batches, wherever the data's own ends; with
        overfit_batches they are the same ones every time.
        """
        for name in self._parts:
            self._require(train_of(name))
        trainer = self.trainer
        if trainer is None:
            return self._training.loader(self._workers, None)
        steps = self._training.limit(trainer.limit_train_batches, getattr(trainer, "overfit_batches", 0) > 0)
        if steps:
            trainer.limit_train_batches = steps  # of a share, Lightning would take that of the batches to come
        return self._training.loader(self._workers, trainer.fit_loop.restarting)

    def val_dataloader(self) -> DataLoader | list:
        """Every sample once over all ranks, all captions of the chosen languages; a loader for each of `validated`."""
        loaders = [self._evaluation_loader(split) for _, split in self._layout.validations()]
        return loaders[0] if len(loaders) == 1 else loaders

    def test_dataloader(self) -> DataLoader | list:
        return self._evaluation_loader("test")

    def state_dict(self) -> dict:
        """Cursor, account and what they belong to. Collective where there are ranks, as saving a checkpoint is."""
        return self._training.state_dict() if self._training.datasets else {}

    def load_state_dict(self, state: dict) -> None:
        """Goes on where `state` was. Raises ValueError when it belongs to other data."""
        if state:
            self._training.load_state_dict(state)

    def _set_up(self, stage: str | None) -> None:
        if stage == "fit" and "" in self._parts and self._splits.specs["train"] is None:
            raise ValueError("data.train: no shards are named; a folder, a tar or a brace pattern")
        new = [name for name in self._layout.splits(splits_of(stage)) if name not in self._datasets]
        if new:
            self._layout.choose(new, self._splits, None if self.trainer is None else self.trainer.lightning_module)
            self._splits.survey(new)
            self.surveyed(self._splits, new)
        for name in new:
            part = self._layout.trained_part(name)
            make = ShardDataset if part is None else partial(self._training.set_up, name=part)
            self._datasets[name] = self._new_dataset(make, name)

    def _new_dataset(self, make: Callable[..., ShardDataset], name: str) -> ShardDataset:
        return make(self._splits.sources[name], **self._layout.dataset_options(name, self._splits, self.tokenizer))

    def surveyed(self, splits: Splits, new: Sequence[str]) -> None:
        """The shards of splits that are new were read, nothing is drawn from them yet."""
        self.classes = classes_of(splits, {}, split=None)

    def _evaluation_loader(self, name: str) -> DataLoader | list:
        if self._splits.specs[name] is None:
            return []
        self._require(name)
        return self._every_sample(self._datasets[name])

    def _every_sample(self, dataset: ShardDataset) -> DataLoader:
        batches = EvaluationBatches(dataset, self._batch_size, *self._rank_and_world())
        return make_loader(DataLoader, dataset, batches, self._workers)

    def _require(self, name: str) -> None:
        if name not in self._datasets:
            parts = "" if "" in self._parts else f"; data.parts has {', '.join(self._parts)}"
            raise ValueError(f"data.{name}: not set up; call setup() first, with shards named{parts}")

    def _rank_and_world(self) -> tuple[int, int]:
        return rank_and_world() if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
