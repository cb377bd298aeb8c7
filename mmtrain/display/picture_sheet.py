"""Samples of shards as one HTML file."""

from pathlib import Path
from typing import Any

from datamodules.images import ImagePipeline
from datamodules.shards.inspection import Inspection, Place
from datamodules.shards.samples import FEATURE_SUFFIX, PAIR_TEXTS, Sample, read_texts
from mmtrain.display.html import picture_uri, write_page

SIDE = 320  # pixels of the longer side; smaller pictures are shown as they are
OPEN_CAPTIONS = 4  # of a sample; the others unfold


def write_sheet(path: Path, title: str, inspection: Inspection) -> None:
    """Writes the facts, the broken samples and the examples by language, whole or not at all."""
    cards: dict[Place, dict[str, Any]] = {}
    groups: dict[str, list[dict[str, Any]]] = {}
    for language, places in inspection.examples.items():
        for place, sample in inspection.samples(language):
            if place not in cards:
                cards[place] = _card(place, sample)
        groups[language] = [cards[place] for place in sorted(places)]
    write_page(
        path,
        Path(__file__).with_name("picture_sheet.html.jinja"),
        title=title,
        facts=inspection.facts,
        broken=inspection.broken,
        groups=groups,
        open_captions=OPEN_CAPTIONS,
    )


def _card(place: Place, sample: Sample) -> dict[str, Any]:
    """What the sheet shows of a sample; the picture is a data URI, None for features or nothing."""
    captions = [(language, text) for language, texts in sample.captions.items() for text in texts]
    for key in PAIR_TEXTS:
        captions += [(f"{key} {language}", text) for language, text in read_texts(sample.record, key)]
    picture, facts = None, "no picture"
    if sample.image is not None:
        facts = f"features, {len(sample.image):,} bytes"
        if sample.suffix != FEATURE_SUFFIX:
            image = ImagePipeline().open(sample.image)
            picture = picture_uri(image, SIDE)
            facts = f"{image.width} x {image.height} {image.format}, {len(sample.image):,} bytes"
    shard = "/".join(place.shard.split("/")[-2:])  # the rest of the path is the same for most
    card = {"id": sample.id, "shard": shard, "picture": picture, "facts": facts}
    return card | {"captions": captions, "labels": sample.labels}
