"""Shards whose samples are of every shape, and what lies in shards."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from webdataset import TarWriter

RECORDS: dict[str, dict] = {
    "both": {"id": "s0", "captions": {"lv": ["viens", " divi "], "en": "one"}, "note": [1, None]},
    "page": {"id": "s1", "captions": {}},
    "text": {"id": "s2", "captions": {"en": ["three", "", "drei"]}},
    "pair": {"id": "s3", "language": "en", "query": "four?", "positive": {"lv": "četri"}, "negatives": ["five", "six"]},
    "broken": {"id": "s4", "captions": {"en": "seven"}},
    "twin": {"id": "s5", "captions": {"en": "eight"}},
}


def picture(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 48, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards of the same keys: a picture with captions, one without, captions alone, a pair, a broken picture, and
    the first picture again.
    """
    folder = tmp_path_factory.mktemp("mixed")
    for shard in range(2):
        pictures = {
            "both": picture(shard),
            "page": picture(2 + shard),
            "broken": picture(0)[:60],
            "twin": picture(shard),
        }
        with TarWriter(str(folder / f"{shard}.tar")) as tar:
            for key, record in RECORDS.items():
                record = record | {"id": f"{record['id']}-{shard}"}
                files = {"__key__": key, "json": json.dumps(record, indent=1).encode()}
                files |= {"png": pictures[key]} if key in pictures else {}
                files |= {"sound.npy": b"unread", "note.md": b"as it is"} if key == "both" else {}
                tar.write(files)
    return folder


def members(folder: Path) -> dict[str, bytes]:
    """The files in all shards of a folder, in their order, by shard and name."""
    found = {}
    for shard in sorted(folder.glob("*.tar")):
        with tarfile.open(shard) as tar:
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None
                found[f"{shard.stem}/{member.name}"] = file.read()
    return found


def rows_in(content: bytes) -> np.ndarray:
    return np.load(io.BytesIO(content), allow_pickle=False)


def whole(folder: Path) -> dict[str, bytes]:
    """A folder's files."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
