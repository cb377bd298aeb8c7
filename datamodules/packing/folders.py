"""A folder of images with a text file beside each."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from datamodules.packing.rows import Row
from datamodules.packing.texts import LANGUAGE_CODE, open_text

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
IN_LANGUAGE = re.compile(rf"(.+)\.({LANGUAGE_CODE})")


def read_folder(source: str | Path, *, language: str = "und") -> Iterator[Row]:
    """The images in a folder and its folders, folder by folder in the order of their names. There are no splits.

    Args:
        source: The folder.
        language: Of <name>.txt; <name>.lv.txt says its own.

    Beside <name>.jpg lie <name>.txt, its caption in `language`, and <name>.<code>.txt, its captions in other languages;
    a file is one caption. The id is the path without suffix. Hidden files are passed over. Raises ValueError when the
    folder holds no picture.
    """
    source = Path(source)
    number = -1
    for place, folders, names in os.walk(source):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        # "._name.jpg" is no image but what macOS notes about one
        names = sorted(name for name in names if not name.startswith("."))
        images = [name for name in names if name.lower().endswith(IMAGE_ENDINGS)]
        sidecars = _sidecars(names, {PurePosixPath(name).stem for name in images}, language)
        for name in images:
            number += 1
            path = PurePosixPath(Path(place, name).relative_to(source).as_posix())
            captions = {
                code: [_text(Path(place, text)) for text in texts] for code, texts in sidecars[path.stem].items()
            }
            yield Row(number, {"id": str(path.with_suffix("")), "captions": captions}, (str(path),))
    if number < 0:
        raise ValueError(f"source: {source} holds no picture; a folder of {', '.join(IMAGE_ENDINGS)}")


def _sidecars(names: Sequence[str], images: set[str], language: str) -> Mapping[str, dict[str, list[str]]]:
    """Image's name without suffix -> language -> its text files."""
    sidecars: dict[str, dict[str, list[str]]] = defaultdict(dict)
    for name in names:
        stem, text = PurePosixPath(name).stem, name.endswith(".txt")
        # my.cat.txt is the caption of my.cat.jpg before it is the Catalan of my.jpg
        if text and stem in images:
            sidecars[stem].setdefault(language, []).append(name)
        elif text and (match := IN_LANGUAGE.fullmatch(stem)):
            sidecars[match[1]].setdefault(match[2], []).append(name)
    return sidecars


def _text(path: Path) -> str:
    with open_text(path) as file:
        return file.read()
