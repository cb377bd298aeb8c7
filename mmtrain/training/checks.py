"""What a training refuses or points out before it begins."""

from collections.abc import Iterable, Mapping

import pytorch_lightning as pl
from pytorch_lightning.strategies import ModelParallelStrategy
from pytorch_lightning.utilities import rank_zero_info
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from datamodules.shards.samples import COMMON
from losses import Objective
from losses.objective import ALL_FIELDS, needs_of
from mmtrain.models.batches import PICTURES
from mmtrain.models.image_text import ImageTextModel
from mmtrain.objectives.average import AverageTaught
from mmtrain.training.data import TrainingData
from mmtrain.training.parts import from_data

LONG = "a " * 2048  # a caption beyond every limit


def check_one_step_a_batch(trainer: pl.Trainer, instead: str) -> None:
    """Refuses the accumulation of gradients, by option or callback.

    Raises:
        ValueError: one line, naming the option to use `instead`.
    """
    if trainer.accumulate_grad_batches != 1:
        raise ValueError(
            f"trainer.accumulate_grad_batches: got {trainer.accumulate_grad_batches}, expected 1: the summed losses of"
            f" small batches are not the loss of the big one; use {instead}"
        )


def check_clipping(trainer: pl.Trainer, adaptive: float | None) -> None:
    """Refuses adaptive clipping of no ratio, beside the trainer's own, or of weights that no process has whole.

    Raises:
        ValueError: one line, naming the option.
    """
    if adaptive is None:
        return
    if not adaptive > 0:
        raise ValueError(f"model.adaptive_clipping: got {adaptive}, expected a ratio above 0, as 0.01")
    if trainer.gradient_clip_val:
        raise ValueError(
            f"model.adaptive_clipping: got {adaptive} beside trainer.gradient_clip_val {trainer.gradient_clip_val};"
            " expected one of them"
        )
    if isinstance(trainer.strategy, ModelParallelStrategy):
        raise ValueError("model.adaptive_clipping: fsdp2 divides the weights that it compares with; use ddp")


def check_batch_norm(model: nn.Module, processes: int) -> None:
    """Says which layers make several processes train something else than one, if any."""
    names = (
        name
        for name, layer in model.named_modules()
        if isinstance(layer, _BatchNorm) and not isinstance(layer, nn.SyncBatchNorm) and layer.training
    )
    if processes > 1 and (name := next(names, None)):
        rank_zero_info(
            f"model.{name} normalises over each process's part of the batch: {processes} processes train another model"
            " than one; --trainer.sync_batchnorm true on GPUs, or a tower without BatchNorm"
        )


def check_micro_batch(model: nn.Module, size: int | None) -> None:
    """Refuses parts of a batch that are none, and layers that would see parts.

    Raises:
        ValueError: one line, naming the layer.
    """
    if size is None:
        return
    if size < 1:
        raise ValueError(f"model.micro_batch: got {size}, expected at least 1")
    for name, layer in model.named_modules():
        if isinstance(layer, _BatchNorm) and layer.training:
            raise ValueError(f"model.micro_batch: {name} normalises over the batch; use a tower without BatchNorm")


def check_needs(objectives: Mapping[str, Mapping[str, Objective]], data: TrainingData, trainer: pl.Trainer) -> None:
    """Refuses objectives that need what the data do not bring or begin behind the end, and fields that none reads.

    Args:
        objectives: Those that see each part of the step.
        trainer: Whose max_steps say where the end is.

    Raises:
        ValueError: one line, naming both.
    """
    for part, seeing in objectives.items():
        brings, where = data.brings[part], f"part {part} brings" if part else "the data bring"
        for name, objective in seeing.items():
            if missing := from_data(objective) - brings - {ALL_FIELDS}:
                raise ValueError(f"model.objectives.{name}: needs {_listed(missing)}, {where} {_listed(brings)}")
            if isinstance(objective, AverageTaught) and 0 <= trainer.max_steps <= objective.start:
                raise ValueError(
                    f"model.objectives.{name}.start: got {objective.start}, expected less than the"
                    f" {trainer.max_steps} of trainer.max_steps"
                )
        read = frozenset().union(*(needs_of(objective) for objective in seeing.values()))
        if ALL_FIELDS not in read and (unread := brings - COMMON - read):
            field = f"data.parts.{part}.fields" if part else "data.fields"
            raise ValueError(f"{field}: no objective reads {_listed(unread)}; the objectives read {_listed(read)}")


def check_fits(model: ImageTextModel, data: TrainingData) -> None:
    """Refuses towers that cannot read what the data module may bring, before one long caption ends the run.

    Raises:
        ValueError: one line, naming the options of both sides.
    """
    ids, known = data.tokenizer.vocabulary_size, model.text.vocabulary_size
    if ids > known:
        raise ValueError(
            f"data.tokenizer has {ids} token ids, the text tower knows {known}: set model.text.vocabulary_size or take"
            " the tower's own tokenizer"
        )
    positions = model.text.positions
    for option, tokenizer in data.tokenizers.items():
        tokens, _ = tokenizer([LONG] * len(data.languages), data.languages)
        if positions is not None and tokens.shape[1] > positions:
            raise ValueError(
                f"{option}: a long text has {tokens.shape[1]} tokens, the text tower model.text has"
                f" {positions} positions; set it to at most that"
            )
    if model.shared:
        check_pages(model, data)
    brings = frozenset().union(*data.brings.values())
    for name in model.modalities:
        if name not in brings:
            raise ValueError(f"model.modalities.{name}: data.fields has no {name}; the data bring {_listed(brings)}")
    if model.composer is not None and not any(f"{name}{PICTURES}" in brings for name in brings):
        raise ValueError(
            f"model.composition: no texts have pictures, as query and query{PICTURES} of data.fields; the data bring"
            f" {_listed(brings)}"
        )
    if model.image is not None and "image" in data.kinds:
        for shape in data.picture_shapes:
            model.image.check_shape(shape)


def check_pages(model: ImageTextModel, data: TrainingData) -> None:
    """Refuses a tokenizer whose texts are no pages that the shared tower reads.

    Raises:
        ValueError: one line, naming the tokenizer.
    """
    for option, tokenizer in data.tokenizers.items():
        rows, _ = tokenizer(["a"], ["und"])
        if rows.ndim != 3:
            raise ValueError(
                f"{option}: model.text is shared with the image tower, but {type(tokenizer).__name__} gives token ids;"
                " datamodules.RenderedText draws texts"
            )
        assert model.image is not None
        try:
            model.image.check_shape((3, rows.shape[2], rows.shape[2]))
        except ValueError:
            raise ValueError(
                f"data.tokenizer.size: the image tower cannot read pages of {rows.shape[2]} pixels; expected the"
                " size of its pictures"
            ) from None


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
