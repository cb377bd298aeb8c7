"""The training split: its dataset, its streams, how far they were read, and the state that a resumed run needs."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch.utils.data import DataLoader

from datamodules.account import Counts, SkipAccount
from datamodules.batch import Batch
from datamodules.captions.drawing import Drawing
from datamodules.reading.dataset import ShardDataset
from datamodules.reading.loaders import TrainingBatches, TrainingStream, TrainLoader, make_loader
from datamodules.reading.prefetch import Prefetch
from datamodules.shards.locations import Reading, is_remote
from datamodules.stream.cursor import Cursor
from datamodules.stream.identity import check_resumed, described, inform, shards_digest
from datamodules.stream.mixture import SurveyedSource
from datamodules.stream.order import epoch_of
from datamodules.stream.streams import streams_of


@dataclass
class Training:
    """What the data module asks about its training split; the arguments are the data module's own.

    Args:
        processes: Gives this process's rank and the number of processes, which a trainer may settle late.
    """

    account: SkipAccount
    captions_per_image: int | Literal["all"]
    views_per_image: int
    drawing: Drawing
    language_alpha: float | None
    language_caps: dict[str, int]
    batch_size: int
    epoch_samples: int | None
    seed: int
    shuffle_window: int
    processes: Callable[[], tuple[int, int]]

    def __post_init__(self) -> None:
        self.cursor = Cursor()
        self.dataset: ShardDataset  # once it is set up
        self._loader: DataLoader | None = None
        self._repeated: int | None = None
        self._prefetch: Prefetch | None = None  # where shards are remote
        self._restored: dict | None = None

    @property
    def group(self) -> int:
        """Samples of one global batch."""
        return self.batch_size * self.processes()[1]

    @property
    def epoch_length(self) -> int:
        """Samples of all ranks in an epoch."""
        return self.epoch_samples or len(self.dataset)

    def set_up(
        self, sources: list[SurveyedSource], *, languages: list[str], reading: Reading, **options: Any
    ) -> ShardDataset:
        """Makes the dataset; the arguments are those of ShardDataset.

        Raises ValueError, one line, where data and options do not fit each other.
        """
        for source in sources:
            if not len(source):
                raise ValueError(f"data.train: source {source.name} ({source.shards[0].shard}) has no usable sample")
            sharing = [other.languages or languages for other in sources if other.text is source.text]
            source.text.check(list(dict.fromkeys(name for names in sharing for name in names)))
        slots = len(languages) if self.captions_per_image == "all" else self.captions_per_image
        count = min(slots, len(languages))
        if slots > count:
            inform(
                f"train: captions_per_image is {slots}, but there are only {count} languages; so many slots are made"
            )
        self.drawing.check(languages, count)
        self._streams = streams_of(sources, languages, self.language_alpha, self.language_caps, reading)
        self.dataset = ShardDataset(
            sources,
            languages=languages,
            captions_per_image=count,
            views_per_image=self.views_per_image,
            drawing=self.drawing,
            seed=self.seed,
            streams=len(self._streams),
            reading=reading,
            **options,
        )
        length, world = min(len(self.dataset), self.epoch_length), self.processes()[1]
        if length < self.group:
            what = "data.epoch_samples" if self.epoch_samples == length else "data.train"
            raise ValueError(
                f"{what}: {length} samples do not fill one global batch of {self.batch_size} x {world}; "
                f"lower data.batch_size to at most {max(1, length // world)}"
            )
        if self._restored is not None:
            check_resumed(self._restored, self.identity())
        return self.dataset

    def close(self) -> None:
        """Ends the readers; the next loader has new ones."""
        if self._prefetch is not None:
            self._prefetch.close()
        if isinstance(self._loader, TrainLoader):
            self._loader.close()

    def limit(self, batches: float, overfit: bool) -> int | None:
        """Takes the trainer's limit_train_batches, a number or a share of an epoch, and whether it is to overfit them.

        Returns the steps of each of its epochs; None where they are those of the data, which differ by one step.
        """
        whole, tail = divmod(self.epoch_length, self.group)
        counted = isinstance(batches, int)
        cut = batches <= whole + bool(tail) if counted else batches < 1
        steps = int(batches if counted else batches * whole) if cut else whole if overfit else 0
        self.cursor.steps = steps or None  # none at all is Lightning's to answer
        self._repeated = steps * self.group if overfit else None
        return self.cursor.steps

    def samples_to_come(self, epochs: int) -> int:
        """Samples of all ranks from the cursor to the end of so many of the trainer's epochs."""
        return self.cursor.samples_to_come(epochs, self.group, self.epoch_length)

    def loader(self, workers: int, restarting: bool | None) -> DataLoader:
        """Always the same loader; an iteration starts at the cursor and ends with the epoch.

        Args:
            workers: Reading processes.
            restarting: Whether a trainer takes itself to be inside an epoch; None without a trainer.
        """
        over = self.cursor.over(self.group, self.epoch_length)
        self.cursor.begin_epoch(self.group, inside=not over if restarting is None else restarting)
        if self._loader is None:
            rank, world = self.processes()
            stream = TrainingStream(self._streams, self.seed, self.shuffle_window)
            if any(is_remote(shard.shard) for shard in self.dataset.shards):
                self._prefetch = Prefetch(self.dataset.shards, self.dataset.reading)
            batches = TrainingBatches(
                stream,
                self.cursor,
                self.batch_size,
                self.epoch_length,
                rank,
                world,
                repeated=self._repeated,
                prefetch=self._prefetch,
            )
            self._loader = make_loader(TrainLoader, self.dataset, batches, workers)
            steps, tail = divmod(self.epoch_length, self.group)
            inform(
                f"train: {len(self.dataset)} samples in {len(self.dataset.shards)} shards, "
                f"{len(self.dataset.languages)} languages; an epoch of {self.epoch_length} samples is {steps} steps of "
                f"{self.batch_size} x {world} processes"
                + (f", each sample in {self.views_per_image} views" if self.views_per_image > 1 else "")
                + (f", {tail} samples are carried into the next" if tail else "")
            )
        return self._loader

    def read_beside(self, batch: Batch, rows: Sequence[Sequence[int]], count: int) -> Batch:
        """For each sample of a batch so many others, drawn from a list of numbers in the split.

        They, their captions and augmentation are drawn by the seed and the sample's place in the stream, on any rank.
        """
        rank, world = self.processes()
        first = batch.end - (world - rank) * batch.samples
        draws = []
        for position, others in enumerate(rows, start=first):
            drawn = random.Random(f"{self.seed}/{position}/beside").sample(list(others), count)
            places = range(-2 - position * count, -2 - (position + 1) * count, -1)  # no places in the stream
            draws += [self.dataset.at(row, place) for row, place in zip(drawn, places, strict=True)]
        return self.dataset.__getitems__(draws)

    def trained(self, batch: Batch) -> None:
        """Moves the cursor behind the batch and counts it. Raises ValueError when skips are too many."""
        self.cursor.position = batch.end
        drawn: Counts = Counter()
        for (source, language), count in batch.drawn.items():
            drawn[self.dataset.sources[source].name, self.dataset.languages[language] if language >= 0 else ""] += count
        self.account.add(batch.samples + len(batch.skipped), batch.skipped, drawn)
        next_epoch = epoch_of(batch.end, self.group, self.epoch_length)
        at_end = next_epoch != epoch_of(batch.end - self.group, self.group, self.epoch_length)
        self.account.check(epoch_end=at_end)

    def drawn(self) -> dict[str, float]:
        """`SkipAccount.per_image` of the sources and languages of this split."""
        names = [source.name for source in self.dataset.sources]
        return self.account.per_image(names, self.dataset.languages, self.processes()[1])

    def identity(self) -> dict[str, dict]:
        """What a place in the stream depends on, and the other options, whose changes a resumed run logs."""
        data = {
            "samples": len(self.dataset),
            "shards": shards_digest(self.dataset.sources),
            "languages": ",".join(self.dataset.languages),
            "languages of the sources": described([source.languages for source in self.dataset.sources]),
            "language_alpha": described(self.language_alpha),
            "language_caps": described(self.language_caps),
            "seed": self.seed,
            "shuffle_window": self.shuffle_window,
        }
        options = {
            "captions_per_image": described(self.dataset.captions_per_image),
            "views_per_image": described(self.views_per_image),
            "drawing": described(self.drawing),
            "text": described([source.text for source in self.dataset.sources]),
            "images": described([source.images for source in self.dataset.sources]),
            "objectives": described([source.objectives for source in self.dataset.sources]),
        }
        return {"data": data, "options": options}

    def state_dict(self) -> dict:
        """Cursor, account and what they belong to. Collective where there are ranks."""
        return {
            "cursor": self.cursor.state_dict(self.group, self.epoch_length),
            "account": self.account.merged().state_dict(),
            "group": self.group,
            **self.identity(),
        }

    def load_state_dict(self, state: dict) -> None:
        """Goes on where `state` was. Raises ValueError when it belongs to other data."""
        self.cursor.load_state_dict(state["cursor"])
        self.account.load_state_dict(state["account"])
        self._restored = state
        if hasattr(self, "dataset"):
            check_resumed(state, self.identity())
            if state["group"] != self.group:
                inform(
                    f"train: the global batch was {state['group']} samples and is now {self.group}; "
                    f"the stream goes on at sample {self.cursor.position}"
                )
