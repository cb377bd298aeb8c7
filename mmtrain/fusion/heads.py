"""Networks behind both towers: how a text and a picture relate, and whether they belong together."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from losses import Embeddings
from mmtrain.fusion.encoders import Fusion, fuse

RULED_OUT = -1e4  # a logit; half precision holds it


class RelationHead(nn.Module):
    """A fusion encoder, one linear layer a task, and one for matching where that is trained.

    Args:
        fusion: Connected to the towers.
        names: Task -> names of its classes; they may be set later.
        matches: Whether there is a layer for image-text matching.
        dropout: On the fused vector, before the tasks' layers.
    """

    def __init__(
        self,
        fusion: Fusion,
        names: Mapping[str, Sequence[str]] | None = None,
        matches: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.fusion, self.matches, self.dropout = fusion, matches, dropout
        self.drop = nn.Dropout(dropout)
        self.matching = nn.Linear(fusion.width, 2) if matches else None
        self.set_tasks(names or {})

    def set_tasks(self, names: Mapping[str, Sequence[str]]) -> None:
        """Makes the tasks' layers anew."""
        self.names = {task: list(classes) for task, classes in names.items()}
        self.out = nn.ModuleList(nn.Linear(self.fusion.width, len(classes)) for classes in names.values())

    @torch.no_grad()
    def rule_out(self, task: str, classes: list[int]) -> None:
        """Puts these classes out of reach: their probability, and with it every gradient of theirs, is 0."""
        self.out[list(self.names).index(task)].get_parameter("bias")[classes] = RULED_OUT

    def forward(self, image: Tensor, text: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """image [N, 1 + P, Wi], text [N, 1 + L, Wt], mask [N, 1 + L] -> task -> logits [N, classes]."""
        fused = self.drop(fuse(self.fusion, image, text, mask))
        return {task: out(fused) for task, out in zip(self.names, self.out, strict=True)}

    def judge(self, embeddings: Embeddings, posts: Tensor, slots: Tensor) -> dict[str, Tensor]:
        """Task -> logits [N, C] of N pairs, a picture and one of its texts each: (posts [N], slots [N])."""
        images, texts = embeddings.image_tokens, embeddings.text_tokens
        assert images is not None and texts is not None and texts.leading_mask is not None
        return self(images.leading[posts], texts.leading[posts, slots], texts.leading_mask[posts, slots])

    def match(self, fused: Tensor) -> Tensor:
        """Fused vectors [N, W] -> logits [N, 2], 1 for a match."""
        assert self.matching is not None
        return self.matching(fused)


class MatchingHead(nn.Module):
    """Whether a text belongs to a picture: what `losses.ItmLoss` takes as its network.

    forward(image [N, 1 + P, Wi], text [N, 1 + L, Wt], mask [N, 1 + L]) -> logits [N, 2], 1 for a match.

    Args:
        fusion: The fusion encoder.
    """

    def __init__(self, fusion: Fusion) -> None:
        super().__init__()
        self.fusion = fusion
        self.out = nn.Linear(fusion.width, 2)

    def connect(self, model: Any) -> None:
        """Makes the fusion's layers for the towers of a model."""
        self.fusion.connect(model.image.width, model.text.width)

    def forward(self, image: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        return self.match(fuse(self.fusion, image, text, mask))

    def match(self, fused: Tensor) -> Tensor:
        """Fused vectors [N, W] -> logits [N, 2]."""
        return self.out(fused)
