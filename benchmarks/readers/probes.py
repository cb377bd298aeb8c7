"""What the programs beside this file read and write."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

FOLDER, PROBES = Path(sys.argv[1]), Path(sys.argv[2])
captions: list[str] = json.loads((PROBES / "captions.json").read_text(encoding="utf-8"))
pictures = [Image.open(path) for path in sorted(PROBES.glob("*.png"))]


def parts(items: list, size: int = 32) -> Iterator[list]:
    return (items[start : start + size] for start in range(0, len(items), size))


def square(picture: Image.Image, size: int, resampling: int) -> np.ndarray:
    """The shorter side scaled to `size`, the centre cut out: uint8 [3, size, size]."""
    width, height = picture.size
    short = min(width, height)
    scaled = (int(size * width / short), int(size * height / short))
    left, top = (round((side - size) / 2) for side in scaled)
    whole = picture.convert("RGB").resize(scaled, Image.Resampling(resampling))
    return np.asarray(whole.crop((left, top, left + size, top + size))).transpose(2, 0, 1)


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def save(image: np.ndarray, text: np.ndarray) -> None:
    ours = [name for name in sys.modules if name.split(".")[0] in ("mmtrain", "datamodules", "losses")]
    assert not ours, f"{ours[0]} was imported"
    for name, rows in (("image", image), ("text", text)):
        (PROBES / f"{name}.rows").write_text(json.dumps(rows.tolist()))
