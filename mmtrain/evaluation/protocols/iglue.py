"""WIT and xFlickrCO as IGLUE (Bugliarello et al. 2022) measures them: each language among its own images.

WIT (Srinivasan et al. 2021): reference captions of 6,192 Wikipedia images in eleven languages. Every language has some
of its own, 541 (el) to 889 (ko): pools differ in size, and so do the figures that chance would give.
xFlickrCO: 1,000 Flickr30k and 1,000 COCO images, one caption in each of eight languages.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from datamodules.packing import Row
from datamodules.packing.texts import lines
from datamodules.packing.wit import images_at
from datamodules.shards.encoding import BadRow
from mmtrain.evaluation.protocols.protocol import Protocol, Reference
from mmtrain.evaluation.ranking.pools import own_images

CAPTION = "caption_reference_description"


def read_wit(source: Path) -> Iterator[Row | BadRow]:
    """IGLUE's test_<language>.jsonl in the folder or its annotations/, all captions of an image in one row.

    A line is {"image_idx", "image_url", "caption_reference_description", "language", "page_url", "wit_ix", ...}. An
    image lies under its address as a mirror has it (upload.wikimedia.org/...), or under its last part, with or without
    percent signs decoded. Raises ValueError without files.
    """
    captions: dict[str, dict[str, list[str]]] = {}
    for path in _files(source, "test_*.jsonl", "test_<language>.jsonl; IGLUE's datasets/wit"):
        for values in _values(path, path.name, ("image_url", "language", CAPTION)):
            if isinstance(values, BadRow):
                yield values
                continue
            address, language, caption = values
            mirrored = re.sub(r"^https?://|[?#].*", "", address)
            captions.setdefault(mirrored, {}).setdefault(language, []).append(caption)
    for number, (mirrored, texts) in enumerate(captions.items()):
        name = unquote(mirrored.rpartition("/")[2])
        yield Row(number, {"id": name, "image_url": mirrored, "captions": texts}, images_at(mirrored))


def read_xflickrco(source: Path) -> Iterator[Row | BadRow]:
    """IGLUE's <language>/test.jsonl in the folder or its annotations/, the languages of an image in one row.

    A line is {"sentences": [...], "id": ..., "img_path": "<name>.jpg"}; ids of Flickr and of COCO are numbers that may
    meet, so an image goes by its name. Images lie together, or COCO's in val2014/. Raises ValueError without files.
    """
    captions: dict[str, dict[str, list[str]]] = {}
    for path in _files(source, "*/test.jsonl", "<language>/test.jsonl; IGLUE's datasets/xFlickrCO"):
        language = path.parent.name
        for values in _values(path, f"{language}/{path.name}", ("img_path", "sentences")):
            if isinstance(values, BadRow):
                yield values
                continue
            name, sentences = values
            captions.setdefault(name, {}).setdefault(language, []).extend(sentences)
    for number, (name, texts) in enumerate(captions.items()):
        yield Row(number, {"id": Path(name).stem, "captions": texts}, (name, f"val2014/{name}"))


def _files(source: Path, pattern: str, expected: str) -> list[Path]:
    paths = sorted(source.glob(f"annotations/{pattern}")) or sorted(source.glob(pattern))
    if not paths:
        raise ValueError(f"source: {source} holds no {expected}")
    return paths


def _values(path: Path, title: str, keys: tuple[str, ...]) -> Iterator[list[Any] | BadRow]:
    """The values of the keys in each line of a JSON Lines file."""
    for number, line in enumerate(lines(path), start=1):
        try:
            entry = json.loads(line)
            yield [entry[key] for key in keys]
        except (ValueError, KeyError, TypeError):
            yield BadRow(f"no {', '.join(keys[:-1])} and {keys[-1]}", f"{title} line {number}")


WIT = Protocol(
    name="wit",
    variant="iglue",
    read=read_wit,
    images=6192,
    languages=("en", "ar", "bg", "da", "el", "et", "id", "ja", "ko", "tr", "vi"),
    pools=lambda split: own_images(split.image_of_text, split.language_of_text),
    comparable=(
        Reference(
            "IGLUE, its result files",
            "R@1 text to image, en and the mean of the other ten: mUNITER 19.9, 9.16, M3P 15.5, 8.12; image to text"
            " 22.34, 10.48 and 15.33, 9.98",
            "seen",
        ),
        Reference("CCRK, table 1", "the same mean of ten: CCR10-E 11.11 / 12.62; after re-ranking", "seen"),
        Reference("Srinivasan et al. 2021", "R@1, R@3 and R@5 of their own test split: another pool", "recalled"),
    ),
)
XFLICKRCO = replace(
    WIT,
    name="xflickrco",
    variant="test",
    read=read_xflickrco,
    images=2000,
    languages=("en", "de", "es", "id", "ja", "ru", "tr", "zh"),
    comparable=(
        Reference(
            "IGLUE, its result files",
            "R@1 text to image / image to text, zero-shot mean of seven without en (so: --languages"
            " [de,es,id,ja,ru,tr,zh]): UC2 20.31 / 17.89, xUNITER 14.04 / 13.51",
            "seen",
        ),
        Reference(
            "CCRK, table 1",
            "the same mean: CCLM-3M 64.47 / 62.74, CCR10-E 73.30 / 72.64; after re-ranking the best 128 with a fusion"
            " encoder",
            "seen",
        ),
    ),
)
PROTOCOLS = (XFLICKRCO, WIT)
