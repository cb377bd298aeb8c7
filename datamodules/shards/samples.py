"""One sample of a shard: its files to an image, its captions by language, its labels and whatever else it has.

The format is `<key>.jpg|jpeg|png|webp` or `<key>.npy` beside `<key>.json`; either may be missing. Further features are
`<key>.<name>.npy`, further pictures `<key>.<name>.jpg`, `<key>.<name>1.jpg` and so on. Shards of img2dataset and
open_clip, with `.txt` captions, are read as they are.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import re
import unicodedata
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from datamodules.batch import stable_id

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")
FEATURE_SUFFIX = "npy"
IMAGES = frozenset((*IMAGE_SUFFIXES, FEATURE_SUFFIX))
TEXT_FILES = frozenset(("json", "txt"))
SUFFIXES = IMAGES | TEXT_FILES
FURTHER = re.compile(rf"([a-z_]+)(?:\.{FEATURE_SUFFIX}|(?:[1-9]\d*)?\.(?:{'|'.join(IMAGE_SUFFIXES)}))")
PAIR_TEXTS = ("query", "positive", "negatives")  # texts of a record beside its captions
COMMON = frozenset(("image", "texts", "labels", "score", "scores"))  # what a sample may hold beside its fields
TAKEN = COMMON | set(PAIR_TEXTS)  # names of what is no further file
UNSEEN = frozenset(("Cc", "Cf", "Mn", "Me", "Zs", "Zl", "Zp"))  # controls, formats, marks, spaces
FILLERS = frozenset("\u115f\u1160\u2800\u3164\uffa0")  # letters and symbols that show nothing
NPY_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


class BrokenSample(Exception):
    """A sample that cannot be used; `cause` is one of a few fixed phrases, counted in skipped.json."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause


class breaking(contextlib.ContextDecorator):
    """Makes whatever goes wrong with one sample a BrokenSample, so that nothing in a shard can end a run."""

    def __init__(self, cause: str) -> None:
        self._cause = cause

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, BrokenSample):
            raise BrokenSample(self._cause) from None


@dataclass
class Sample:
    """A sample whose record was read and checked; images are still encoded."""

    id: str
    record: dict  # the JSON object, {} without one; "labels" are checked
    captions: dict[str, list[str]]  # language -> at least one caption that is not blank
    labels: dict[str, int | str]
    image: bytes | None  # the encoded picture or the `.npy`
    suffix: str | None  # jpg, jpeg, png, webp or npy
    image_id: int  # without an image that of the sample's id
    files: dict[str, bytes]  # further files by what follows the key: "audio.npy", "photo.jpg", "photo1.jpg"
    drawn_of_tail: list[int] = field(default_factory=list)  # languages of its curated captions of the tail in a batch


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
    """The whole sample; image and captions may be missing. Raises BrokenSample naming the cause."""
    record, captions = read_record(members, text_language)
    suffix = next((suffix for suffix in (*IMAGE_SUFFIXES, FEATURE_SUFFIX) if suffix in members), None)
    image, name, image_id = None if suffix is None else members[suffix], record.get("id"), record.get("image_id")
    name = key if missing(name) else str(name)
    content = name.encode() if image is None else image
    return Sample(
        id=name,
        record=record,
        captions=captions,
        labels=record.get("labels") or {},
        image=image,
        suffix=suffix,
        image_id=stable_id(content if missing(image_id) else str(image_id).encode()),
        files={suffix: content for suffix, content in members.items() if further_name(suffix)},
    )


@breaking("broken JSON")
def read_texts(record: Mapping[str, Any], key: str, language: str = "und") -> list[tuple[str, str]]:
    """(language, text) of what a record holds under a key, such as "query", "positive" or "negatives".

    It is a string, a list of strings, or an object of either by language, as captions are. Blank and missing texts are
    left out. Strings without a language are in the record's "language", else in `language`. Raises BrokenSample for
    anything else.
    """
    texts, spoken = record.get(key), record.get("language")
    if missing(texts):
        return []
    if not isinstance(texts, dict):
        texts = {spoken if isinstance(spoken, str) and spoken else language: texts}
    found = _by_language(texts, f"{key} holds what is no text")
    return [(name, text) for name, of_language in found.items() for text in of_language]


