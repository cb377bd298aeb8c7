"""Pictures of free size: patches of the whole picture in its own aspect, as SigLIP 2's NaFlex has them.

Letters: N rows, p the side of a patch in pixels.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from typing import Literal

import torch
from PIL import Image
from torch import Tensor

from datamodules.images import ImagePipeline, pixels, resizing

PLACE = 2  # numbers before a patch's pixels: its row and column in the grid, from 1
LONGEST_GRID = 255  # patches on a side, which a byte counts


class NaFlexPipeline(ImagePipeline):
    """From an encoded image to patches uint8 [N, 2 + 3 p^2]: each its row and column from 1, then its pixels, whose
    channels are the innermost; behind the last patch all is zero.

    The picture is scaled as far as at most so many patches cover it, then resized to whole patches: Tschannen et al.
    2025, "SigLIP 2", section 2.4.2. Nothing is cut off, in training neither. So many patches for each picture are the
    token budget of a batch: the data's batch_size times `patches`.

    Args:
        patches: N. Of several, each training batch draws one, the same in all processes; N is then the largest, which
            evaluation takes.
        patch_size: p, that of the tower.
        interpolation: As for ImagePipeline.
        max_pixels: As for ImagePipeline.

    Raises:
        ValueError: for an option out of range.
    """

    def __init__(
        self,
        patches: int | Sequence[int] = 256,
        patch_size: int = 16,
        interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear",
        max_pixels: int = 89_478_485,
    ) -> None:
        counts = [patches] if isinstance(patches, int) else list(patches)
        if not counts or not all(1 <= count <= 4096 for count in counts):
            raise ValueError(f"images.patches: got {patches}, expected a number from 1 to 4,096, or several")
        if not 1 <= patch_size <= 256:
            raise ValueError(f"images.patch_size: {patch_size} is not a number of pixels; 1 to 256")
        self.patches, self.patch_size, self.most = counts, patch_size, max(counts)
        side = patch_size * round(self.most**0.5)
        super().__init__(side, augment=False, interpolation=interpolation, max_pixels=max_pixels)

    def arguments(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in ("patches", "patch_size", "interpolation", "max_pixels")}

    @property
    def shape(self) -> tuple[int, ...]:
        return max(self.patches), PLACE + 3 * self.patch_size**2

    def of_batch(self, rng: random.Random) -> NaFlexPipeline:
        drawn = copy.copy(self)
        drawn.most = rng.choice(self.patches)
        return drawn

    def view(self, image: Image.Image) -> Tensor:
        functional, p = resizing(), self.patch_size
        rows, columns = grid_of(image.width, image.height, self.most)
        method = functional.InterpolationMode(self.interpolation)
        picture = pixels(functional.resize(image, [rows * p, columns * p], interpolation=method))
        patches = picture.view(3, rows, p, columns, p).permute(1, 3, 2, 4, 0).reshape(rows * columns, -1)
        return self.packed(patches, rows, columns)

    def packed(self, patches: Tensor, rows: int, columns: int) -> Tensor:
        """uint8 [N, 2 + 3 p^2] of patches uint8 [rows columns, 3 p^2], row by row."""
        places = torch.cartesian_prod(torch.arange(1, rows + 1), torch.arange(1, columns + 1))
        found = torch.zeros(self.shape, dtype=torch.uint8)
        found[: len(patches)] = torch.cat([places.to(torch.uint8), patches], 1)
        return found

    def in_view(self, image: Image.Image, x: float, y: float) -> tuple[float, float]:
        return x, y


def grid_of(width: int, height: int, most: int) -> tuple[int, int]:
    """Rows and columns of the finest grid of square patches, at most so many, that covers a picture of these sides."""
    # scaled by s, it takes ceil(height s / p) rows; s is as large as one of the two roundings allows
    sides = [(rows, min(most // rows, LONGEST_GRID)) for rows in range(1, min(most, LONGEST_GRID) + 1)]
    scale = max(min(rows * width, columns * height) for rows, columns in sides)  # times width height / p
    return max(1, -(-scale // width)), max(1, -(-scale // height))


def unpacked(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels uint8 [B, N, 3 p^2], places int64 [B, N, 2] (row, column) from 0, and bool [B, N], of packed pictures."""
    there = images[..., 0] > 0
    there[..., 0] = True  # also of a picture that is absent, so that attention has something to attend to
    return images[..., PLACE:], (images[..., :PLACE].long() - 1).clamp(min=0), there
