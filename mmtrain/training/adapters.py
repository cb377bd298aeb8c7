"""Which adapter reads each part of a step, and which adapters are trained."""

from dataclasses import replace

import torch
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor

from datamodules.batch import Batch
from mmtrain.models.adapters import BY_LANGUAGE, NONE
from mmtrain.models.image_text import ImageTextModel
from mmtrain.training.data import AdaptedData, TrainingData


class Readers:
    """The adapters of a model by part and source of its training data; until these are known, the base."""

    def __init__(self, model: ImageTextModel) -> None:
        self._model = model
        self._numbers = {"": torch.tensor([NONE])}

    def settle(self, data: TrainingData) -> None:
        """Takes what the data say of each source: an adapter, "language", or nothing. Unnamed adapters are frozen.

        Raises:
            ValueError: one line, for an adapter that the model has not, languages none is called like, or several
                adapters that nothing names.
        """
        model = self._model
        names = list(model.bank.settings)
        model.bank.languages = data.languages
        told: dict[str, list[str | None]] = {part: [None] for part in data.brings}
        told |= data.adapters if isinstance(data, AdaptedData) else {}
        used = {name for sources in told.values() for name in sources if name is not None}
        if not used and names:
            if len(names) > 1:
                raise ValueError(f"model.adapters: {', '.join(names)}, but no part and no source names its adapter")
            used, told = {*names}, {part: [*names] for part in told}
        for part, sources in told.items():
            where = f"data.parts.{part}" if part else "data.train"
            for name in sources:
                if name not in (None, BY_LANGUAGE, *names):
                    raise ValueError(f"{where}: adapter: got {name!r}, model.adapters has {', '.join(names) or 'none'}")
        if BY_LANGUAGE in used:
            if not (spoken := {*data.languages} & {*names}):
                raise ValueError(
                    f"adapter_of: language: none of model.adapters ({', '.join(names) or 'none'}) is called like one of"
                    f" data.languages, {', '.join(data.languages)}"
                )
            used = used - {BY_LANGUAGE} | spoken
        self._numbers = {
            part: torch.tensor([model.bank.number(name, "") for name in sources]) for part, sources in told.items()
        }
        for name in names:
            for weight in model.bank.weights(name).values():
                weight.requires_grad_(name in used)
        if rest := [name for name in names if name not in used]:
            rank_zero_info(f"model.adapters: {', '.join(rest)}: no part of the step names it; it stays as it is")

    def told(self, batch: Batch, part: str, validation: bool = False) -> Batch:
        """The batch with the number of each row's adapter; in validation that of all sources, or none."""
        if not self._model.bank.settings:
            return batch
        numbers = self._numbers[part if part in self._numbers else next(iter(self._numbers))].to(batch.rows.device)
        if validation:  # whose samples are of no source
            numbers = numbers[:1] if len(numbers.unique()) == 1 else numbers.new_tensor([NONE])
        return replace(batch, adapters=numbers[batch.sources.clamp(0, len(numbers) - 1)])

    def unread(self) -> Tensor | int:
        """0, with gradients of 0 for all adapters that are trained: a step may have no row of one."""
        weights = [each for name in self._model.bank.settings for each in self._model.bank.weights(name).values()]
        return sum(0 * each.sum() for each in weights if each.requires_grad)
