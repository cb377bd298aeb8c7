"""Samples of shards as one HTML file: it opens offline, on a phone too, and asks for nothing outside itself."""

import base64
import io
import os
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image, ImageOps

from datamodules.images import ImagePipeline, opaque
from datamodules.inspection import Inspection, Place
from datamodules.samples import FEATURE_SUFFIX, Sample

SIDE = 224  # pixels of the longer side; shown smaller, so that they stay sharp
OPEN_CAPTIONS = 4  # of a sample; the others unfold


@dataclass
class Card:
    """A sample as the sheet shows it."""

    id: str
    shard: str
    picture: str | None  # data URI; None for features
    facts: str  # size and format
    captions: list[tuple[str, str]]  # language and text
    labels: dict[str, int | str]


def write_sheet(path: Path, what: str, found: Inspection) -> None:
    """Writes the sheet whole or not at all: the facts, what is broken, and the examples group by group."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    cards: dict[Place, Card] = {}
    groups: dict[str, list[Card]] = {}
    for language in found.examples:
        for place, sample in found.samples(language):
            if place not in cards:
                cards[place] = _card(place, sample)
        groups[language] = [cards[place] for place in sorted(found.examples[language])]
    page = environment.get_template("picture_sheet.html.jinja").render(
        what=what, facts=found.facts, broken=found.broken, groups=groups, open_captions=OPEN_CAPTIONS
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(page, encoding="utf-8", errors="replace")
    unfinished.replace(path)


def _card(place: Place, sample: Sample) -> Card:
    captions = [(language, text) for language, texts in sample.captions.items() for text in texts]
    if sample.suffix == FEATURE_SUFFIX:
        return Card(sample.id, place.shard, None, f"features, {len(sample.image):,} bytes", captions, sample.labels)
    opened = ImagePipeline().open(sample.image)
    facts = f"{opened.width} x {opened.height} {opened.format}, {len(sample.image):,} bytes"
    return Card(sample.id, place.shard, _uri(opened), facts, captions, sample.labels)


def _uri(image: Image.Image) -> str:
    # as training sees it: turned by EXIF, transparency on white
    picture = opaque(ImageOps.exif_transpose(image))
    picture.thumbnail((SIDE, SIDE))
    small = io.BytesIO()
    picture.save(small, "WEBP", quality=72)
    return "data:image/webp;base64," + base64.b64encode(small.getvalue()).decode()
