"""Sources that are JSON: our manifests, Karpathy's splits, Crossmodal-3600."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from datamodules.packing.rows import Row
from datamodules.packing.texts import lines, open_text
from datamodules.shards.encoding import BadRow, convert
from datamodules.shards.samples import FEATURE_SUFFIX, PAIR_TEXTS, TAKEN, BrokenSample, read_scores, read_texts


def read_jsonl(source: str | Path) -> Iterator[Row | BadRow]:
    """JSON Lines: a sample's record, and paths: "image", "pictures" and "features".

    "pictures" are {name: path or [path, ...]}, "features" {name: path of a .npy}; a name is of a to z and _. Image and
    captions may be missing. Other keys, "split" among them, travel in the record.

    Raises:
        ValueError: for a file that cannot be read; a row that is none is a BadRow.
    """

    def row(number: int, record: dict) -> Row:
        where, image = f"row {number + 1}", record.pop("image", None)
        files = _further(record.pop("pictures", None), "pictures", where)
        files |= _further(record.pop("features", None), "features", where)
        check_texts(record, where)
        return Row(number, record, () if image is None else (image,), files, complete=False)

    return convert(objects(source), row)


def _further(named: object, kind: str, where: str) -> dict[str, str]:
    """The paths of further pictures or features by what follows the key. Raises BadRow for anything else."""
    files: dict[str, str] = {}
    for name, paths in (named if isinstance(named, dict) else {"": named} if named else {}).items():
        paths = paths if isinstance(paths, list) and kind == "pictures" else [paths]
        if not re.fullmatch("[a-z_]+", name) or name in TAKEN:
            raise BadRow(f"{kind} are no paths by names of a to z and _", where, name)
        if not paths or not all(isinstance(path, str) and path for path in paths):
            raise BadRow(f"{kind} are no paths", where, name)
        if kind == "features":
            files[f"{name}.{FEATURE_SUFFIX}"] = paths[0]
        else:
            files |= {f"{name}{number or ''}": path for number, path in enumerate(paths)}
    return files


def check_texts(record: dict, where: str) -> None:
    """Raises BadRow where a record's query, positive or negatives are no texts, or the scores beside them none."""
    try:
        if any([read_texts(record, key) for key in PAIR_TEXTS]):
            read_scores(record, "score")
            read_scores(record)
    except BrokenSample as error:
        raise BadRow(error.cause, where) from None


def read_crossmodal3600(source: str | Path) -> Iterator[Row | BadRow]:
    """Crossmodal-3600's captions.jsonl (Thapliyal et al. 2022): several captions in each of 36 languages.

    A line holds "image/key", "image/locale" and, under each language, {"caption": [...]} beside tokenised forms, which
    are left out. The image of a key is <key>.jpg. There are no splits.
    """

    def row(number: int, entry: dict) -> Row:
        key = entry.get("image/key")
        if not isinstance(key, str):
            raise BadRow("no image/key", f"row {number + 1}")
        captions = {language: texts.get("caption") for language, texts in entry.items() if isinstance(texts, dict)}
        return Row(number, {"id": key, "locale": entry.get("image/locale"), "captions": captions}, (f"{key}.jpg",))

    return convert(objects(source), row)


def read_karpathy(source: str | Path, *, language: str = "en") -> Iterator[Row | BadRow]:
    """A split of Karpathy and Fei-Fei (2015): dataset_coco.json, dataset_flickr30k.json, and files made like them.

    Args:
        source: The JSON file.
        language: Of the captions.

    {"images": [{"filename", "filepath"?, "split", "sentences": [{"raw"}, ...], "cocoid"?, "imgid"?}, ...]}. A sample's
    id is its image's name without suffix. "restval", the rest of COCO's validation images, counts as train, as in
    the literature. Raises ValueError for a file of another form.
    """
    with open_text(source) as text:
        try:
            images = json.load(text)["images"]
        except (ValueError, RecursionError, TypeError, KeyError, IndexError):
            images = None
    if not isinstance(images, list):
        raise ValueError(
            f'source: {source} is no Karpathy split; JSON like {{"images": [{{"filename", "sentences"}}]}}'
        )
    for number, image in enumerate(images):
        name = image.get("filename") if isinstance(image, dict) else None
        if not isinstance(name, str):
            yield BadRow("no filename", f"row {number + 1}")
            continue
        sentences = image.get("sentences")
        raw = [each.get("raw") for each in sentences if isinstance(each, dict)] if isinstance(sentences, list) else []
        record: dict = {"id": PurePosixPath(name).stem}
        record |= {key: image[key] for key in ("split", "cocoid", "imgid") if key in image}
        if record.get("split") == "restval":
            record["split"] = "train"
        record["captions"] = {language: raw}
        yield Row(number, record, (f"{image['filepath']}/{name}", name) if image.get("filepath") else (name,))


def objects(source: str | Path) -> Iterator[tuple[int, dict] | BadRow]:
    """(line from 0, object) of JSON Lines. Blank lines are passed over."""
    for number, line in enumerate(lines(source)):
        if line.strip():
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                record = None
            yield (number, record) if isinstance(record, dict) else BadRow("no JSON object", f"row {number + 1}")
