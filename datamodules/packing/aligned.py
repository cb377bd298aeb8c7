"""Text files whose lines belong to the lines of a list of images: Multi30k and XTD10."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from datamodules.packing.rows import Row
from datamodules.packing.texts import LANGUAGE_CODE, language_code, lines
from datamodules.shards.encoding import BadRow

RENAMED = {"jp": "ja"}  # XTD10 writes the country
COCO_TRAINING = "COCO_train2014"


def read_multi30k(source: str | Path) -> Iterator[Row | BadRow]:
    """A task's folder of Multi30k (Elliott et al. 2016): lists of images, and a text file a language beside each.

    The lists are <split>.txt or <split>_images.txt in the folder or its image_splits/; the texts <split>.<language>,
    or <split>.<n>.<language> where an image has several captions, in the folder or its raw/, .gz or not. Lists without
    texts are passed over. Raises ValueError when no list has texts, or a text has not as many lines as its list.
    """
    source = Path(source)
    places = [place for place in (source, source / "image_splits", source / "raw") if place.is_dir()]
    names = {path.name: path for place in places for path in sorted(place.iterdir()) if path.is_file()}
    number = 0
    for name, images in sorted(names.items()):
        if not name.endswith(".txt"):
            continue
        split = name.removesuffix(".txt").removesuffix("_images")
        # the text itself counts before a .gz of it, which people leave behind when they unpack
        texts: dict[str, Path] = {}
        for text in sorted(names):
            if re.fullmatch(rf"{re.escape(split)}(\.\d+)?\.{LANGUAGE_CODE}(\.gz)?", text) and text != name:
                texts.setdefault(text.removesuffix(".gz"), names[text])
        if texts:
            languages = [(language_code(text.rpartition(".")[2]), path) for text, path in texts.items()]
            for image, captions in _aligned(images, languages):
                # test_2017_mscoco writes the number of the caption behind the image: name.jpg#367178
                image = image.partition("#")[0]
                yield Row(number, {"id": PurePosixPath(image).stem, "split": split, "captions": captions}, (image,))
                number += 1
    if not number:
        raise ValueError(f"source: {source} holds no list with texts; like image_splits/train.txt and raw/train.en")


def read_xtd10(source: str | Path, *, without_train2014: bool = False) -> Iterator[Row | BadRow]:
    """XTD10 (Aggarwal and Kale 2020): 1,000 COCO images, one caption in each of 11 languages. There are no splits.

    Args:
        source: Its folder: test_image_names.txt and test_1kcaptions_<language>.txt, in it or in folders of it.
        without_train2014: Leave out COCO's training images: 800 of the 1,000, which most models have been trained on.

    Images may lie together or in train2014/ and val2014/. Raises ValueError when files are missing or not aligned.
    """
    source = Path(source)
    captions = sorted(source.rglob("test_1kcaptions_*.txt"))
    names = sorted(source.rglob("test_image_names.txt"))
    if len(names) != 1 or not captions:
        raise ValueError(
            f"source: {source} holds {len(names)} test_image_names.txt and {len(captions)} test_1kcaptions_*.txt; "
            "one of the first, one of the second for each language"
        )
    texts: dict[str, Path] = {}
    for path in captions:
        code = language_code(path.stem.removeprefix("test_1kcaptions_"))
        language = RENAMED.get(code, code)
        if language in texts:
            raise ValueError(f"source: {path} is a second text of {language}, after {texts[language]}; one a language")
        texts[language] = path
    for number, (image, of_language) in enumerate(_aligned(names[0], list(texts.items()))):
        if without_train2014 and image.startswith(COCO_TRAINING):
            yield BadRow("COCO training image", f"row {number + 1} ({image})")
            continue
        record = {"id": PurePosixPath(image).stem, "captions": of_language}
        yield Row(number, record, (image, f"train2014/{image}", f"val2014/{image}"))


def _aligned(names: Path, texts: Sequence[tuple[str, Path]]) -> Iterator[tuple[str, Mapping[str, list[str]]]]:
    """(image, its captions by language) of each line. Raises ValueError for files of different lengths."""
    images = [line.strip() for line in lines(names)]
    while images and not images[-1]:
        images.pop()
    captions: list[dict[str, list[str]]] = [{} for _ in images]
    for language, path in texts:
        in_language = list(lines(path))
        if len(in_language) < len(images) or any(text.strip() for text in in_language[len(images) :]):
            raise ValueError(f"source: {path} has {len(in_language)} lines, {names} has {len(images)}; as many in both")
        for of_image, text in zip(captions, in_language, strict=False):
            of_image.setdefault(language, []).append(text)
    return zip(images, captions, strict=True)
