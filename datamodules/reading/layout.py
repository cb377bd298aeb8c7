"""Which splits a run has, and how each is read: as which part of the step, with what in each batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from datamodules.images import ImagePipeline
from datamodules.reading.dataset import SCORES
from datamodules.reading.fields import Crops, FieldReader, Pictures
from datamodules.reading.parts import Part, Prompting, Reads, brought, held, readers_of, shortened
from datamodules.reading.splits import Splits
from datamodules.shards.survey import CAPTIONED
from datamodules.stream.mixture import Source, adapter_named
from datamodules.tokenizers.tokenizer import Tokenizer

ALL_FIELDS = "fields"  # an objective reads every field there is
STAGES = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": ()}


def train_of(part: str) -> str:
    """The split, and the option, of a part's training shards."""
    return f"parts.{part}.train" if part else "train"


def val_of(part: str) -> str:
    """The split, and the option, of a part's validation shards."""
    return f"parts.{part}.val" if part else "val"


def splits_of(stage: str | None) -> tuple[str, ...]:
    """The kinds of splits that a stage of the trainer reads."""
    return STAGES.get(str(stage), ("train", "val", "test"))


class Layout:
    """The splits by name. Validation and test are read as the first part that has pictures is.

    Attributes:
        parts: Of the step by name; one without a name where the config names none.
        specs: By split its shards as the user gives them, None where there are none.
        needs: By split what its batches hold.
        readers: By split the readers of its fields.
    """

    def __init__(self, parts: dict[str, Part], val: str | None, test: str | None) -> None:
        self.parts = parts
        self.specs: dict[str, list[Source] | str | None] = {train_of(name): part.train for name, part in parts.items()}
        self.specs |= {"val": val, "test": test}
        self.specs |= {val_of(name): part.val for name, part in parts.items() if part.val is not None}
        self.needs: dict[str, frozenset[str]] = {}
        self.readers: dict[str, dict[str, FieldReader]] = {}
        self._lacking: frozenset[str] = frozenset()
        self._read_as = {split: name for name in parts for split in (train_of(name), val_of(name))}

    def splits(self, kinds: Sequence[str]) -> list[str]:
        """The splits there are of these kinds: train, val, test."""
        return [name for name, spec in self.specs.items() if spec is not None and name.rpartition(".")[2] in kinds]

    def validations(self) -> list[tuple[str, str]]:
        """(part, split) of each validation; part "" is data.val."""
        own = [(name, val_of(name)) for name, part in self.parts.items() if name and part.val is not None]
        return own if own and self.specs["val"] is None else [("", "val"), *own]

    def part_of(self, split: str) -> Part:
        """How a split is read."""
        return self.parts[self._read_as[split]] if split in self._read_as else Part()

    def brings(self, labelled: bool) -> dict[str, frozenset[str]]:
        """For each part that was read what its training batches hold for objectives."""
        labels = {"labels"} if labelled else set()
        return {
            name: frozenset(self.needs[split] & (CAPTIONED | SCORES) | self.readers[split].keys() | labels)
            for name, split in self._trained()
        }

    def adapters(self) -> dict[str, list[str | None]]:
        """By part what each source says of its adapter; one that is for all sources where it names none by itself."""
        told: dict[str, list[str | None]] = {}
        for name, part in self.parts.items():
            own, train = adapter_named(part, f"data.parts.{name}"), part.train
            listed = train if isinstance(train, list) else []
            told[name] = [adapter_named(each, "data.train") or own for each in listed] or [own]
        return told

    def kinds(self) -> frozenset[str]:
        """What is encoded in training: "image", "text", "features"."""
        kinds = {reader.kind for _, split in self._trained() for reader in self.readers[split].values()}
        needs = frozenset().union(*(self.needs[split] for _, split in self._trained()))
        return frozenset(kinds | {kind for need, kind in (("image", "image"), ("texts", "text")) if need in needs})

    def picture_shapes(self, images: ImagePipeline) -> set[tuple[int, ...]]:
        """The shapes that parts with pictures bring; that of `images` where none does."""
        read = [self.parts[name] for name, split in self._trained() if "image" in self.needs[split]]
        readers = [reader for _, split in self._trained() for reader in self.readers[split].values()]
        own = {reader.images.shape for reader in readers if isinstance(reader, Crops | Pictures) and reader.images}
        return own | {(part.images or images).shape for part in read} or {images.shape}

    def tokenizers(self, tokenizer: Tokenizer) -> dict[str, Tokenizer]:
        """That of the run and those of parts with a text length of their own, each by the option of its length."""
        lengths = {f"data.parts.{name}.text_length": part.text_length for name, part in self.parts.items()}
        own = {name: shortened(tokenizer, length, name) for name, length in lengths.items() if length is not None}
        return {"data.tokenizer.max_length": tokenizer, **own}

    def trained_part(self, split: str) -> str | None:
        """The part whose training shards a split is; None for validation and test."""
        return next((name for name in self.parts if train_of(name) == split), None)

    def _trained(self) -> list[tuple[str, str]]:
        """(part, split) of the training that was read."""
        return [(name, train_of(name)) for name in self.parts if train_of(name) in self.needs]

    def dataset_options(self, split: str, splits: Splits, tokenizer: Tokenizer) -> dict[str, Any]:
        """The arguments of the split's ShardDataset that all of them have."""
        own = self.tokenizers(tokenizer)
        tokenizer = own.get(f"data.parts.{self._read_as.get(split)}.text_length", tokenizer)
        return {
            "languages": splits.languages,
            "tokenizer": tokenizer,
            "label_names": splits.label_names,
            "tasks": splits.tasks,
            "reading": splits.reading,
            "needs": self.needs[split],
            "fields": self.readers[split],
            "lacking": self._lacking if split.endswith("train") else frozenset(),
        }

    def choose(self, new: Sequence[str], splits: Splits, module: object) -> None:
        """Settles what the batches of splits that are new hold, by what the objectives of the module read."""
        reads: dict[str, frozenset[str]] = {}
        self._lacking = module.lacking if isinstance(module, Reads) else frozenset()
        splits.prompts = module.prompts if isinstance(module, Prompting) else {}
        for name, part in self.parts.items():
            fields = part.fields or {}
            brings = brought(splits.holds(train_of(name)), fields, part.negatives) if name else None
            read = module.reads(name, brings) if isinstance(module, Reads) else brings or CAPTIONED
            reads[name] = read - {ALL_FIELDS} | fields.keys() if ALL_FIELDS in read else read
            if part.negatives and reads[name] and "negatives" not in reads[name]:
                raise ValueError(
                    f"data.parts.{name}.negatives: {part.negatives}, but no objective reads negatives; name them there,"
                    " as losses.InfoNceLoss does"
                )
        pictured = next((name for name, read in reads.items() if "image" in read or not name), None)
        if pictured is not None:
            self._read_as |= {"val": pictured, "test": pictured}
        for split in new:
            part, trains = self.part_of(split), split.endswith("train")
            read = reads[self._read_as[split]] if split in self._read_as else CAPTIONED
            read = read if trains else _measured(read)
            readers = readers_of(read, part.fields or {}, part.negatives)
            self.readers[split] = readers if trains else {name: readers[name] for name in readers if name in read}
            self.needs[split] = read
            # what may be missing in training is measured on whole samples
            keys = {readers[name].key if name in readers else name for name in self._lacking & read}
            whole = held(read, readers)
            splits.needs[split] = whole - keys if trains else whole | keys
            # data.val and data.test are in all languages of the run, behind the prompts that stay with the model
            splits.parts[split] = replace(part, languages=None, prompts=None) if split in ("val", "test") else part


def _measured(read: frozenset[str]) -> frozenset[str]:
    """What a batch holds for retrieval: queries and positives, or pictures and captions beside the fields."""
    read = read - {"negatives"} - SCORES
    return read - CAPTIONED if {"query", "positive"} <= read else read | CAPTIONED
