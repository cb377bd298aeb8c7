"""Images small enough for a table or a page."""

import io

from PIL import Image, ImageDraw
from torch import Tensor

SIDE = 160  # pixels of the longer side


def thumbnail(pixels: Tensor, name: str) -> bytes:
    """A JPEG of uint8 pixels [3, H, W]; of features [W], which have no image, a JPEG of their name."""
    if pixels.ndim == 3:
        image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    else:
        image = Image.new("RGB", (96, 64), "white")
        ImageDraw.Draw(image).text((4, 24), name[:14], fill="black")
    image.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    return file.getvalue()
