"""The numbers corpus as shards, and a training of `ContrastiveModule` on parts of them."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl

from benchmarks.number_features import CLIP_NORM, WIDTH, Pictures, Schedule
from datamodules import ShardDataModule
from datamodules.numbers.corpus import words
from datamodules.reading.parts import Part
from datamodules.shards.encoding import encoded_sample
from datamodules.shards.samples import FEATURE_SUFFIX
from datamodules.shards.writing import write_shards
from losses import Objective
from mmtrain import ContrastiveModule
from mmtrain.models.image_text import ImageTextModel
from mmtrain.towers import ByteGRU, FeatureTower, ImageTower, TextTower

DIMENSION, GRU_WIDTH, BYTE_WIDTH = 128, 128, 32
SAMPLES_PER_SHARD = 2_000

Extra = Callable[[int], dict[str, Any]]


def picture_shards(out: Path, pictures: Pictures, languages: Sequence[str], extra: Extra | None = None) -> str:
    """Features with captions; `extra` gives what else the record of a number's pictures holds."""

    def sample(place: int) -> dict:
        number = int(pictures.numbers[place])
        record = {"id": f"n{place}", "captions": {language: words(language)[number] for language in languages}}
        record |= extra(number) if extra else {}
        features = io.BytesIO()
        np.save(features, pictures.features[place].numpy())
        return encoded_sample(place, record, features.getvalue(), FEATURE_SUFFIX)

    return _shards(out, len(pictures.numbers), sample)


def pair_shards(out: Path, numbers: Iterable[int], languages: Sequence[str]) -> str:
    """English number words with those of every language, as query and positive."""
    pairs = [(number, language) for number in numbers for language in languages]

    def sample(place: int) -> dict:
        number, language = pairs[place]
        query, positive = {"en": words("en")[number]}, {language: words(language)[number]}
        return encoded_sample(place, {"id": f"p{place}", "query": query, "positive": positive}, None)

    return _shards(out, len(pairs), sample)


def _shards(out: Path, samples: int, sample: Callable[[int], dict]) -> str:
    def make(task: dict) -> Iterator[dict]:
        return map(sample, range(task["first"], min(task["first"] + SAMPLES_PER_SHARD, samples)))

    write_shards(out, [{"first": first} for first in range(0, samples, SAMPLES_PER_SHARD)], make, title=out.name)
    return str(out)


def trained(
    parts: dict[str, Part],
    objectives: dict[str, Objective],
    schedule: Schedule,
    rate: float,
    seed: int,
    *,
    image: ImageTower | None = None,
    text: TextTower | None = None,
    module: type[ContrastiveModule] = ContrastiveModule,
    reading: Mapping[str, Any] | None = None,
    callbacks: Sequence[pl.Callback] = (),
    **options: Any,
) -> ImageTextModel:
    """Trains a linear map of the features and a byte GRU; the rate as in `benchmarks.number_features.fit`.

    Args:
        parts: Of each step; one without a name is the whole of it.
        image: Another image tower.
        text: Another text tower.
        module: What trains.
        reading: Options of the data module.
        callbacks: Of the trainer.
        options: Of the module; gradients are not cut at their length beside `adaptive_clipping`.
    """
    whole = parts.get("")
    of = {"parts": parts} if whole is None else {"train": whole.train, "batch_size": whole.batch_size}
    data = ShardDataModule(workers=0, seed=seed, **of, **reading or {})
    image, text = image or FeatureTower(WIDTH, normalise=True), text or ByteGRU(GRU_WIDTH, BYTE_WIDTH)
    defaults = {"dimension": DIMENSION, "weight_decay": 0.0, "betas": (0.9, 0.999)}
    training = module(
        image, text, objectives, learning_rate=rate, warmup_steps=schedule.steps // 20, **defaults | options
    )
    trainer = pl.Trainer(
        max_steps=schedule.steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        gradient_clip_val=None if "adaptive_clipping" in options else CLIP_NORM,
        use_distributed_sampler=False,
        callbacks=list(callbacks),
    )
    trainer.fit(training, data)
    return training.model.eval()
