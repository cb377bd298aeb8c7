"""What fine-tuning starts from: a model of ours, its towers, and its fusion encoder where it has one."""

from typing import Any

import torch
from pytorch_lightning.utilities import rank_zero_info
from torch import nn

from mmtrain.loading import load
from mmtrain.model import ImageTextModel
from mmtrain.relation_head import RelationHead
from mmtrain.relation_loading import load_head
from mmtrain.spec import spec_of


class Pretrained:
    """MODEL, to be trained further.

    Attributes:
        model: Towers and projections.
        scale: The multiplier of the cosines in its loss.
        head: The network behind its towers, None where it was trained without.

    Raises:
        ValueError: for another library's model, whose token features cannot be had, or graphs of ONNX.
    """

    def __init__(self, name: str) -> None:
        encoder = load(name)
        if not isinstance(encoder.model, ImageTextModel):
            raise ValueError(f"model.pretrained: {name} gives no token features; a run, checkpoint or export of ours")
        self.name, self.model = name, encoder.model
        self.scale = min(max(encoder.scale or 1 / 0.07, 1.0), 100.0)
        for tower in (self.model.image, self.model.text):
            tower.frozen = False
        self.model.requires_grad_(True).train()
        head = load_head(name, encoder)
        self.head = head.requires_grad_(True).train() if head is not None else None
        self._languages = encoder.languages
        self._preprocessing: dict[str, Any] = {
            "tokenizer": spec_of(encoder.tokenizer),
            "images": spec_of(encoder.images) if encoder.images else None,
        }

    def fill(self, model: ImageTextModel) -> None:
        """Copies the weights into a model whose towers may be other objects.

        Raises:
            ValueError: naming the first parameter that does not fit.
        """
        ours, theirs = model.state_dict(), self.model.state_dict()
        for name in [*ours, *theirs]:
            if name not in ours or name not in theirs or ours[name].shape != theirs[name].shape:
                raise ValueError(
                    f"model.pretrained: {self.name} does not fit the towers: {name} is"
                    f" {list(theirs[name].shape) if name in theirs else 'not there'}, expected"
                    f" {list(ours[name].shape) if name in ours else 'nothing of that name'}; leave the towers out"
                )
        model.load_state_dict(theirs)

    def fill_head(self, head: RelationHead) -> None:
        """Copies the fusion encoder's weights and those of the layer for matching; says so where they do not fit."""
        if self.head is None:
            return
        ours, theirs = head.fusion, self.head.fusion
        if type(ours) is not type(theirs) or _shapes(ours) != _shapes(theirs):
            rank_zero_info(
                f"model.pretrained: the fusion of {self.name} is {_short(spec_of(theirs))}, which is no start for"
                f" {_short(spec_of(ours))}; leave model.fusion out to take it"
            )
            return
        ours.load_state_dict(theirs.state_dict())
        matching = self.head.matching if isinstance(self.head, RelationHead) else self.head.out
        if head.matching is not None and matching is not None:
            head.matching.load_state_dict(matching.state_dict())

    def check_data(self, data: Any) -> None:
        """Refuses data that the towers would misread.

        Raises:
            ValueError: for another tokenizer, another size of picture, or other languages where each has a network.
        """
        ours, theirs = spec_of(data.tokenizer), self._preprocessing["tokenizer"]
        if ours != theirs:
            raise ValueError(
                f"data.tokenizer: {_short(ours)}, but {self.name} was trained with {_short(theirs)}; take the same"
            )
        size = (self._preprocessing["images"] or {}).get("init_args", {}).get("size")
        if size is not None and data.images.size != size:
            raise ValueError(f"data.images.size: {data.images.size}, but {self.name} was trained with {size}")
        per_language = hasattr(self.model.text, "readers")
        if per_language and list(data.languages) != list(self._languages):
            raise ValueError(
                f"data.languages: {data.languages}, but {self.name} has one network each for {self._languages}"
            )


def _shapes(network: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in network.state_dict().items()}


def _short(spec: dict[str, Any]) -> str:
    given = ", ".join(f"{name}={value}" for name, value in spec["init_args"].items() if value is not None)
    return f"{spec['class_path'].rsplit('.', 1)[-1]}({given})"
