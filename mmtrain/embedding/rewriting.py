"""Shards that are made from shards, on several processes: runs of samples, a shard each."""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from datamodules.files import whole_folder, write_whole
from datamodules.reading.loaders import make_loader
from datamodules.reading.whole import WholeSample, WholeSamples, runs
from datamodules.shards.encoding import BadRow
from datamodules.shards.journal import begin_journal, end_journal
from datamodules.shards.locations import LISTING, read_listing
from datamodules.shards.progress import with_progress
from datamodules.shards.writing import write_shard
from mmtrain.display.messages import say
from mmtrain.embedding.division import Division
from mmtrain.embedding.processes import Processes

STEM = "shard-"
NOT_EMBEDDED = "not embedded"  # why a sample is left out that has no row
OURS = re.compile(rf"{STEM}\d{{6}}\.tar|{LISTING}|(embedding|mining)\.json|(negatives|pool|questions)\.jsonl")
Samples = Sequence[WholeSample | BadRow]
Written = Iterable[dict | BadRow]  # as TarWriter takes a sample


@dataclass(frozen=True)
class Sizes:
    """What is made at once.

    Args:
        batch_size: Samples that go through the model together.
        samples_per_shard: The most samples of a shard.

    Raises:
        ValueError: for one below 1.
    """

    batch_size: int
    samples_per_shard: int

    def __post_init__(self) -> None:
        for name, size in vars(self).items():
            if size < 1:
                raise ValueError(f"--{name}: got {size}, expected at least 1")


class RewrittenShards:
    """Shards, each made from a run of samples of one shard of SHARDS. The same for any number of processes.

    Args:
        folder: Holds a folder of parts for each `content`.
        samples: What they are made from.
        content: Whatever else decides what is written, as JSON takes it.
        sizes: Of batches and runs.
        further: Endings of files that are written beside each shard, before it.
    """

    def __init__(
        self,
        folder: Path,
        samples: WholeSamples,
        content: Any,
        sizes: Sizes,
        further: Sequence[str] = (),
    ) -> None:
        self.samples, self._batch_size = samples, sizes.batch_size
        self.runs = runs(samples, sizes.samples_per_shard)
        self._content = [content, vars(sizes), samples.stamps]
        identity = hashlib.sha256(json.dumps(self._content).encode()).hexdigest()[:16]
        self.division = Division(folder / identity, len(self.runs), [*further, "tar", "json"], STEM)

    @property
    def identity(self) -> str:
        """Equal for what is made from the same shards in the same way."""
        return self.division.folder.name

    def is_done(self, target: Path, description: str, processes: Processes) -> bool:
        """Whether `target` holds these shards already, which process 0 says; parts that a kill left are removed."""
        facts = described(target, description)
        if facts is None or facts["identity"] != self.identity:
            return False
        if processes.rank == 0:
            say(f"{target}: all is there already")
            self.division.remove(Processes())
        return True

    def make(
        self, processes: Processes, begin: Callable[[int], Callable[[Samples], Written]], workers: int, title: str
    ) -> None:
        """Makes the shards with the other processes, as `Division.make` does.

        Args:
            processes: Which of how many this one is.
            begin: Takes the number of a shard, writes what lies beside it and returns what makes its samples from
                those of a batch.
            workers: Reading processes.
            title: Of the progress bar.
        """

        def make(numbers: Sequence[int]) -> None:
            batches = [rows for number in numbers for rows in self._batches(number)]
            read = make_loader(DataLoader, self.samples, batches, workers) if batches else ()
            total = sum(map(len, batches))
            loader = with_progress(read, title, total, "samples", len, quiet=processes.rank > 0)
            with torch.inference_mode(), closing(loader):
                for number in numbers:
                    if not self.division.folder.exists():  # process 0 made the rest itself and is done
                        return
                    convert = begin(number)
                    self._write(number, (each for _ in self._batches(number) for each in convert(next(loader))))

        self.division.make(processes, make)

    def put(
        self,
        target: Path,
        description: str,
        facts: dict[str, Any],
        beside: Callable[[Path], None] = lambda folder: None,
    ) -> dict:
        """Puts all shards but empty ones into `target`, whole; returns what shards.json says.

        Args:
            target: What `check_folder` lets pass is replaced.
            description: The file that gets `facts`, and by which the folder is known.
            facts: What the shards are, as JSON takes it.
            beside: Writes further files into the folder.

        Raises:
            ValueError: when no sample could be read.
        """
        entries = [json.loads(self.division.path(n).read_text(encoding="utf-8")) for n in range(self.division.count)]
        kept = [entry for entry in entries if entry["samples"] or entry["skipped"]]
        if not any(entry["samples"] for entry in kept):
            causes = ", ".join(sorted({cause for entry in entries for cause in entry["skipped"]}))
            raise ValueError(f"--data: no sample could be read ({causes})")
        with whole_folder(target, lambda path: check_folder(path, description)) as folder:
            beside(folder)
            for entry in kept:
                (self.division.folder / entry["name"]).replace(folder / entry["name"])
            begin_journal(folder, []).close()
            listing = end_journal(folder, kept)
            facts = facts | {"identity": self.identity}
            write_whole(folder / description, json.dumps(facts, ensure_ascii=False, indent=1) + "\n")
        return listing

    def _batches(self, number: int) -> list[range]:
        run = self.runs[number]
        return [run[start : start + self._batch_size] for start in range(0, len(run), self._batch_size)]

    def _write(self, number: int, samples: Written) -> None:
        folder, path = self.division.folder, self.division.path(number)
        try:
            entry = write_shard(folder, shard_name(number), {"made": self._content}, lambda task: samples)
            write_whole(path, json.dumps(entry, ensure_ascii=False))
        except FileNotFoundError:  # process 0 is done and removed the folder
            if folder.exists():
                raise


def record_bytes(record: dict[str, Any]) -> bytes:
    """A record as a shard holds it."""
    return json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode()


def shard_name(number: int) -> str:
    return f"{STEM}{number:06d}.tar"


def said_skips(listing: dict) -> str:
    """What was left out, by cause, behind a semicolon; nothing where nothing was."""
    causes = listing["skipped"]
    listed = ", ".join(f"{count:,} {cause}" for cause, count in causes.items())
    return f"; {sum(causes.values()):,} left out ({listed}), listed in {LISTING}" if causes else ""


def check_folder(target: Path, description: str) -> None:
    """Raises ValueError unless there is nothing at `target`, or shards with their `description` and nothing else."""
    if not target.exists():
        return
    names = {path.name for path in target.iterdir()} if target.is_dir() else {target.name}
    others = sorted(name for name in names if not OURS.fullmatch(name))
    if others or (names and description not in names):
        example = others[0] if others else sorted(names)[0]
        raise ValueError(f"--out: {target} holds other files, {example} among them; give an empty folder")


def described(target: Path, description: str) -> dict[str, Any] | None:
    """The description of whole shards at `target`; None where a file is missing or none of ours."""
    listing = read_listing(target / LISTING)
    try:
        facts = json.loads((target / description).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    there = listing and all((target / name).is_file() for name in listing)
    return facts if there and isinstance(facts, dict) and "identity" in facts else None
