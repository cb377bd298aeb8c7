"""The one form every objective has: embeddings in, a scalar out."""

from typing import Any, Literal

from torch import Tensor, nn

from losses.embeddings import Embeddings

ALL_FIELDS = "fields"  # in `needs`: every further input that the samples bring
UNIT_TOLERANCE = 0.02  # bfloat16 rows of unit length are this close to it

Similarity = Literal["asymmetric", "cosine"]


class Objective(nn.Module):
    """Base of everything that trains: `forward(embeddings) -> scalar`, learnable parameters inside.

    One that has figures worth watching returns them by name from `logged`. Objectives use the default process group
    wherever one of several processes is running.

    Attributes:
        needs: What it reads: "image", "texts", "tokens", "multi", "labels", a field's name, or ALL_FIELDS.
        needs_tokens: True means {"tokens"} beside `needs`.
        similarity: What its rows are compared by.
    """

    needs: frozenset[str] = frozenset({"image", "texts"})
    needs_tokens: bool = False
    similarity: Similarity = "cosine"

    def __init__(self) -> None:
        super().__init__()
        self._rows_checked = False

    def forward(self, embeddings: Embeddings) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} must say how it turns Embeddings into a scalar")

    def connect(self, model: Any) -> None:
        """For objectives with a network of their own: called once with the model, before the optimiser is made."""

    def loss(self, batch: Any, embeddings: Embeddings, model: Any) -> Tensor:
        """What the training sums up; for objectives that read the batch or the model in place of `forward`."""
        return self(embeddings)

    def after_step(self) -> None:
        """Called after each optimiser step: a bounded parameter is written back, a teacher moves."""

    def chance(self, images: int, captions: float) -> float | None:
        """The loss of a model that knows nothing: all scores are equal. None where that is not known.

        Args:
            images: Those of the global batch, at least 2.
            captions: How many each has, on average.
        """
        return None

    def logged(self) -> dict[str, Tensor]:
        """Scalars of the last forward pass that are worth logging."""
        return {}

    def check_rows(self, embeddings: Embeddings) -> None:
        """Refuses rows that are not of unit length; looks at the first batch only, since it waits for the device.

        Raises:
            ValueError: naming the embedding and the length seen.
        """
        if self._rows_checked:
            return
        texts = embeddings.texts if embeddings.present is None else embeddings.texts[embeddings.present]
        fields = {
            name: each.rows if each.present is None else each.rows[each.present]
            for name, each in embeddings.fields.items()
        }
        images = {} if embeddings.image is None else {"image": embeddings.image}
        for name, rows in {**images, "texts": texts, **fields}.items():
            lengths = rows.detach().float().norm(dim=-1).flatten()
            worst = lengths[(lengths - 1).abs().argmax()].item() if len(lengths) else 1.0
            if not abs(worst - 1) <= UNIT_TOLERANCE:
                raise ValueError(f"{name}: a row of length {worst:.4g}, expected rows of unit length (L2-normalised)")
        self._rows_checked = True


def needs_of(objective: Objective) -> frozenset[str]:
    """All that an objective needs, in whichever way it says so."""
    return objective.needs | {"tokens"} if objective.needs_tokens else objective.needs


def image_of(embeddings: Embeddings) -> Tensor:
    """The images' rows [B, D]. Raises ValueError where the samples have none."""
    if embeddings.image is None:
        raise ValueError("image: the samples have no picture, and the objective compares pictures with texts")
    return embeddings.image
