"""SHARDS as a test split, read as a model was trained."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from datamodules import RelationDataModule, ShardDataModule
from datamodules.reading.splits import Splits
from mmtrain.models.encoder import Encoder


def open_shards(
    encoder: Encoder, data: str, languages: list[str] | None, batch_size: int, workers: int
) -> ShardDataModule:
    """All samples and captions of SHARDS, or those in the languages."""
    module = ShardDataModule(test=data, languages=languages, **_reading(encoder, batch_size, workers))
    _set_up(module)
    return module


def open_split(
    encoder: Encoder,
    data: str,
    languages: list[str] | None,
    batch_size: int,
    workers: int,
    *,
    labelled: bool = False,
    label_names: Mapping[str, Sequence[str]] | None = None,
) -> RelationDataModule:
    """SHARDS to measure a model on; they are surveyed once.

    Args:
        languages: Those to measure; default: the model's, as far as the shards have them.
        labelled: Whether labels are checked and their classes counted.
        label_names: Classes by task, in the order in which a head was trained on them.

    Raises:
        ValueError: one line, for shards that cannot be used or are in none of the model's languages.
    """
    unknown = [language for language in languages or () if language not in encoder.languages]
    if encoder.languages and unknown:
        print(f"{', '.join(unknown)}: not trained on; measured by transfer")
    module = MeasuredShards(
        encoder.languages if languages is None else [],
        labelled,
        test=data,
        languages=languages,
        label_names={task: list(names) for task, names in (label_names or {}).items()},
        **_reading(encoder, batch_size, workers),
    )
    _set_up(module)
    return module


class MeasuredShards(RelationDataModule):
    """A test split in those of its languages that a model was `trained` on; in all of them where it was on none."""

    def __init__(self, trained: Sequence[str], labelled: bool, **options: Any) -> None:
        super().__init__(**options)
        self._trained, self._labelled = list(trained), labelled

    def surveyed(self, splits: Splits, new: Sequence[str]) -> None:
        if self._labelled:
            super().surveyed(splits, new)
        if not self._trained:
            return
        shared = [language for language in self._trained if language in splits.languages]
        if not shared:
            raise ValueError(
                f"--data: {self._specs['test']} has {', '.join(splits.languages[:20])}, the model was trained on"
                f" {', '.join(self._trained[:20])}; name some with --languages to measure them nevertheless"
            )
        absent = [language for language in self._trained if language not in shared]
        if absent and shared != splits.languages:
            print(f"{self._specs['test']} has no captions in {', '.join(absent)}")
        splits.languages = shared


def _set_up(module: ShardDataModule) -> None:
    module.setup("test")
    # refuses a language that the tokenizer has no token for, before the work and not in a reading process
    module.tokenizer([""] * len(module.languages), module.languages)


def _reading(encoder: Encoder, batch_size: int, workers: int) -> dict[str, Any]:
    images = {} if encoder.images is None else {"images": encoder.images}
    return {"batch_size": batch_size, "workers": workers, "tokenizer": encoder.tokenizer, **images}


def language_indices(encoder: Encoder, languages: list[str]) -> Tensor:
    """int64 [K]: the index of each language among the encoder's, whose order is the run's; -1 where it has none."""
    return torch.tensor([encoder.languages.index(name) if name in encoder.languages else -1 for name in languages])