def read_scores(record: Mapping[str, Any], key: str = "scores") -> list[float]:
    """The "score" of a pair, how similar query and positive are, or a reranker's "scores" of the positive texts and
    then of the negatives; [] where there are none.

    Raises BrokenSample for what is no finite number, and for scores that are not one for each of those texts.
    """
    scores = record.get(key)
    if scores is None or scores == []:
        return []
    scores = [scores] if key == "score" else scores
    if not isinstance(scores, list) or not all(map(_finite, scores)):
        raise BrokenSample("score is no finite number" if key == "score" else "scores are no finite numbers")
    if key == "scores" and len(scores) != sum(len(read_texts(record, text)) for text in ("positive", "negatives")):
        raise BrokenSample("scores are not as many as positive and negatives")
    return scores


@breaking("places are no [label, x, y]")
def read_places(record: Mapping[str, Any], task: str) -> list[tuple[int, float, float]]:
    """(label, x, y) of what lies where in the picture: of the record's "places", {task: [[label, x, y], ...]}.

    Labels are whole numbers from 0; x and y are shares of width and height, from the left and from the top. Raises
    BrokenSample for anything else.
    """
    places = (record.get("places") or {}).get(task) or []
    for label, x, y in places:
        if not (type(label) is int and 0 <= label < 2**31 and 0 <= x <= 1 and 0 <= y <= 1):
            raise BrokenSample("places are no [label, x, y]")
    return [(label, float(x), float(y)) for label, x, y in places]


def further_name(suffix: str) -> str | None:
    """The name of a further file by what follows the key, "photo" of "photo1.jpg"; None for any other file."""
    match = FURTHER.fullmatch(suffix)
    return match[1] if match and match[1] not in TAKEN else None


def holds(record: Mapping[str, Any], captions: Mapping[str, object], files: Collection[str]) -> frozenset[str]:
    """What a sample has, by the names that a run needs it under.

    "image" (picture or features), "texts" (a caption), those of "query", "positive", "negatives", "score" and "scores"
    that are there and not blank, and the names of the further files. `files` are named by what follows the key. What
    is there and malformed counts as there: it is broken, not missing.
    """
    found = {name for file in files if (name := further_name(file))}
    found |= {"image"} if not IMAGES.isdisjoint(files) else set()
    found |= {"texts"} if captions else set()
    found |= {key for key in ("score", "scores") if not missing(record.get(key)) and record[key] != []}
    for key in PAIR_TEXTS:
        try:
            found |= {key} if read_texts(record, key) else set()
        except BrokenSample:
            found.add(key)
    return frozenset(found)


def languages_held(
    record: Mapping[str, Any], captions: Mapping[str, object], files: Collection[str], language: str = "und"
) -> dict[str, list[str]]:
    """What a sample `holds`, each with the languages of its texts, [] for what is no text or cannot be read."""
    held = {}
    for what in holds(record, captions, files):
        held[what] = sorted(captions) if what == "texts" else []
        if what in PAIR_TEXTS:
            with contextlib.suppress(BrokenSample):
                held[what] = sorted({spoken for spoken, _ in read_texts(record, what, language)})
    return held


def _decoded(content: bytes) -> str:
    try:
        return content.decode().removeprefix("\ufeff")  # the codec that does so is ten times slower
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
    return _by_language(captions, "caption is no string")


def _by_language(texts: dict, otherwise: str) -> dict[str, list[str]]:
    """Texts by language without blank and missing ones. Raises BrokenSample(otherwise) for what is no text."""
    by_language = {}
    for language, of_language in texts.items():
        shown = []
        for text in of_language if isinstance(of_language, list) else (of_language,):
            if isinstance(text, str):
                shown += [] if blank(text) else [text.strip()]
            elif not missing(text):
                raise BrokenSample(otherwise)
        if shown:
            by_language[language] = shown
    return by_language


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def blank(text: str) -> bool:
    """Whether it shows nothing."""
    if text[:1].isalnum() and text[0] not in FILLERS:  # nearly always, and sooner found out
        return False
    return all(character in FILLERS or unicodedata.category(character) in UNSEEN for character in text)


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
    """A `.npy` as float32 [F], or [P, F] of P tokens; all finite, F and P at least 1. Raises BrokenSample for anything
    else.
    """
    file = io.BytesIO(content)
    # numpy's own reader would make room for as many numbers as the header claims
    shape, fortran, dtype = NPY_HEADERS[np.lib.format.read_magic(file)](file)
    if len(shape) not in (1, 2) or min(shape) < 1 or dtype.kind != "f":
        raise BrokenSample("broken features")
    with np.errstate(over="ignore"):
        features = np.frombuffer(content, dtype, math.prod(shape), file.tell()).astype(np.float32)
    if not np.isfinite(features).all():
        raise BrokenSample("broken features")
    return features.reshape(shape, order="F" if fortran else "C")
