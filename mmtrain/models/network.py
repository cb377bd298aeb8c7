"""The interface of every model behind its preprocessing, ours and other libraries'."""

from collections.abc import Mapping
from types import MappingProxyType

from torch import Tensor, nn

from datamodules.tokenizers.tokenizer import check_prompts


class Network(nn.Module):
    """Images and captions as rows of unit length.

    Attributes:
        dimension: D, the width of the rows.
        shared: Whether one tower reads pictures and texts, which the tokenizer draws as pictures.
        reads_by_language: Whether there is a network for each language, so that a caption's language must be known.
        prompts: What stands before texts of a role: "query" searches, "passage" is found.
    """

    dimension: int
    shared: bool = False
    reads_by_language: bool = False
    prompts: Mapping[str, str] = MappingProxyType({})

    def set_prompts(self, prompts: Mapping[str, str]) -> None:
        """Raises ValueError for anything but texts of the known roles."""
        check_prompts(prompts, "model.prompts")
        self.prompts = dict(prompts)

    def encode_image(self, images: Tensor) -> Tensor:
        """uint8 pixels [N, 3, H, W] or float features [N, ...] -> float [N, D], unit rows."""
        raise NotImplementedError

    def encode_text(self, tokens: Tensor, mask: Tensor, languages: Tensor | None = None) -> Tensor:
        """tokens [N, L, ...], mask bool [N, L], languages int64 [N] -> float [N, D], unit rows."""
        raise NotImplementedError
