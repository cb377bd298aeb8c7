"""What the towers hand to the objectives.

Letters: B samples, K caption slots, n values of a field, L tokens, D dimensions, W token width.
"""

from collections.abc import Mapping
from dataclasses import InitVar, dataclass, field
from types import MappingProxyType

import torch
from torch import Tensor


@dataclass
class TokenFeatures:
    """Token-level output of a tower.

    Args:
        leading: float [..., 1 + L, W], the pooled feature and then the tokens, as a fusion encoder reads them.
        leading_mask: bool [..., 1 + L], which of them are there; None for all.
        ids: the tokens' ids [..., L] (or [..., L, ...] where a token is more than a number), None where there are none.
    """

    leading: Tensor
    leading_mask: Tensor | None = None
    ids: Tensor | None = None

    @property
    def pooled(self) -> Tensor:
        """float [..., W]."""
        return self.leading[..., 0, :]

    @property
    def tokens(self) -> Tensor:
        """float [..., L, W]."""
        return self.leading[..., 1:, :]

    @property
    def mask(self) -> Tensor:
        """bool [..., L]."""
        if self.leading_mask is None:
            return torch.ones(self.tokens.shape[:-1], dtype=torch.bool, device=self.leading.device)
        return self.leading_mask[..., 1:]

    @property
    def absent(self) -> Tensor | None:
        """bool [..., L], which tokens are not there; None where all are."""
        return None if self.leading_mask is None else ~self.leading_mask[..., 1:]

    def whole(self) -> Tensor:
        """`leading` [..., 1 + L, W], for a network that takes no mask of it. Raises ValueError where there is one."""
        if self.leading_mask is not None:
            raise ValueError("data.images: pictures of free size are read by the captioner, not by fusion encoders")
        return self.leading


@dataclass
class FieldEmbeddings:
    """The rows of a further input of the samples.

    Args:
        rows: float [B, n, D], rows of unit length; absent ones hold anything finite.
        present: bool [B, n], None for all.
        ids: int64 [B, n]; equal ids are the same input, and no negatives of each other.
        tokens: of n values, [B, n, 1 + L, W], where the model composes rows of them.
    """

    rows: Tensor
    present: Tensor | None = None
    ids: Tensor | None = None
    tokens: TokenFeatures | None = None


@dataclass
class MultiEmbeddings:
    """Many rows for each value of an input.

    Args:
        rows: float [B, n, L, D], rows of unit length where there is a token.
        mask: bool [B, n, L], which tokens there are; None for all.
    """

    rows: Tensor
    mask: Tensor | None = None


@dataclass
class Embeddings:
    """One batch in the shared space; with several processes, this process's part of it.

    Args:
        image: float [B, D], rows of unit length; None where the samples have no image.
        texts: float [B, K, D], rows of unit length; absent slots hold anything finite. None where the samples have no
            captions.
        present: bool [B, K], which slots hold a caption; None for all.
        languages: int64 [B, K], index of each caption's language, -1 absent; None when slot k is language k.
        image_ids: int64 [B]; equal ids are the same image.
        text_ids: int64 [B, K]; equal ids are the same words.
        paired: bool [B], False where image and captions are no positives of each other, as a label may say; None for
            all. `OneToKLoss` and `ItmLoss` leave such a pair out, and take its parts as negatives of the others.
        fields: further inputs by name.
        image_tokens: of the images, [B, 1 + P, W].
        text_tokens: of the captions, [B, K, 1 + L, W].
        multi: many rows an input by the name of the input.
        labels: task -> int64 [B], -1 unlabelled.
        scores: "score" float [B] of a query and its positive, "scores" float [B, 1 + n] of the positive and the
            negatives; NaN where there is none.
        modalities: the rows [B, D] of fields of one value, by name; given, they become fields; read, they are a view.
    """

    image: Tensor | None
    texts: Tensor | None
    present: Tensor | None = None
    languages: Tensor | None = None
    image_ids: Tensor | None = None
    text_ids: Tensor | None = None
    fields: dict[str, FieldEmbeddings] = field(default_factory=dict)
    image_tokens: TokenFeatures | None = None
    text_tokens: TokenFeatures | None = None
    multi: dict[str, MultiEmbeddings] = field(default_factory=dict)
    labels: dict[str, Tensor] = field(default_factory=dict)
    scores: dict[str, Tensor] = field(default_factory=dict)
    paired: Tensor | None = None
    modalities: InitVar[Mapping[str, Tensor] | None] = None

    def __post_init__(self, modalities: Mapping[str, Tensor] | None) -> None:
        added = {name: FieldEmbeddings(rows[:, None]) for name, rows in (modalities or {}).items()}
        self.fields = added | self.fields


def modalities_of(embeddings: Embeddings) -> Mapping[str, Tensor]:
    """The rows [B, D] of the fields of one value, by name; the mapping cannot be changed."""
    rows = {name: each.rows[:, 0] for name, each in embeddings.fields.items() if each.rows.shape[1] == 1}
    return MappingProxyType(rows)


# A property of the argument's name: dataclasses take the argument, readers the view.
Embeddings.modalities = property(modalities_of)  # type: ignore[attr-defined]
