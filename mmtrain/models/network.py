"""The interface of every model behind its preprocessing, ours and other libraries'."""

from collections.abc import Mapping
from types import MappingProxyType

from torch import Tensor, nn

from datamodules.tokenizers.tokenizer import check_prompts

NO_HEAD = "multi: the model gives no token rows; train one that does, with model.multi: {dimension: 128}"


class Network(nn.Module):
    """Images and captions as rows of unit length.

    Attributes:
        dimension: D, the width of the rows.
        multi_dimension: d, the width of the token rows; None where it has no head for them.
        shared: Whether one tower reads pictures and texts, which the tokenizer draws as pictures.
        reads_by_language: Whether there is a network for each language, so that a caption's language must be known.
        prompts: What stands before texts of a role: "query" searches, "passage" is found.
    """

    dimension: int
    multi_dimension: int | None = None
    shared: bool = False
    reads_by_language: bool = False
    prompts: Mapping[str, str] = MappingProxyType({})

    def set_prompts(self, prompts: Mapping[str, str]) -> None:
        """Raises ValueError for anything but texts of the known roles."""
        check_prompts(prompts, "model.prompts")
        self.prompts = dict(prompts)

    def encode_image(self, images: Tensor, adapters: Tensor | None = None) -> Tensor:
        """uint8 pixels [N, 3, H, W] or float features [N, ...] -> float [N, D], unit rows.

        Args:
            adapters: int64 [N], as `Batch.adapters`, of a model that has adapters.
        """
        raise NotImplementedError

    def encode_text(
        self, tokens: Tensor, mask: Tensor, languages: Tensor | None = None, adapters: Tensor | None = None
    ) -> Tensor:
        """tokens [N, L, ...], mask bool [N, L], languages and adapters int64 [N] -> float [N, D], unit rows."""
        raise NotImplementedError

    def encode_image_multi(self, images: Tensor, adapters: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """As `encode_image` -> rows [N, D], token rows float [N, P, d] of unit length, and which there are [N, P].

        Raises:
            ValueError: for a model without a head for them.
        """
        raise ValueError(NO_HEAD)

    def encode_text_multi(
        self, tokens: Tensor, mask: Tensor, languages: Tensor | None = None, adapters: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As `encode_text` -> rows [N, D], token rows float [N, L', d] of unit length, and which there are [N, L'].

        Raises:
            ValueError: as above.
        """
        raise ValueError(NO_HEAD)
