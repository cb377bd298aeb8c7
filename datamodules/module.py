"""The LightningDataModule: shards in, batches out, with a cursor that survives."""

from __future__ import annotations

import hashlib
import json

import torch.distributed
from jsonargparse import lazy_instance
from pytorch_lightning import LightningDataModule
from pytorch_lightning.utilities import rank_zero_info
from torch.utils.data import DataLoader

from datamodules.account import SkipAccount
from datamodules.batch import Batch
from datamodules.choices import choose_labels, choose_languages, missing_languages
from datamodules.cursor import Cursor
from datamodules.dataset import ShardDataset
from datamodules.images import ImagePipeline
from datamodules.loaders import EvaluationBatches, TrainingBatches, TrainingStream, TrainLoader, make_loader
from datamodules.order import epoch_of
from datamodules.sources import expand
from datamodules.survey import ShardSurvey, survey
from datamodules.tokenizers import ByteTokenizer, Tokenizer

# lazy, so that the command line shows the defaults' own options
BYTES = lazy_instance(ByteTokenizer)
PIXELS = lazy_instance(ImagePipeline)
STAGES = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": ()}


class ShardDataModule(LightningDataModule):
    """Image-text shards with K captions of K languages an image.

    Training is one endless stream, pass after pass over all samples; each sample comes once a pass, in an order that
    depends on seed and position alone, not on the number of readers or ranks. A broken sample is counted and another
    takes its place. Fewer shards than readers is no problem: any reader reads any sample.

    Args:
        train: Shards to train on: a folder, a tar, a brace pattern, or several joined with `::`, each with an optional
            weight before it, as in 0.7@en/::0.3@lv/ (its share of the samples).
        val: Shards to validate on.
        test: Shards to test on.
        languages: Languages to use, in this order; default: all in the shards. A sample with none of them is left out.
        captions_per_image: K, how many captions of different languages each image brings in training, at most the
            number of languages. An image with fewer leaves slots empty.
        batch_size: Images in a batch of one process.
        workers: Reading processes beside each training process.
        tokenizer: What makes captions token ids; UTF-8 bytes by default.
        images: What makes pictures pixels.
        seed: Of order, drawn captions and augmentation.
        shuffle_window: Samples are shuffled within runs of whole shards of at least this many samples.
        text_language: Language of `.txt` captions (shards of img2dataset and open_clip).
        max_skip_rate: Highest share of broken samples; above it the run stops with the table.
        cache_dir: Where remote shards are kept; default ~/.cache/mmtrain/shards.
        allow_pipe: Whether `pipe:COMMAND` may name a shard.
        epoch_samples: Length of an epoch in samples; default: one pass.
        label_names: For tasks labelled by strings, the strings in the order of their numbers; default: sorted.
    """

    def __init__(
        self,
        train: str | None = None,
        val: str | None = None,
        test: str | None = None,
        languages: list[str] | None = None,
        captions_per_image: int = 1,
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
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("captions_per_image", captions_per_image, 1),
            ("batch_size", batch_size, 1),
            ("workers", workers, 0),
            ("shuffle_window", shuffle_window, 1),
            ("seed", seed, 0),
            ("epoch_samples", 1 if epoch_samples is None else epoch_samples, 1),
        ):
            if value < least:
                raise ValueError(f"data.{name}: {value} is too small; at least {least}")
        if not 0 <= max_skip_rate <= 1:
            raise ValueError(f"data.max_skip_rate: {max_skip_rate} is no share; 0 to 1")
        if languages is not None and (not languages or len(set(languages)) < len(languages)):
            raise ValueError(f"data.languages: {languages} is empty or names one twice; different language codes")
        # a lazy instance is of a class made on the spot, which a checkpoint could not name
        self.tokenizer = ByteTokenizer() if tokenizer is BYTES else tokenizer
        self.images = ImagePipeline() if images is PIXELS else images
        self.languages: list[str] = list(languages or [])
        self.label_names: dict[str, list[str]] = dict(label_names or {})
        self.account = SkipAccount(max_skip_rate)
        self._specs = {"train": train, "val": val, "test": test}
        self._chosen = languages
        self._captions_per_image, self._batch_size, self._workers = captions_per_image, batch_size, workers
        self._seed, self._window, self._text_language = seed, shuffle_window, text_language
        self._cache_dir, self._allow_pipe, self._epoch_samples = cache_dir, allow_pipe, epoch_samples
        self._cursor = Cursor()
        self._surveys: dict[str, list[list[ShardSurvey]]] = {}
        self._weights: list[float] | None = None
        self._tasks: list[str] = []
        self._datasets: dict[str, ShardDataset] = {}
        self._train_loader: TrainLoader | None = None
        self._restored_fingerprint: dict | None = None

    # -- what the training module uses

    @property
    def position(self) -> int:
        """Samples of all ranks trained: the place in the stream behind the last batch trained."""
        return self._cursor.position

    @position.setter
    def position(self, position: int) -> None:
        self._cursor.position = position

    def trained(self, batch: Batch) -> None:
        """To be called after each optimiser step: moves the cursor, counts skips, raises when they are too many."""
        self.position = batch.end
        self.account.add(len(batch) + len(batch.skipped), batch.skipped)
        next_epoch = epoch_of(batch.end, self._group, self.epoch_length)
        at_end = next_epoch != epoch_of(batch.end - self._group, self._group, self.epoch_length)
        self.account.check(epoch_end=at_end)

    def evaluated(self, batch: Batch) -> None:
        """To be called for each validation or test batch: counts its skips, each sample once however often it comes."""
        self.account.add_once(batch.skipped)

    @property
    def epoch_length(self) -> int:
        """Samples of all ranks in an epoch."""
        return self._epoch_samples or len(self._datasets["train"])

    # -- Lightning's hooks

    def setup(self, stage: str | None = None) -> None:
        """Surveys the shards of the stage's splits. Raises ValueError, one line, for shards that cannot be used."""
        wanted = [name for name in STAGES.get(str(stage), tuple(self._specs)) if self._specs[name] is not None]
        new = [name for name in wanted if name not in self._datasets]
        if stage == "fit" and self._specs["train"] is None:
            raise ValueError("data.train: no shards are named; a folder, a tar or a brace pattern")
        for name in new:
            self._survey(name)
        if new:
            splits = {name: self._shards(name) for name in self._surveys}
            self.languages = choose_languages(splits, self._chosen or self.languages)
            for name in new:
                if absent := missing_languages(splits[name], self.languages):
                    rank_zero_info(f"{name}: no caption in {', '.join(absent)}")
            every = [shard for shards in splits.values() for shard in shards]
            self._tasks, self.label_names = choose_labels(every, self.label_names)
        for name in new:
            self._datasets[name] = self._dataset(name)
        if "train" in new:
            self._check_train()

    def train_dataloader(self) -> TrainLoader:
        """Always the same loader; an iteration starts at `position` and ends with the epoch."""
        self._require("train")
        over = self._cursor.over(self._group, self.epoch_length)
        self._cursor.begin_epoch(inside=not over if self.trainer is None else self.trainer.fit_loop.restarting)
        if self._train_loader is None:
            dataset, surveys = self._datasets["train"], self._surveys["train"]
            counts = [[len(shard) for shard in source] for source in surveys]
            stream = TrainingStream(counts, self._weights, self._seed, self._window)
            rank, world = self._rank_and_world()
            batches = TrainingBatches(stream, self._cursor, self._batch_size, self.epoch_length, rank, world)
            self._train_loader = make_loader(TrainLoader, dataset, batches, self._workers)
            steps, tail = divmod(self.epoch_length, self._group)
            rank_zero_info(
                f"train: {len(dataset)} samples in {len(dataset.shards)} shards, {len(self.languages)} languages; "
                f"an epoch of {self.epoch_length} samples is {steps} steps of {self._batch_size} x {world} processes"
                + (f", {tail} samples are carried into the next" if tail else "")
            )
        return self._train_loader

    def val_dataloader(self) -> DataLoader | list:
        """Every sample once over all ranks, all captions of the chosen languages; nothing when no shards are named."""
        return self._evaluation_loader("val") if self._specs["val"] is not None else []

    def test_dataloader(self) -> DataLoader | list:
        return self._evaluation_loader("test") if self._specs["test"] is not None else []

    def state_dict(self) -> dict:
        """Cursor, account and what they belong to. Collective where there are ranks, as saving a checkpoint is."""
        if "train" not in self._datasets:
            return {}
        return {
            "cursor": self._cursor.state_dict(self._group, self.epoch_length),
            "account": self.account.merged().state_dict(),
            "data": self._fingerprint(),
            "group": self._group,
        }

    def load_state_dict(self, state: dict) -> None:
        """Goes on where `state` was. Raises ValueError when it belongs to other data."""
        if not state:
            return
        self._cursor.load_state_dict(state["cursor"])
        self.account.load_state_dict(state["account"])
        self._restored_fingerprint = state["data"]
        if "train" in self._datasets:
            self._check_restored()
            if state["group"] != self._group:
                rank_zero_info(
                    f"train: the global batch was {state['group']} samples and is now {self._group}; "
                    f"the stream goes on at sample {self.position}"
                )

    # -- setting up

    def _survey(self, name: str) -> None:
        sources = expand(
            self._specs[name], field=f"data.{name}", cache_dir=self._cache_dir, allow_pipe=self._allow_pipe
        )
        surveys = [survey(source.shards, self._chosen, self._text_language, self._cache_dir) for source in sources]
        shards = [shard for source in surveys for shard in source]
        for shard in shards:
            for cause, count in shard.lost.items():
                self.account.lost[shard.shard, cause] += count
                rank_zero_info(f"{name}: {shard.shard}: {cause} ({count})")
            if not shard.samples and not shard.lost:
                rank_zero_info(f"{name}: {shard.shard} is empty")
            if shard.left_out:
                self.account.left_out[shard.shard] += shard.left_out
        found = sum(shard.samples for shard in shards)
        lost = sum(shard.lost.total() for shard in shards)
        if not found:
            causes = ", ".join(sorted({cause for shard in shards for cause in shard.lost})) or "empty shards"
            raise ValueError(f"data.{name}: no sample in {self._specs[name]} ({causes}); shards with samples")
        self.account.check_lost(found + lost)
        self._surveys[name] = surveys
        if name == "train" and sources[0].weight is not None:
            self._weights = [source.weight for source in sources]

    def _shards(self, name: str) -> list[ShardSurvey]:
        return [shard for source in self._surveys[name] for shard in source]

    def _dataset(self, name: str) -> ShardDataset:
        return ShardDataset(
            self._surveys[name],
            languages=self.languages,
            tokenizer=self.tokenizer,
            images=self.images,
            captions_per_image=min(self._captions_per_image, len(self.languages)) if name == "train" else None,
            label_names=self.label_names,
            tasks=self._tasks,
            text_language=self._text_language,
            cache_dir=self._cache_dir,
            seed=self._seed,
        )

    def _check_train(self) -> None:
        for source, weight in zip(self._surveys["train"], self._weights or [None], strict=True):
            if weight is not None and not any(len(shard) for shard in source):
                raise ValueError(f"data.train: {source[0].shard} with weight {weight:g} has no usable sample")
        length, world = min(len(self._datasets["train"]), self.epoch_length), self._rank_and_world()[1]
        if length < self._group:
            what = "data.epoch_samples" if self._epoch_samples == length else "data.train"
            raise ValueError(
                f"{what}: {length} samples do not fill one global batch of {self._batch_size} x {world}; "
                f"lower data.batch_size to at most {max(1, length // world)}"
            )
        if self._captions_per_image > len(self.languages):
            rank_zero_info(
                f"train: captions_per_image is {self._captions_per_image}, but there are only {len(self.languages)} "
                "languages; so many slots are made"
            )
        self._check_restored()

    def _check_restored(self) -> None:
        if self._restored_fingerprint is None:
            return
        now = self._fingerprint()
        for part, value in now.items():
            before = self._restored_fingerprint.get(part)
            if before != value:
                was, this = (f"{str(one)[:60]}..." if len(str(one)) > 60 else one for one in (before, value))
                raise ValueError(
                    f"data.train: the checkpoint's place belongs to other data ({part} was {was}, is {this}); "
                    "resume with the same shards, languages, seed and shuffle_window"
                )

    def _fingerprint(self) -> dict:
        shards = [
            [[shard.shard.rsplit("/", 1)[-1], len(shard)] for shard in source] for source in self._surveys["train"]
        ]
        digest = hashlib.sha256(json.dumps([shards, self._weights]).encode()).hexdigest()[:16]
        return {
            "samples": len(self._datasets["train"]),
            "shards": digest,
            "languages": ",".join(self.languages),
            "seed": self._seed,
            "shuffle_window": self._window,
        }

    def _evaluation_loader(self, name: str) -> DataLoader:
        self._require(name)
        rank, world = self._rank_and_world()
        batches = EvaluationBatches(self._datasets[name], self._batch_size, rank, world)
        return make_loader(DataLoader, self._datasets[name], batches, self._workers)

    def _require(self, name: str) -> None:
        if name not in self._datasets:
            raise ValueError(f"data.{name}: not set up; call setup() first, with shards named")

    @property
    def _group(self) -> int:
        return self._batch_size * self._rank_and_world()[1]

    def _rank_and_world(self) -> tuple[int, int]:
        if self.trainer is not None:
            return self.trainer.global_rank, self.trainer.world_size
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return torch.distributed.get_rank(), torch.distributed.get_world_size()
        return 0, 1
