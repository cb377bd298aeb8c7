"""One tower for both inputs: texts that a tokenizer renders as pictures are read by the image tower."""

from torch import Tensor
from torch.nn import functional

from mmtrain.towers.tower import ImageTower, TextTower


class SharedText(TextTower):
    """The image tower as a text tower (CLIPPO, Tschannen et al., CVPR 2023). It has no weights of its own.

    forward(tokens uint8 [N, h, side] grey pixels, mask bool [N, h] of the rows used) pads the page below with blank
    rows to the square that the image tower sees.

    Args:
        image: The image tower, which owns the weights.
        blank: Grey of an empty page.
    """

    vocabulary_size = 2**31  # any pixel is a token

    def __init__(self, image: ImageTower, blank: int = 255) -> None:
        super().__init__()
        self._image = (image,)  # not a submodule: the weights are counted, saved and trained once
        self.blank, self.width = blank, image.width

    def forward(self, tokens: Tensor, mask: Tensor, languages: Tensor | None = None) -> tuple[Tensor, Tensor]:
        side = tokens.shape[2]
        rows = tokens.masked_fill(~mask[..., None], self.blank)  # what pads a batch is black
        page = functional.pad(rows, (0, 0, 0, side - tokens.shape[1]), value=self.blank)
        return self._image[0](page[:, None].expand(-1, 3, -1, -1))
