"""What the towers hand to the objectives."""

from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class Embeddings:
    """One batch in the shared space; with several processes, this process's part of it.

    Letters: B images, K caption slots, D dimensions, P image tokens, L text tokens, W token width.

    Args:
        image: float [B, D], rows of unit length.
        texts: float [B, K, D], rows of unit length; absent slots hold anything finite.
        present: bool [B, K], which slots hold a caption; None for all.
        languages: int64 [B, K], index of each caption's language, -1 absent; None when slot k is language k.
        image_ids: int64 [B]; equal ids are the same picture.
        text_ids: int64 [B, K]; equal ids are the same words.
        modalities: further modalities by name, float [B, D], rows of unit length.
        tokens: token-level outputs for objectives that need them: "image" [B, P, W], "text" [B, K, L, W] and
            "text_mask" bool [B, K, L].
    """

    image: Tensor
    texts: Tensor
    present: Tensor | None = None
    languages: Tensor | None = None
    image_ids: Tensor | None = None
    text_ids: Tensor | None = None
    modalities: dict[str, Tensor] = field(default_factory=dict)
    tokens: dict[str, Tensor] = field(default_factory=dict)
