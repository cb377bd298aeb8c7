"""xFlickrCO (IGLUE, Bugliarello et al. 2022): 1,000 Flickr30k and 1,000 COCO pictures, one caption in each of eight
languages.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from datamodules.packing import Row
from datamodules.packing.texts import lines
from datamodules.shards.writing import BadRow
from mmtrain.evaluation.protocols.protocol import Protocol, Reference
from mmtrain.evaluation.ranking.pools import own_images


def read(source: Path) -> Iterator[Row | BadRow]:
    """IGLUE's <language>/test.jsonl in the folder or its annotations/, the languages of a picture in one row.

    A line is {"sentences": [...], "id": ..., "img_path": "<name>.jpg"}; ids of Flickr and of COCO are numbers that may
    meet, so a picture goes by its name. Pictures lie together, or COCO's in val2014/. Raises ValueError without files.
    """
    found = sorted(source.glob("annotations/*/test.jsonl")) or sorted(source.glob("*/test.jsonl"))
    if not found:
        raise ValueError(f"source: {source} holds no <language>/test.jsonl; IGLUE's datasets/xFlickrCO")
    captions: dict[str, dict[str, list[str]]] = {}
    for path in found:
        for number, line in enumerate(lines(path), start=1):
            try:
                entry = json.loads(line)
                name, sentences = entry["img_path"], entry["sentences"]
            except (ValueError, KeyError, TypeError):
                yield BadRow("no img_path and sentences", f"{path.parent.name}/{path.name} line {number}")
                continue
            captions.setdefault(name, {}).setdefault(path.parent.name, []).extend(sentences)
    for number, (name, texts) in enumerate(captions.items()):
        yield Row(number, {"id": Path(name).stem, "captions": texts}, (name, f"val2014/{name}"))


TEST = Protocol(
    name="xflickrco",
    variant="test",
    read=read,
    images=2000,
    languages=("en", "de", "es", "id", "ja", "ru", "tr", "zh"),
    pools=lambda split: own_images(split.image_of_text, split.language_of_text),
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
PROTOCOLS = (TEST,)
