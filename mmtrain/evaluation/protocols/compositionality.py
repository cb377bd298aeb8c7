"""MIEB's compositionality sets of one picture: SugarCrepe (Hsieh et al. 2023) and ARO (Yuksekgonul et al. 2023).

Parquet files of a picture, its right caption and one to four wrong ones: a word replaced, added or swapped, or all
in another order. --data is one data set or a folder of several, which become the groups of the figures. A model that
takes no notice of order finds right and wrong equal, so the right one is offered last: a tie counts as wrong.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datamodules.batch import stable_id
from datamodules.packing import Row
from datamodules.packing.cells import cell, columns_of, read_path
from mmtrain.evaluation.protocols.pages import rows_of
from mmtrain.evaluation.protocols.protocol import Protocol, Reference

PICTURES = ("images", "image")
CAPTIONS = {
    "wrong": ("negative_caption", "false_caption", "hard_text_1"),
    **{f"wrong {number}": (f"hard_text_{number}",) for number in (2, 3, 4)},
    "right": ("caption", "correct_caption", "true_caption"),
}


def captioned(source: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Cell of the picture and captions of each row. Raises ValueError, one line, for a folder without such tables."""
    files = sorted(source.rglob("*.parquet"))
    if not files:
        raise ValueError(f"--data: {source} holds no parquet file; the folder of SugarCrepe or ARO, or of several")
    for file in files:
        picture = next((name for name in PICTURES if name in columns_of(file)), "")
        if not picture:
            raise ValueError(f"--data: {file} has no column {' or '.join(PICTURES)}")
        for place, row in enumerate(rows_of(file, CAPTIONS, "wrong", "right")):
            yield cell(file.relative_to(source).as_posix(), picture, place), row


def read(source: Path) -> Iterator[Row]:
    """The pictures, each once: {"id": its first cell}."""
    seen: set[int] = set()
    for image, _ in captioned(source):
        content = stable_id(read_path(source, image))
        if content not in seen:
            yield Row(len(seen), {"id": image}, (image,), complete=False)
            seen.add(content)


def questions(source: Path) -> Iterator[dict[str, Any]]:
    """Which caption is right? The captions of each row, the right one last."""
    for image, row in captioned(source):
        choices = [row[name] for name in CAPTIONS if row.get(name)]
        folders = [part for part in Path(image).parts[:-1] if part != "data"]
        question = {"id": image, "language": "en", "images": [image], "choices": choices, "answer": len(choices) - 1}
        yield question | ({"group": folders[0]} if folders else {})


ALL = Protocol(
    name="mieb",
    variant="compositionality",
    read=read,
    questions=questions,
    images=None,
    languages=None,
    comparable=(
        Reference(
            "MTEB, SugarCrepe, AROVisualRelation, AROVisualAttribution, AROCocoOrder, AROFlickrOrder",
            "text_acc x 100 of each data set by itself: our accuracy of its group; of equal captions MTEB"
            " takes the first, which is the right one, and we a wrong one",
            "seen",
        ),
    ),
)
PROTOCOLS = (ALL,)
