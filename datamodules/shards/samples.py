"""One sample of a shard: its files to an image, its captions by language and its labels.

The format is `<key>.jpg|jpeg|png|webp` or `<key>.npy` beside `<key>.json`; shards of img2dataset and open_clip, with
`.txt` captions, are read as they are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from datamodules.batch import stable_id

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")
FEATURE_SUFFIX = "npy"


class BrokenSample(Exception):
    """A sample that cannot be used; `cause` is one of a few fixed phrases, counted in skipped.json."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause


@dataclass
class Sample:
    """A sample whose record was read and checked; the image is still encoded."""

    id: str
    captions: dict[str, list[str]]  # language -> at least one caption that is not blank
    labels: dict[str, int | str]
    image: bytes
    suffix: str
    image_id: int


def read_record(members: Mapping[str, bytes], text_language: str = "und") -> tuple[dict, dict[str, list[str]]]:
    """The JSON object of a sample ({} without one) and its captions by language, blank ones left out.

    A `.txt` counts when the JSON has no "captions"; its language is `text_language`. Without either, img2dataset's
    "caption" in the JSON does. Raises BrokenSample when JSON or text is malformed.
    """
    record = _parsed(members["json"]) if "json" in members else {}
    if "captions" in record:
        return record, _captions(record["captions"])
    text = _decoded(members["txt"]) if "txt" in members else record.get("caption")
    if text is None:
        return record, {}
    if not isinstance(text, str):
        raise BrokenSample("caption is no string")
    return record, {text_language: [text.strip()]} if text.strip() else {}


def read_sample(key: str, members: Mapping[str, bytes], text_language: str = "und") -> Sample:
    """The whole sample. Raises BrokenSample naming the cause; a sample without any caption is broken."""
    record, captions = read_record(members, text_language)
    suffix = next((suffix for suffix in (*IMAGE_SUFFIXES, FEATURE_SUFFIX) if suffix in members), None)
    if suffix is None:
        raise BrokenSample("missing image")
    if not captions:
        raise BrokenSample("no caption")
    image, image_id = members[suffix], record.get("image_id")
    return Sample(
        id=str(record.get("id", key)),
        captions=captions,
        labels=read_labels(record.get("labels")),
        image=image,
        suffix=suffix,
        image_id=stable_id(image if image_id is None else str(image_id).encode()),
    )


def _decoded(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BrokenSample("invalid UTF-8") from None


def _parsed(content: bytes) -> dict:
    try:
        record = json.loads(_decoded(content))
    except (ValueError, RecursionError):
        raise BrokenSample("broken JSON") from None
    if not isinstance(record, dict):
        raise BrokenSample("JSON is no object")
    return record


def _captions(captions: object) -> dict[str, list[str]]:
    if not isinstance(captions, dict):
        raise BrokenSample("captions are no object")
    by_language = {}
    for language, texts in captions.items():
        if missing(texts):
            continue
        texts = texts if isinstance(texts, list) else [texts]
        if not all(isinstance(text, str) for text in texts):
            raise BrokenSample("caption is no string")
        texts = [text.strip() for text in texts if text.strip()]
        if texts:
            by_language[language] = texts
    return by_language


def read_labels(labels: object) -> dict[str, int | str]:
    """The labels of a record by task: null and NaN, as tables are exported, are no label, and 1.0 is 1.

    Raises BrokenSample for anything else that is neither a whole number of 64 bits nor a string.
    """
    if missing(labels):
        return {}
    if not isinstance(labels, dict):
        raise BrokenSample("labels are no object")
    labels = {
        task: int(value) if isinstance(value, float) and value.is_integer() else value
        for task, value in labels.items()
        if not missing(value)
    }
    for value in labels.values():
        if not isinstance(value, int | str) or isinstance(value, bool):
            raise BrokenSample("label is neither whole number nor string")
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise BrokenSample("label is out of range")
    return labels


def without_missing(captions: dict) -> dict:
    """Captions by language without those that are null or NaN."""
    texts = {
        language: [text for text in texts if not missing(text)] if isinstance(texts, list) else texts
        for language, texts in captions.items()
    }
    return {language: of_language for language, of_language in texts.items() if not missing(of_language)}


def missing(value: object) -> bool:
    """Whether it is null, or the NaN that stands for it where tables are exported."""
    return value is None or value != value
