"""A folder of images with a text file beside each."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from datamodules.packing.rows import Row
from datamodules.packing.texts import LANGUAGE_CODE, language_code, open_text
from datamodules.shards.encoding import BadRow

IMAGE_ENDINGS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")
OTHER_IMAGES = re.compile(
    r".+\.(heic|heif|jxl|jp2|svgz?|eps|psd|raw|cr[23w]|nef|arw|dng|ico|tga|p[bgnp]m|xcf)", re.IGNORECASE
)
IN_LANGUAGE = re.compile(rf"(.+)\.({LANGUAGE_CODE})")


def read_folder(source: str | Path, *, language: str = "und") -> Iterator[Row | BadRow]:
    """The images in a folder and its folders, folder by folder in the order of their names. There are no splits.

    Args:
        source: The folder.
        language: Of <name>.txt; <name>.lv.txt says its own.

    Beside <name>.jpg lie <name>.txt, its caption in `language`, and <name>.<code>.txt, its captions in other languages;
    a file is one caption. The id is the path without suffix. Hidden files are passed over; images of other formats,
    texts without an image and linked folders are BadRows. Raises ValueError when the folder holds no picture.
    """
    source = Path(source)
    number = -1
    for place, folders, names in os.walk(source):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        # "._name.jpg" is no image but what macOS notes about one
        names = sorted(name for name in names if not name.startswith("."))
        images = [name for name in names if name.lower().endswith(IMAGE_ENDINGS)]
        others = [name for name in names if OTHER_IMAGES.fullmatch(name)]
        image_of = {
            end: PurePosixPath(name).stem for name in images + others for end in (name, PurePosixPath(name).stem)
        }
        sidecars, left = _sidecars([name for name in names if name.endswith(".txt")], image_of, language)
        for name in images:
            number += 1
            path = PurePosixPath(Path(place, name).relative_to(source).as_posix())
            captions = {
                code: [_text(Path(place, text)) for text in texts] for code, texts in sidecars[path.stem].items()
            }
            yield Row(number, {"id": str(path.with_suffix("")), "captions": captions}, (str(path),))
        links = [name for name in folders if Path(place, name).is_symlink()]
        for cause, which in (
            ("image of a format that is not read", others),
            ("text without an image", left),
            ("linked folder", links),
        ):
            for name in which:
                yield BadRow(cause, Path(place, name).relative_to(source).as_posix())
    if number < 0:
        raise ValueError(f"source: {source} holds no picture; a folder of {', '.join(IMAGE_ENDINGS)}")


def _sidecars(
    texts: Sequence[str], image_of: Mapping[str, str], language: str
) -> tuple[Mapping[str, dict[str, list[str]]], list[str]]:
    """Image's name without suffix -> language -> its text files, and the texts that belong to no image.

    `image_of` gives the image's name without suffix for what stands before .txt or before the language.
    """
    sidecars: dict[str, dict[str, list[str]]] = defaultdict(dict)
    left = []
    for name in texts:
        stem = PurePosixPath(name).stem
        in_language = IN_LANGUAGE.fullmatch(stem)
        # my.cat.txt is the caption of my.cat.jpg before it is the Catalan of my.jpg
        if stem in image_of:
            sidecars[image_of[stem]].setdefault(language, []).append(name)
        elif in_language and in_language[1] in image_of:
            sidecars[image_of[in_language[1]]].setdefault(language_code(in_language[2]), []).append(name)
        else:
            left.append(name)
    return sidecars, left


def _text(path: Path) -> str:
    with open_text(path) as file:
        return file.read()
