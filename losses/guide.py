"""What a guide says of a batch: another model that knows which negatives are none (GISTEmbed)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from losses.embeddings import FieldEmbeddings
from losses.engine.checks import check_rows, working_precision


@dataclass
class GuideRows:
    """What another model makes of the same inputs, to tell which negatives are none.

    Args:
        queries: float [B, G], unit rows.
        targets: float [B, G], unit rows.
        negatives: float [B, n, G], unit rows, where there are negatives.
        margin: how far below the own pair's score a score must stay.
    """

    queries: Tensor
    targets: Tensor
    negatives: Tensor | None = None
    margin: float = 0.0

    def limits(self) -> Tensor:
        """float [B], above which a score says that a negative is none."""
        return (self.queries * self.targets).sum(1) - self.margin

    def checked(self, B: int, negatives: tuple[int, int]) -> "GuideRows":
        """The same in at least float32. Raises ValueError unless there are B queries and negatives [B, n]."""
        check_rows("guide.queries", self.queries)
        check_rows("guide.targets", self.targets, self.queries)
        theirs = self.queries.new_zeros(B, 0, self.queries.shape[1]) if self.negatives is None else self.negatives
        if len(self.queries) != B or theirs.shape != (*negatives, self.queries.shape[1]):
            shapes = f"{list(self.queries.shape)} and {list(theirs.shape)}"
            raise ValueError(f"guide: got shapes {shapes}, expected [{B}, G] and {[*negatives, 'G']}")
        queries, targets, theirs = working_precision(self.queries.detach(), self.targets.detach(), theirs.detach())
        return GuideRows(queries, targets, theirs, self.margin)


class GuideModel(nn.Module):
    """Base of frozen models that read the batches that a training reads.

    What a guide finds nearer than the positive is no negative: Solatorio, "GISTEmbed", 2024.
    """

    def prepare(self, languages: Sequence[str]) -> None:
        """Called before the training with the languages of the data, whose numbers in this list batches hold."""

    def forward(self, batch: Any, name: str) -> FieldEmbeddings:
        """The model's own rows [B, n, G] of an input of the batch: "image", "texts" or a field's name.

        Raises:
            ValueError: for an input that the batch lacks.
        """
        raise NotImplementedError(f"{type(self).__name__} must say how it reads a batch")
