"""WIT (Srinivasan et al. 2021) as IGLUE measures it: reference captions of Wikipedia pictures in eleven languages.

6,192 pictures in all; every language has some of its own, 541 (el) to 889 (ko), and is ranked among them: pools differ
in size, and so do the figures that chance would give.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from datamodules.packing import Row
from datamodules.packing.texts import lines
from datamodules.packing.wit import images_at
from datamodules.shards.writing import BadRow
from mmtrain.evaluation.protocols.protocol import Protocol, Reference
from mmtrain.evaluation.ranking.pools import own_images

CAPTION = "caption_reference_description"


def read(source: Path) -> Iterator[Row | BadRow]:
    """IGLUE's test_<language>.jsonl in the folder or its annotations/, all captions of a picture in one row.

    A line is {"image_idx", "image_url", "caption_reference_description", "language", "page_url", "wit_ix", ...}. A
    picture lies under its address as a mirror has it (upload.wikimedia.org/...), or under its last part, with or
    without percent signs decoded. Raises ValueError without files.
    """
    found = sorted(source.glob("annotations/test_*.jsonl")) or sorted(source.glob("test_*.jsonl"))
    if not found:
        raise ValueError(f"source: {source} holds no test_<language>.jsonl; IGLUE's datasets/wit")
    records: dict[str, dict[str, list[str]]] = {}
    for path in found:
        for number, line in enumerate(lines(path), start=1):
            try:
                entry = json.loads(line)
                address, language, caption = entry["image_url"], entry["language"], entry[CAPTION]
            except (ValueError, KeyError, TypeError):
                yield BadRow(f"no image_url, language and {CAPTION}", f"{path.name} line {number}")
                continue
            mirrored = re.sub(r"^https?://|[?#].*", "", address)
            records.setdefault(mirrored, {}).setdefault(language, []).append(caption)
    for number, (mirrored, captions) in enumerate(records.items()):
        name = unquote(mirrored.rpartition("/")[2])
        yield Row(number, {"id": name, "image_url": mirrored, "captions": captions}, images_at(mirrored))


IGLUE = Protocol(
    name="wit",
    variant="iglue",
    read=read,
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
PROTOCOLS = (IGLUE,)
