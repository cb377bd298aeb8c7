"""What the tests' shards are made of."""

import io
import json
import os
import tarfile

import numpy as np
from PIL import Image

from datamodules.packing import pack_rows, read_jsonl


def png_bytes(number=0, size=(8, 8)):
    """A picture that differs for each number."""
    pixels = np.random.RandomState(number).randint(0, 255, (size[1], size[0], 3)).astype(np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "PNG")
    return encoded.getvalue()


def sample_files(number, captions=None, **more):
    """The files of one good sample, as suffix -> bytes."""
    captions = {"en": f"number {number}", "lv": f"skaitlis {number}"} if captions is None else captions
    record = {"id": f"s{number:03d}", "captions": captions, **more}
    return {"png": png_bytes(number), "json": json.dumps(record).encode()}


def write_tar(path, samples):
    """A tar of samples: key -> files (suffix -> bytes), in order; nothing is checked."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for key, files in samples.items():
            for suffix, content in files.items():
                member = tarfile.TarInfo(f"{key}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return path


def aged(path, seconds=60):
    """The file as if written a minute ago: what changed just now is not kept in the index cache."""
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns - seconds * 10**9))
    return path


def pack_jsonl(manifest, out, **options):
    """The listing of shards packed from JSON Lines; the images lie beside the manifest."""
    return pack_rows(read_jsonl(manifest), out, **{"images": manifest.parent, **options})


def made(task):
    for number in range(task["first"], task["end"]):
        files = sample_files(number, *task["captions"][number - task["first"] : number - task["first"] + 1])
        yield {"__key__": f"{number:09d}", **files}
