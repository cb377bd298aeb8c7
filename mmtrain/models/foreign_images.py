"""Other libraries' preprocessing as an image pipeline: all of it but a gain and a shift, which are the model's."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datamodules import ImagePipeline, NaFlexPipeline

# pictures that preprocessing is tried on: square, wide, tall, larger than any model's input
TRIED = ((48, 48), (90, 45), (61, 80), (700, 500))


class ForeignImages(ImagePipeline):
    """Their preprocessing up to its last step, a gain and a shift a channel, which are the model's.

    Args:
        render: All that their library does to an RGB image -> float [3, H, W].

    Attributes:
        gain, shift: float [3, 1, 1]: what they give is gain * pixels + shift, for pixels from 0 to 255.

    Raises:
        ValueError: where it does something else than resizing, cropping, and one gain and shift a channel.
    """

    def __init__(self, render: Callable[[Image.Image], Tensor]) -> None:
        self._render = render
        black, white = (render(Image.new("RGB", (64, 64), colour)) for colour in ("black", "white"))
        _, height, width = self._shape = black.shape[0], black.shape[1], black.shape[2]
        super().__init__(size=width, augment=False)
        middle = (..., slice(height // 2, height // 2 + 1), slice(width // 2, width // 2 + 1))
        self.shift = black[middle].clone()
        self.gain = (white[middle] - self.shift) / 255
        for size in TRIED:
            noise = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
            image = Image.fromarray(noise)
            theirs = render(image)
            if theirs.shape != self._shape:
                raise ValueError("its preprocessing gives pictures of free size; one of fixed resolution can be read")
            rest = (theirs - self.view(image) * self.gain - self.shift) / self.gain
            if not rest.abs().max() <= 0.01:  # of 255 steps
                raise ValueError("its preprocessing is more than resizing, cropping, and one gain and shift a channel")

    @property
    def shape(self) -> tuple[int, int, int]:
        return self._shape

    def view(self, image: Image.Image) -> Tensor:
        return ((self._render(image) - self.shift) / self.gain).round().clamp(0, 255).to(torch.uint8)


class ForeignPatches(NaFlexPipeline):
    """Their preprocessing of pictures of free size, up to the same last step.

    Args:
        render: All that their library does to an RGB image -> float patches [rows columns, 3 p^2], rows and columns.
        patches: The most that it gives.
        patch_size: p.

    Attributes:
        gain, shift: As of ForeignImages.

    Raises:
        ValueError: where it does something else than resizing, and one gain and shift a channel.
    """

    def __init__(self, render: Callable[[Image.Image], tuple[Tensor, int, int]], patches: int, patch_size: int) -> None:
        super().__init__(patches, patch_size)
        self._render = render
        black, white = (
            render(Image.new("RGB", (64, 64), colour))[0][0, :3, None, None] for colour in ("black", "white")
        )
        self.shift, self.gain = black, (white - black) / 255
        for size in TRIED:
            noise = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
            levels = self._levels(render(Image.fromarray(noise))[0])
            if not (levels - levels.round()).abs().max() <= 0.01:
                raise ValueError("its preprocessing is more than resizing, and one gain and shift a channel")

    def _levels(self, patches: Tensor) -> Tensor:
        """From 0 to 255."""
        return ((patches.unflatten(1, (-1, 3)) - self.shift.view(3)) / self.gain.view(3)).flatten(1)

    def view(self, image: Image.Image) -> Tensor:
        patches, rows, columns = self._render(image)
        return self.packed(self._levels(patches).round().clamp(0, 255).to(torch.uint8), rows, columns)


def patches_of_open_clip(network: Any, side: int) -> tuple[ForeignPatches, Callable[..., Tensor]]:
    """As many patches as its image_size has, by timm's transforms; what open_clip hands on is timm's dict."""
    import open_clip
    from timm.data.naflex_transforms import Patchify, ResizeToSequence
    from torchvision import transforms

    settings = open_clip.get_model_preprocess_cfg(network)
    size = settings["size"] if isinstance(settings["size"], int) else settings["size"][0]
    most = (size // side) ** 2
    steps = transforms.Compose(
        [
            ResizeToSequence(side, most, interpolation=settings["interpolation"]),
            transforms.ToTensor(),
            transforms.Normalize(settings["mean"], settings["std"]),
            Patchify(side),
        ]
    )

    def render(image: Image.Image) -> tuple[Tensor, int, int]:
        found = steps(image)
        rows, columns = (found["patch_coord"].amax(0) + 1).tolist()
        return found["patches"], rows, columns

    def image(patches: Tensor, places: Tensor, there: Tensor) -> Tensor:
        return network.encode_image({"patches": patches, "patch_coord": places, "patch_valid": there})

    return ForeignPatches(render, most, side), image
