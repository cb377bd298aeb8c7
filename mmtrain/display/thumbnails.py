"""Pictures small enough for a table or a page."""

import io

from PIL import Image, ImageDraw
from torch import Tensor

SIDE = 160  # pixels, of the longer side


def thumbnail(pixels: Tensor, name: str) -> bytes:
    """A JPEG of uint8 pixels [3, H, W], as the model sees them; features have no picture, their name stands for it."""
    if pixels.ndim == 3:
        picture = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    else:
        picture = Image.new("RGB", (96, 64), "white")
        ImageDraw.Draw(picture).text((4, 24), name[:14], fill="black")
    picture.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=85)
    return file.getvalue()
