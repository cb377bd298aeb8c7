"""The network behind both towers that says how a text and a picture relate."""

import torch
from torch import Tensor, nn

from mmtrain.fusion import Fusion, fuse

RULED_OUT = -1e4  # a logit; half precision holds it


class RelationHead(nn.Module):
    """A fusion encoder, one linear layer a task, and one for matching where that is trained.

    Args:
        fusion: Connected to the towers.
        names: Task -> names of its classes; they may be set later.
        matching: Whether there is a layer for image-text matching.
        dropout: On the fused vector, before the tasks' layers.
    """

    def __init__(
        self, fusion: Fusion, names: dict[str, list[str]] | None = None, matching: bool = False, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.fusion = fusion
        self.drop = nn.Dropout(dropout)
        self.matching = nn.Linear(fusion.width, 2) if matching else None
        self.set_tasks(names or {})

    def set_tasks(self, names: dict[str, list[str]]) -> None:
        """Makes the tasks' layers anew."""
        self.names = {task: list(classes) for task, classes in names.items()}
        self.out = nn.ModuleList(nn.Linear(self.fusion.width, len(classes)) for classes in names.values())

    @torch.no_grad()
    def rule_out(self, task: str, classes: list[int]) -> None:
        """Puts these classes out of reach: their probability, and with it every gradient of theirs, is 0."""
        self.out[list(self.names).index(task)].bias[classes] = RULED_OUT

    def forward(self, image: Tensor, text: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """image [N, 1 + P, Wi], text [N, 1 + L, Wt], mask [N, 1 + L] -> task -> logits [N, classes]."""
        fused = self.drop(fuse(self.fusion, image, text, mask))
        return {task: out(fused) for task, out in zip(self.names, self.out, strict=True)}

    def match(self, image: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        """The same inputs -> logits [N, 2], 1 for a match."""
        assert self.matching is not None
        return self.matching(fuse(self.fusion, image, text, mask))
