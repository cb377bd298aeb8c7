"""One sample of a shard: its files to an image, its captions by language and its labels.

The format is `<key>.jpg|jpeg|png|webp` or `<key>.npy` beside `<key>.json`; shards of img2dataset and open_clip, with
`.txt` captions, are read as they are.
"""

from __future__ import annotations

import io
import json
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from datamodules.batch import stable_id

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")
FEATURE_SUFFIX = "npy"
SUFFIXES = frozenset((*IMAGE_SUFFIXES, FEATURE_SUFFIX, "json", "txt"))
UNSEEN = frozenset(("Cc", "Cf", "Mn", "Me", "Zs", "Zl", "Zp"))  # controls, formats, marks, spaces
FILLERS = frozenset("\u115f\u1160\u2800\u3164\uffa0")  # letters and symbols that show nothing
NPY_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


class BrokenSample(Exception):
    """A sample that cannot be used; `cause` is one of a few fixed phrases, counted in skipped.json."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause


@contextmanager
def breaking(cause: str) -> Iterator[None]:
    """Makes whatever goes wrong with one sample a BrokenSample, so that nothing in a shard can end a run."""
    try:
        yield
    except BrokenSample:
        raise
    except Exception:
        raise BrokenSample(cause) from None


@dataclass
class Sample:
    """A sample whose record was read and checked; the image is still encoded."""

    id: str
    captions: dict[str, list[str]]  # language -> at least one caption that is not blank
    labels: dict[str, int | str]
    image: bytes
    suffix: str
    image_id: int


@breaking("broken JSON")
def read_record(members: Mapping[str, bytes], text_language: str = "und") -> tuple[dict, dict[str, list[str]]]:
    """The JSON object of a sample ({} without one) and its captions by language, blank ones left out.

    A `.txt` counts when the JSON has no "captions"; its language is `text_language`. Without either, img2dataset's
    "caption" in the JSON does. Captions and labels of null or NaN, as tables spell what is missing, are left out; half
    a pair of surrogates, as JSON can spell it, becomes a question mark. Raises BrokenSample when JSON, text, captions
    or labels are malformed.
    """
    record = _parsed(members["json"]) if "json" in members else {}
    if "labels" in record:
        record["labels"] = read_labels(record["labels"])
    if not missing(captions := record.get("captions")):
        return record, _captions(captions)
    return record, _captions({text_language: _decoded(members["txt"]) if "txt" in members else record.get("caption")})


@breaking("broken JSON")
def read_sample(key: str, members: Mapping[str, bytes], text_language: str = "und") -> Sample:
    """The whole sample. Raises BrokenSample naming the cause; a sample without any caption is broken."""
    record, captions = read_record(members, text_language)
    suffix = next((suffix for suffix in (*IMAGE_SUFFIXES, FEATURE_SUFFIX) if suffix in members), None)
    if suffix is None:
        raise BrokenSample("missing image")
    if not captions:
        raise BrokenSample("no caption")
    image, name, image_id = members[suffix], record.get("id"), record.get("image_id")
    return Sample(
        id=key if missing(name) else str(name),
        captions=captions,
        labels=record.get("labels") or {},
        image=image,
        suffix=suffix,
        image_id=stable_id(image if missing(image_id) else str(image_id).encode()),
    )


def _decoded(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BrokenSample("invalid UTF-8") from None


def _parsed(content: bytes) -> dict:
    text = _decoded(content)
    record = json.loads(text)
    if "\\ud" in text or "\\uD" in text:
        record = json.loads(json.dumps(record, ensure_ascii=False).encode(errors="replace"))
    if not isinstance(record, dict):
        raise BrokenSample("JSON is no object")
    return record


def _captions(captions: object) -> dict[str, list[str]]:
    if not isinstance(captions, dict):
        raise BrokenSample("captions are no object")
    by_language = {}
    for language, texts in without_missing(captions).items():
        texts = texts if isinstance(texts, list) else [texts]
        if not all(isinstance(text, str) for text in texts):
            raise BrokenSample("caption is no string")
        texts = [text.strip() for text in texts if not all(map(_unseen, text))]
        if texts:
            by_language[language] = texts
    return by_language


def _unseen(character: str) -> bool:
    return character in FILLERS or unicodedata.category(character) in UNSEEN


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


@breaking("broken features")
def read_features(content: bytes) -> np.ndarray:
    """A `.npy` of one row as float32 [F], F at least 1, all finite. Raises BrokenSample for anything else."""
    file = io.BytesIO(content)
    # numpy's own reader would make room for as many numbers as the header claims
    shape, _, dtype = NPY_HEADERS[np.lib.format.read_magic(file)](file)
    if len(shape) != 1 or shape[0] < 1 or dtype.kind != "f":
        raise BrokenSample("broken features")
    with np.errstate(over="ignore"):
        features = np.frombuffer(content, dtype, shape[0], file.tell()).astype(np.float32)
    if not np.isfinite(features).all():
        raise BrokenSample("broken features")
    return features
