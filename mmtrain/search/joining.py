"""The parts of an embedding as the files of an index, part after part."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datamodules import ShardDataModule
from mmtrain.embedding.parts import EmbeddingParts
from mmtrain.search.index import ITEMS, ROWS
from mmtrain.search.items import ItemWriter
from mmtrain.search.recall import Queries


@dataclass(frozen=True)
class Joined:
    """What is known after joining, by language."""

    captions: dict[str, int]  # how many there are
    texts: dict[str, Queries]  # those that were embedded


def join(parts: EmbeddingParts, folder: Path, shards: ShardDataModule, width: int) -> Joined:
    """Writes rows.npy float32 [N, width] and items.sqlite; samples that show the same picture are one item.

    Items are numbered in the split's order, whoever made the parts.

    Raises:
        ValueError: when no sample could be read.
    """
    item_of_image: dict[int, int] = {}
    for image in parts.image_ids():
        item_of_image.setdefault(image, len(item_of_image))
    if not item_of_image:
        raise ValueError("--data: no sample could be read")
    size = (len(item_of_image), width)
    rows = np.lib.format.open_memmap(folder / ROWS, mode="w+", dtype=np.float32, shape=size)
    writer = ItemWriter(folder / ITEMS)
    captions: Counter[str] = Counter()
    texts: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    written = 0
    for part in parts.read():
        shards.account.add_once(part.skipped)
        items = np.array([item_of_image[image] for image in part.image_ids.tolist()], dtype=np.int64)
        new: list[int] = []  # items are numbered as they come first
        for place, item in enumerate(items.tolist()):
            if item == written + len(new):
                new.append(place)
        rows[written : written + len(new)] = part.images[new]
        written += len(new)
        shown = [
            (item, shards.languages[language], caption)
            for item, each in zip(items.tolist(), part.captions, strict=True)
            for language, caption in each
        ]
        writer.add([(int(items[place]), part.ids[place], part.thumbnails[place]) for place in new], shown)
        captions.update(language for _, language, _ in shown)
        asked = items[np.searchsorted(part.rows, part.text_rows)]
        for language in np.unique(part.text_languages).tolist():
            mine = part.text_languages == language
            texts.setdefault(shards.languages[language], []).append((part.texts[mine], asked[mine]))
    writer.close()
    rows.flush()
    queries = {name: Queries(*map(np.concatenate, zip(*found, strict=True))) for name, found in sorted(texts.items())}
    return Joined(dict(sorted(captions.items())), queries)
