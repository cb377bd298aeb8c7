"""The training split: its dataset, its streams, how far they were read, and the state that a resumed run needs."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch.utils.data import DataLoader

from datamodules.account import SkipAccount
from datamodules.batch import Batch, Batches
from datamodules.captions.drawing import Drawing
from datamodules.reading.dataset import ShardDataset
from datamodules.reading.loaders import TrainingBatches, TrainLoader, make_loader
from datamodules.reading.part_streams import PartStream, Progress, TrainingStream
from datamodules.reading.parts import Part, StepDataset, check_least
from datamodules.reading.prefetch import Prefetch
from datamodules.shards.locations import Reading, is_remote
from datamodules.shards.survey import CAPTIONED
from datamodules.stream.cursor import Cursor
from datamodules.stream.identity import check_resumed, described, inform, shards_digest
from datamodules.stream.mixture import Mixing, SurveyedSource, drawn_names
from datamodules.stream.order import epoch_of
from datamodules.stream.streams import streams_of

SALTS = 1 << 20  # streams that a part may have; each has a salt of its own


@dataclass
class Training:
    """What the data module asks about its training split; the arguments are the data module's own.

    Args:
        parts: Of each step by name; one without a name where the config names none.
        processes: Gives this process's rank and the number of processes, which a trainer may settle late.
    """

    account: SkipAccount
    parts: dict[str, Part]
    drawing: Drawing
    language_alpha: float | None
    language_caps: dict[str, int]
    mixing: Mixing
    epoch_samples: int | None
    seed: int
    shuffle_window: int
    processes: Callable[[], tuple[int, int]]

    def __post_init__(self) -> None:
        for name, part in self.parts.items():
            part.check(name)
        counts = {"shuffle_window": self.shuffle_window, "epoch_samples": self.epoch_samples}
        counts |= {f"language_caps.{language}": cap for language, cap in self.language_caps.items()}
        for option, value in counts.items():
            check_least(f"data.{option}", 1 if value is None else value, 1)
        check_least("data.seed", self.seed, 0)
        if self.language_alpha is not None and not 0 <= self.language_alpha <= 1:
            raise ValueError(f"data.language_alpha: {self.language_alpha}; 0 (all languages alike) to 1 (data)")
        self.cursor = Cursor()
        self.datasets: dict[str, ShardDataset] = {}  # by part, once they are set up
        self._streams: dict[str, PartStream] = {}
        self._loader: DataLoader | None = None
        self._repeated: int | None = None
        self._prefetch: Prefetch | None = None  # where shards are remote
        self._restored: dict | None = None

    @property
    def group(self) -> int:
        """Samples of one global batch."""
        return self._samples_a_step * self.processes()[1]

    @property
    def _samples_a_step(self) -> int:
        """Of one process."""
        return sum(part.batch_size for part in self.parts.values())

    @property
    def dataset(self) -> ShardDataset:
        """Of the first part."""
        return next(iter(self.datasets.values()))

    @property
    def epoch_length(self) -> int:
        """Samples of all ranks in an epoch: by default one pass over the first part, and what comes with it."""
        first = next(iter(self.parts.values())).batch_size
        return self.epoch_samples or len(self.dataset) * self._samples_a_step // first

    def mixing_of(self, part: Part) -> Mixing:
        """How a part mixes its sources."""
        return part.mixing or self.mixing

    def set_up(
        self,
        sources: list[SurveyedSource],
        *,
        name: str = "",
        languages: list[str],
        reading: Reading,
        needs: frozenset[str] = CAPTIONED,
        **options: Any,
    ) -> ShardDataset:
        """Makes the dataset of a part; the other arguments are those of ShardDataset.

        Raises ValueError, one line, where data and options do not fit each other.
        """
        part, field = self.parts[name], f"parts.{name}.train" if name else "train"
        for source in sources:
            if not len(source):
                raise ValueError(f"data.{field}: source {source.name} ({source.shards[0].shard}) has no usable sample")
            if name and source.objectives is not None:
                raise ValueError(f"data.{field}: source {source.name} names objectives; with data.parts, model.on does")
            sharing = [other.languages or languages for other in sources if other.text is source.text]
            source.text.check(list(dict.fromkeys(name for names in sharing for name in names)))
        slots = part.captions_per_image if isinstance(part.captions_per_image, int) else len(languages)
        count, drawing = min(slots, len(languages)), part.drawing or self.drawing
        if slots > count and "texts" in needs:
            inform(f"train: captions_per_image is {slots}, but there are only {count} languages; so many slots it is")
        drawing.check(languages, count)
        if "texts" not in needs:
            part.say_unread(field, sources, drawing, self.language_alpha, self.language_caps)
        mixing = self.mixing_of(part)
        by_language = (self.language_alpha, self.language_caps) if "texts" in needs else (None, {})
        streams = streams_of(sources, languages, *by_language, reading, apart=mixing == "batches")
        dataset = self.datasets[name] = ShardDataset(
            sources,
            languages=languages,
            captions_per_image=count,
            views_per_image=part.views_per_image,
            drawing=drawing,
            seed=f"{self.seed}/{name}" if name else self.seed,
            streams=len(streams),
            reading=reading,
            needs=needs,
            **options,
        )
        stream = TrainingStream(streams, self.seed, self.shuffle_window, SALTS * len(self._streams))
        self._streams[name] = PartStream(stream, part.batch_size, len(self._streams), mixing)
        world = self.processes()[1]
        length = len(dataset) if name else min(len(dataset), self.epoch_length)
        if length < part.batch_size * world:
            what = "data.epoch_samples" if self.epoch_samples == length else f"data.{field}"
            size = f"data.parts.{name}.batch_size" if name else "data.batch_size"
            raise ValueError(
                f"{what}: {length} samples do not fill one global batch of {part.batch_size} x {world}; "
                f"lower {size} to at most {max(1, length // world)}"
            )
        if len(self.datasets) == len(self.parts):
            self._all_set_up()
        return dataset

    def _all_set_up(self) -> None:
        if self.epoch_length < self.group:
            raise ValueError(
                f"data.epoch_samples: {self.epoch_length} samples do not fill one global batch of {self.group} samples "
                "of all parts"
            )
        if self._restored is not None:
            check_resumed(self._restored, self.identity())
            self._go_on(self._restored)

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
            shards = [shard for dataset in self.datasets.values() for shard in dataset.shards]
            if any(is_remote(shard.shard) for shard in shards):
                self._prefetch = Prefetch(shards, self.dataset.reading)
            for each in self._streams.values() if self._repeated else ():  # the first samples, wherever the run was
                each.progress = Progress()
            batches = TrainingBatches(
                list(self._streams.values()),
                self.cursor,
                self.epoch_length,
                rank,
                world,
                repeated=self._repeated,
                prefetch=self._prefetch,
            )
            dataset = self.dataset if list(self.parts) == [""] else StepDataset(self.datasets)
            self._loader = make_loader(TrainLoader, dataset, batches, workers)
            self._say(len(shards), world)
        return self._loader

    def _say(self, shards: int, world: int) -> None:
        samples = " + ".join(str(len(dataset)) for dataset in self.datasets.values())
        sizes = [f"{part.batch_size}{f' {name}' if name else ''}" for name, part in self.parts.items()]
        steps, tail = divmod(self.epoch_length, self.group)
        views = {name: part.views_per_image for name, part in self.parts.items() if part.views_per_image > 1}
        inform(
            f"train: {samples} samples in {shards} shards, "
            f"{len(self.dataset.languages)} languages; an epoch of {self.epoch_length} samples is {steps} steps of "
            f"{' + '.join(sizes)} x {world} processes"
            + "".join(f", each sample{f' of {name}' if name else ''} in {count} views" for name, count in views.items())
            + (f", {tail} samples are carried into the next" if tail else "")
        )

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

    def trained(self, batch: Batch | Batches) -> None:
        """Moves the cursor behind the batch and counts it. Raises ValueError when skips are too many."""
        self.cursor.position = batch.end
        for name, part in batch.parts.items():
            dataset, drawn = self.datasets[name], Counter[tuple[str, str]]()
            what = drawn_names(dataset.sources, dataset.languages)
            for (source, number), count in part.drawn.items():
                drawn[_source_name(name, dataset.sources[source]), what[number]] += count
            self.account.add(part.samples + len(part.skipped), part.skipped, drawn, part.cut)
        next_epoch = epoch_of(batch.end, self.group, self.epoch_length)
        at_end = next_epoch != epoch_of(batch.end - self.group, self.group, self.epoch_length)
        self.account.check(epoch_end=at_end)

    def drawn(self) -> dict[str, float]:
        """`SkipAccount.per_image` of the sources and languages of this split."""
        names = [_source_name(name, each) for name, dataset in self.datasets.items() for each in dataset.sources]
        every = [source for dataset in self.datasets.values() for source in dataset.sources]
        return self.account.per_image(names, drawn_names(every, self.dataset.languages)[:-1], self.processes()[1])

    def identity(self) -> dict[str, dict]:
        """What a place in the stream depends on, and the other options, whose changes a resumed run logs."""
        data: dict[str, object] = {
            "languages": ",".join(self.dataset.languages),
            "language_alpha": described(self.language_alpha),
            "language_caps": described(self.language_caps),
            "seed": self.seed,
            "shuffle_window": self.shuffle_window,
        }
        if "" not in self.parts:
            data["parts"] = ",".join(self.datasets)
        options: dict[str, object] = {}
        for name, dataset in self.datasets.items():
            prefix, part = f"{name}: " if name else "", self.parts[name]
            data[f"{prefix}samples"] = len(dataset)
            data[f"{prefix}shards"] = shards_digest(dataset.sources)
            data[f"{prefix}languages of the sources"] = described([source.languages for source in dataset.sources])
            if self.mixing_of(part) == "batches":
                data[f"{prefix}mixing"] = "batches"
            options[f"{prefix}captions_per_image"] = described(dataset.captions_per_image)
            options[f"{prefix}views_per_image"] = described(part.views_per_image)
            options[f"{prefix}drawing"] = described(part.drawing or self.drawing)
            options[f"{prefix}fields"] = described(dataset.fields)
            for option in ("text", "images", "objectives", "caption_fields", "prompts"):
                options[f"{prefix}{option}"] = described([getattr(source, option) for source in dataset.sources])
        return {"data": data, "options": options}

    def state_dict(self) -> dict:
        """Cursor, account and what they belong to. Collective where there are ranks."""
        return {
            "cursor": self.cursor.state_dict(self.group, self.epoch_length),
            "account": self.account.merged().state_dict(),
            "group": self.group,
            "parts": {name: asdict(at) for name, at in self._progress().items()},
            **self.identity(),
        }

    def _progress(self) -> dict[str, Progress]:
        """How far each part is read at the cursor."""
        world = self.processes()[1]
        return {name: each.at(self.cursor.position, self.group, world) for name, each in self._streams.items()}

    def _go_on(self, state: dict) -> None:
        """Each part goes on where it was, whatever the batch is now."""
        position = self.cursor.position
        for name, stream in self._streams.items():
            stream.progress = Progress(**state["parts"][name]) if "parts" in state else Progress(position, position)

    def load_state_dict(self, state: dict) -> None:
        """Goes on where `state` was. Raises ValueError when it belongs to other data."""
        self.cursor.load_state_dict(state["cursor"])
        self.account.load_state_dict(state["account"])
        self._restored = state
        if len(self.datasets) == len(self.parts):
            check_resumed(state, self.identity())
            self._go_on(state)
            if state["group"] != self.group:
                inform(
                    f"train: the global batch was {state['group']} samples and is now {self.group}; "
                    f"the stream goes on at sample {self.cursor.position}"
                )


def _source_name(part: str, source: SurveyedSource) -> str:
    return f"{part}/{source.name}" if part else source.name
