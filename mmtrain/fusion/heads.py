"""Networks behind both towers: how a text and a picture relate, and whether they belong together."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from losses import Embeddings
from mmtrain.fusion.encoders import Fusion, fuse, pair_rows

RULED_OUT = -1e4  # a logit; half precision holds it


class RelationHead(nn.Module):
    """A fusion encoder, one linear layer a task, and one for matching where that is trained.

    Args:
        fusion: Connected to the towers.
        names: Task -> names of its classes; they may be set later.
        matches: Whether there is a layer for image-text matching.
        dropout: On the fused vector, before the tasks' layers.
        rows: D of the shared space where the tasks' layers read the pair's rows beside the fused vector; None where
            they read the fused vector alone.
    """

    def __init__(
        self,
        fusion: Fusion,
        names: Mapping[str, Sequence[str]] | None = None,
        matches: bool = False,
        dropout: float = 0.0,
        rows: int | None = None,
    ) -> None:
        super().__init__()
        self.fusion, self.matches, self.dropout, self.rows = fusion, matches, dropout, rows
        self.drop = nn.Dropout(dropout)
        self.matching = nn.Linear(fusion.width, 2) if matches else None
        self.set_tasks(names or {})

    def set_tasks(self, names: Mapping[str, Sequence[str]]) -> None:
        """Makes the tasks' layers anew."""
        self.names = {task: list(classes) for task, classes in names.items()}
        width = self.fusion.width + 4 * (self.rows or 0)
        self.out = nn.ModuleList(nn.Linear(width, len(classes)) for classes in names.values())

    @torch.no_grad()
    def start(self, task: str, weight: Tensor, bias: Tensor) -> None:
        """Lets a task's layer begin with weights [C, 4 D] of the pair's rows and a bias [C], blind to the fused vector.

        A bias of -inf puts the class out of reach.
        """
        out = self.out[list(self.names).index(task)]
        out.get_parameter("weight").copy_(nn.functional.pad(weight, (self.fusion.width, 0)))
        out.get_parameter("bias").copy_(bias.clamp(min=RULED_OUT))

    @torch.no_grad()
    def rule_out(self, task: str, classes: list[int]) -> None:
        """Puts these classes out of reach: their probability, and with it every gradient of theirs, is 0."""
        self.out[list(self.names).index(task)].get_parameter("bias")[classes] = RULED_OUT

    def forward(self, image: Tensor, text: Tensor, mask: Tensor, rows: Tensor) -> dict[str, Tensor]:
        """image [N, 1 + P, Wi], text [N, 1 + L, Wt], mask [N, 1 + L], `pair_rows` [N, 4 D] -> task -> logits [N, C]."""
        seen = self.drop(fuse(self.fusion, image, text, mask))
        if self.rows is not None:
            seen = torch.cat([seen, rows.to(seen)], 1)
        return {task: out(seen) for task, out in zip(self.names, self.out, strict=True)}

    def judge(self, embeddings: Embeddings, posts: Tensor, slots: Tensor) -> dict[str, Tensor]:
        """Task -> logits [N, C] of N pairs, a picture and one of its texts each: (posts [N], slots [N]).

        Without any, one pair is judged and dropped, so that the head takes part in the training on every process.
        """
        images, texts = embeddings.image_tokens, embeddings.text_tokens
        assert embeddings.image is not None and embeddings.texts is not None and images is not None
        assert texts is not None and texts.leading_mask is not None
        N = len(posts)
        if not N:
            posts = slots = posts.new_zeros(1)
        rows = pair_rows(embeddings.image[posts], embeddings.texts[posts, slots])
        logits = self(images.whole()[posts], texts.leading[posts, slots], texts.leading_mask[posts, slots], rows)
        return {task: each[:N] for task, each in logits.items()}

    def match(self, fused: Tensor) -> Tensor:
        """Fused vectors [N, W] -> logits [N, 2], 1 for a match."""
        assert self.matching is not None
        return self.matching(fused)


class MatchingHead(nn.Module):
    """Whether a text belongs to a picture: what `losses.ItmLoss` takes as its network.

    forward(image [N, 1 + P, Wi], text [N, 1 + L, Wt], mask [N, 1 + L]) -> logits [N, 2], 1 for a match. With a `scale`
    it takes the cosines [N] of the pairs' rows too, and the logits are 0 and gain * cosine + correction. The gain
    starts as the scale, the correction as 0, so before training it ranks pairs as the space does.

    Args:
        fusion: The fusion encoder.
        scale: Where the gain starts; None for a head that sees no cosine.

    Raises:
        ValueError: for a scale that is not positive.
    """

    def __init__(self, fusion: Fusion, scale: float | None = None) -> None:
        super().__init__()
        if scale is not None and scale <= 0:
            raise ValueError(f"MatchingHead.scale: got {scale}, expected a number above 0, or null")
        self.fusion, self.scale = fusion, scale
        self.reads_rows, self.reads_cosine = fusion.reads_rows, scale is not None
        self.out = nn.Linear(fusion.width, 1 if self.reads_cosine else 2)
        if scale is not None:
            nn.init.zeros_(self.out.weight)
            nn.init.zeros_(self.out.bias)
            self.log_gain = nn.Parameter(torch.tensor(float(scale)).log())

    @property
    def gain(self) -> Tensor:
        """What the cosine is multiplied by, 0-d."""
        return self.log_gain.exp()

    def connect(self, model: Any) -> None:
        """Makes the fusion's layers for a model."""
        space = model.dimension
        widths = (space, space) if self.reads_rows else (model.image.width, model.text.width)
        self.fusion.connect(*widths)

    def forward(self, image: Tensor, text: Tensor, mask: Tensor, cosine: Tensor | None = None) -> Tensor:
        """Logits [N, 2] of image [N, 1 + P, Wi], text [N, 1 + L, Wt], mask [N, 1 + L], and cosines [N] with a scale."""
        return self.match(fuse(self.fusion, image, text, mask), cosine)

    def match(self, fused: Tensor, cosine: Tensor | None = None) -> Tensor:
        """Fused vectors [N, W] and, where it reads them, cosines [N] -> logits [N, 2]."""
        logits = self.out(fused)
        if cosine is None:
            return logits
        return nn.functional.pad(self.gain * cosine[:, None] + logits, (1, 0))
