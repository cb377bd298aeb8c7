"""The one form every objective has: embeddings in, a scalar out."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from losses.embeddings import Embeddings, FieldEmbeddings
from losses.engine.distributed import default_group, gather

ALL_FIELDS = "fields"  # in `needs`: every further input that the samples bring
UNIT_TOLERANCE = 0.02  # bfloat16 rows of unit length are this close to it

Similarity = Literal["asymmetric", "cosine"]
T = TypeVar("T")


class Objective(nn.Module):
    """Base of everything that trains: `forward(embeddings) -> scalar`, learnable parameters inside.

    One that has figures worth watching returns them by name from `logged`. Objectives use the default process group
    wherever one of several processes is running.

    Attributes:
        needs: What it reads: "image", "texts", "tokens", "multi", "labels", "score", "scores", a field's name, or
            ALL_FIELDS.
        needs_tokens: True means {"tokens"} beside `needs`.
        similarity: What its rows are compared by.
        composition: What it makes of several inputs of one query, their sum or their product.
        unencoded: Fields that it reads from the batch as they are, through no tower.
    """

    needs: frozenset[str] = frozenset({"image", "texts"})
    needs_tokens: bool = False
    similarity: Similarity = "cosine"
    composition: Literal["sum", "product"] = "sum"
    unencoded: frozenset[str] = frozenset()

    def __init__(self) -> None:
        super().__init__()
        self._rows_checked = False

    def forward(self, embeddings: Embeddings) -> Tensor:
        """The loss of the whole batch, 0-d, from this process's part; the mean of all gradients is that of the whole.

        Raises:
            ValueError: where the embeddings lack what it needs, or have another shape.
        """
        raise NotImplementedError(f"{type(self).__name__} must say how it turns Embeddings into a scalar")

    def connect(self, model: Any) -> None:
        """For objectives with a network of their own: called once with the model, before the optimiser is made."""

    def prepare(self, data: Any) -> None:
        """Called before the optimiser is made, with the data module: its languages, whose numbers batches hold, and its
        tokenizer.
        """

    def meet(self, objectives: Mapping[str, "Objective"]) -> None:
        """For objectives that read another's network: called with all of them before `connect`."""

    def loss(self, batch: Any, embeddings: Embeddings, model: Any) -> Tensor:
        """What the training sums up, 0-d; for objectives that read the batch or the model in place of `forward`."""
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
        """Scalars (0-d) of the last forward pass that are worth logging, by name."""
        return {}

    def check_rows(self, embeddings: Embeddings) -> None:
        """Refuses rows that are not of unit length; looks at the first batch only, since it waits for the device.

        Raises:
            ValueError: naming the embedding and the length seen.
        """
        if self._rows_checked:
            return
        given = {"image": (embeddings.image, None), "texts": (embeddings.texts, embeddings.present)}
        fields = {name: (each.rows, each.present) for name, each in embeddings.fields.items()}
        many = {f"multi.{name}": (each.rows, each.mask) for name, each in embeddings.multi.items()}
        for name, (rows, there) in {**given, **fields, **many}.items():
            if rows is None:
                continue
            rows = rows if there is None else rows[there]
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


def texts_of(embeddings: Embeddings) -> Tensor:
    """The captions' rows [B, K, D]. Raises ValueError where the samples have none."""
    if embeddings.texts is None:
        raise ValueError("texts: the samples have no captions, and the objective reads them")
    return embeddings.texts


def field_of(embeddings: Embeddings, name: str) -> FieldEmbeddings:
    """A field. Raises ValueError where the samples have none of that name."""
    return _named("field", embeddings.fields, name)


def distractors_of(embeddings: Embeddings, name: str | None) -> dict[str, Tensor | None]:
    """A field as the arguments `distractors` and `distractors_present` of a loss; none for None.

    One that has the id of any caption of the batch is left out: it is somebody's own, and a negative of the others.
    """
    if name is None:
        return {}
    field = field_of(embeddings, name)
    present = field.present
    if field.ids is not None and embeddings.text_ids is not None:
        nobodys = ~torch.isin(field.ids, gather(embeddings.text_ids, default_group()))
        present = nobodys if present is None else present & nobodys
    return {"distractors": field.rows, "distractors_present": present}


def slots_of(embeddings: Embeddings, name: str) -> FieldEmbeddings:
    """The values of "image" (one), "texts" (K) or a field. Raises ValueError where the samples have none."""
    if name == "image":
        return FieldEmbeddings(image_of(embeddings)[:, None], None, embeddings.image_ids)
    if name == "texts":
        return FieldEmbeddings(texts_of(embeddings), embeddings.present, embeddings.text_ids)
    return field_of(embeddings, name)


def rows_of(embeddings: Embeddings, name: str) -> tuple[Tensor, Tensor | None]:
    """Rows [B, D] and ids [B] of an input's first value. Raises ValueError where a sample has none."""
    values = slots_of(embeddings, name)
    if values.present is not None and not values.present[:, 0].all():
        absent = int((~values.present[:, 0]).sum())
        raise ValueError(f"{name}: {absent} samples of the batch have none, expected one each")
    ids = values.ids
    return values.rows[:, 0], ids if ids is None or ids.dim() == 1 else ids[:, 0]


def tokens_of(embeddings: Embeddings, name: str) -> tuple[Tensor, Tensor]:
    """Token rows [B, n, L, D] and mask bool [B, n, L] of an input. Raises ValueError where there are none."""
    many = _named("token rows", embeddings.multi, name)
    mask = many.rows.new_ones(many.rows.shape[:3], dtype=torch.bool) if many.mask is None else many.mask
    return many.rows, mask


class First(NamedTuple):
    """An input's first value that is there, of each of B samples."""

    rows: Tensor  # float [B, D]
    tokens: Tensor  # float [B, L, d]
    mask: Tensor  # bool [B, L]
    ids: Tensor | None  # int64 [B]


def first_of(embeddings: Embeddings, name: str) -> First:
    """An input's first value, in both forms. Raises ValueError where the samples have no token rows of that name."""
    tokens, mask = tokens_of(embeddings, name)
    values = slots_of(embeddings, name)
    each, slot = torch.arange(len(mask), device=mask.device), mask.any(2).int().argmax(1)
    ids = values.ids if values.ids is None or values.ids.dim() == 1 else values.ids[each, slot]
    return First(values.rows[each, slot], tokens[each, slot], mask[each, slot], ids)


def scores_of(embeddings: Embeddings, name: str) -> Tensor:
    """Scores [B] or [B, 1 + n], NaN where there is none. Raises ValueError where the samples have none of that name."""
    return _named("scores", embeddings.scores, name)


def _named(what: str, given: Mapping[str, T], name: str) -> T:
    if name not in given:
        raise ValueError(f"{name}: the samples have no such {what}, but {', '.join(given) or 'none'}")
    return given[name]
