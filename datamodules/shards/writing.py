"""The one writer of shards: deterministic tars, written then renamed, and the shards.json that describes them."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import multiprocessing
import os
import re
import threading
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image
from webdataset import TarWriter

from datamodules.files import whole_file, write_whole
from datamodules.shards.locations import LISTING, read_listing
from datamodules.shards.progress import with_progress
from datamodules.shards.samples import FEATURE_SUFFIX, IMAGE_SUFFIXES, BrokenSample, read_record

FORMAT = 1
OUR_NAME = re.compile(r"shard-\d{6,}\.tar")
LISTED_SKIPS = 20  # a shard's entry names the first skips and counts the rest
UNDECODED = re.compile("[\udc80-\udcff]")  # what "surrogateescape" makes of bytes that are no UTF-8
T = TypeVar("T")
SUFFIX_OF_FORMAT = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "MPO": "jpg"}


class BadRow(Exception):
    """A row that cannot become a sample: `cause` is counted, `where` (line, id) is listed."""

    def __init__(self, cause: str, where: str) -> None:
        super().__init__(f"{where}: {cause}")
        self.cause, self.where = cause, where


def convert(rows: Iterable[Any], make: Callable[..., T]) -> Iterator[T | BadRow]:
    """make(*row) of each row, or the BadRow that it raises. BadRows among the rows pass through."""
    for row in rows:
        try:
            yield row if isinstance(row, BadRow) else make(*row)
        except BadRow as bad:
            yield bad


@contextlib.contextmanager
def opened_image(content: bytes, where: str) -> Iterator[Image.Image]:
    """The encoded image, opened. Raises BadRow for whatever goes wrong with it inside the block."""
    # Pillow's readers raise whatever a damaged file makes them stumble over (SyntaxError, struct.error, IndexError...)
    try:
        with Image.open(io.BytesIO(content)) as image:
            yield image
    except Exception:
        raise BadRow("broken image", where) from None


def encoded_sample(number: int, record: dict, image: bytes, suffix: str | None = None) -> dict:
    """A sample as TarWriter takes it.

    Args:
        number: Its place in the source; makes the key unique and the order readable.
        record: The JSON object; "id" and "captions" are checked.
        image: The encoded image; other formats than jpg, png and webp are stored as png. With suffix "npy", features.

    Raises BadRow when the record breaks the format, or the image's header cannot be read.
    """
    content = encoded_record(number, record)
    if suffix != FEATURE_SUFFIX:
        image, suffix = _stored_image(image, f"row {number + 1} ({record['id']})")
    return {"__key__": f"{number:09d}-{_safe(record['id'])}", "json": content, suffix: image}


def encoded_record(number: int, record: dict) -> bytes:
    """The JSON of a sample. Raises BadRow when its id or captions break the format."""
    where = f"row {number + 1}"
    if not isinstance(record.get("id"), str) or not record["id"]:
        raise BadRow("id is no string", where)
    text = json.dumps(record, ensure_ascii=False, separators=(",", ":"))
    try:
        content = text.encode()
    except UnicodeEncodeError:
        if UNDECODED.search(text):
            raise BadRow("invalid UTF-8", where) from None
        content = text.encode(errors="replace")  # half a pair, as JSON can spell it
    where = f"{where} ({record['id']})"
    try:
        _, captions = read_record({"json": content})
    except BrokenSample as error:
        raise BadRow(error.cause, where) from None
    if "captions" not in record:
        raise BadRow("no captions", where)
    if not captions:
        raise BadRow("no caption", where)
    return content


def _stored_image(content: bytes, where: str) -> tuple[bytes, str]:
    with opened_image(content, where) as image:
        if image.format in SUFFIX_OF_FORMAT:
            return content, SUFFIX_OF_FORMAT[image.format]
        png = io.BytesIO()
        image.save(png, "PNG")
        return png.getvalue(), "png"


def _safe(name: str) -> str:
    """An id as part of a key: without dots, where webdataset ends keys, and slashes, which mean folders in a tar."""
    ascii_name = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9_-]+", "_", ascii_name)[:64]


# A task names everything that one shard is made from, so that another process, or a later run, makes the same shard.
# "left_out" (cause -> rows) and "left_out_rows" (the first by name) tell of rows that were left out before it was made.
MakeSamples = Callable[[dict], Iterable["dict | BadRow"]]
NamesFiles = Callable[[dict], Iterable[Path]] | None


def write_shards(
    out: str | Path,
    tasks: Iterable[dict],
    make: MakeSamples,
    *,
    files: NamesFiles = None,
    workers: int = 1,
    total: int | None = None,
    title: str = "packing",
) -> dict:
    """Writes one shard for each task and shards.json beside them; returns what shards.json says.

    Args:
        out: The folder; made when missing. It must hold no shards but those of an earlier, perhaps killed, run.
        tasks: JSON-able descriptions, one a shard. The same task gives the same bytes.
        make: task -> its samples in order, as `encoded_sample` makes them, and BadRows that are counted instead.
        files: task -> the files it reads, None for none; where one has another size, the shard is made anew.
        workers: Processes; the shards are the same for any number.
        total: How many tasks, for the progress bar.

    A shard that is already there with the checksum and the task that shards.json names is not written again. Raises
    ValueError, one line, when the folder cannot be written or holds foreign shards.
    """
    out = Path(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        finished = _finished(out)
        for unfinished in out.glob(".*.part"):
            unfinished.unlink()
        # a listing from the first moment on says that what lies here is ours, and may be written over
        _write_listing(out, list(finished.values()))
    except OSError as error:
        raise ValueError(f"out: {out} cannot be written ({error.strerror}); a folder that can be written") from None
    entries: dict[int, dict] = {}
    context = multiprocessing.get_context("fork" if hasattr(os, "fork") else "spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_end_with_parent) if workers > 1 else None
    results = _results(pool, out, tasks, make, files, finished, 2 * workers)
    try:
        for number, entry in with_progress(results, title, total):
            entries[number] = entry
            if entry["name"] not in finished:
                # after each shard, so that a run that is killed goes on where it was
                listed = finished | {entries[number]["name"]: entries[number] for number in sorted(entries)}
                _write_listing(out, list(listed.values()))
    except OSError as error:
        raise ValueError(f"out: {out} cannot be written ({error.strerror or error}); a folder with room") from None
    finally:
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)
    ordered = [entries[number] for number in sorted(entries)]
    foreign = sorted({tar.name for tar in out.glob("*.tar")} - {entry["name"] for entry in ordered})
    if foreign:
        raise ValueError(f"out: {out} holds shards of an earlier, larger pack ({foreign[0]}); an empty folder")
    if not any(entry["samples"] for entry in ordered):
        causes = Counter(cause for entry in ordered for cause in entry["skipped"])
        raise ValueError(f"{title}: no sample could be packed ({', '.join(causes) or 'the source is empty'})")
    return _write_listing(out, ordered)


def _end_with_parent() -> None:
    # a parent killed with SIGKILL cannot stop its pool, whose processes would write what is queued, then wait for ever
    def watch(parent: multiprocessing.process.BaseProcess) -> None:
        parent.join()
        os._exit(1)

    if (parent := multiprocessing.parent_process()) is not None:
        threading.Thread(target=watch, args=(parent,), daemon=True).start()


def _results(
    pool: Executor | None,
    out: Path,
    tasks: Iterable[dict],
    make: MakeSamples,
    files: NamesFiles,
    finished: dict[str, dict],
    most: int,
) -> Iterator[tuple[int, dict]]:
    """(number, entry) of each shard as it is done. At most `most` are under way, so memory does not grow."""
    running: dict[Future, int] = {}
    for number, task in enumerate(tasks):
        name = f"shard-{number:06d}.tar"
        entry = finished.get(name)
        if entry is not None and entry["inputs"] == _inputs(task, files) and entry["checksum"] == _checksum(out / name):
            yield number, entry
            continue
        finished.pop(name, None)
        if pool is None:
            yield number, _write_shard(out, name, task, make, files)
            continue
        running[pool.submit(_write_shard, out, name, task, make, files)] = number
        while len(running) >= most:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()
    while running:
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            yield running.pop(future), future.result()


def _inputs(task: dict, files: NamesFiles) -> str:
    sizes = [path.stat().st_size if path.is_file() else -1 for path in (files(task) if files else ())]
    return hashlib.sha256(json.dumps([task, sizes], sort_keys=True).encode()).hexdigest()[:32]


def _write_shard(out: Path, name: str, task: dict, make: MakeSamples, files: NamesFiles) -> dict:
    captions, languages = Counter[str](), Counter[str]()
    labels: dict[str, Counter[str]] = {}
    skipped: Counter[str] = Counter(task.get("left_out"))
    listed: list[str] = list(task.get("left_out_rows", ()))
    samples = images = 0
    with whole_file(out / name, sync=True) as path:
        with path.open("wb") as file, TarWriter(file, user="mmtrain", group="mmtrain", mtime=0, encoder=False) as tar:
            for sample in make(task):
                if isinstance(sample, BadRow):
                    skipped[sample.cause] += 1
                    listed += [str(sample)] if len(listed) < LISTED_SKIPS else []
                    continue
                tar.write(sample)
                record, texts = read_record(sample)
                samples += 1
                images += any(suffix in sample for suffix in IMAGE_SUFFIXES)
                languages.update(texts.keys())
                captions.update({language: len(texts[language]) for language in texts})
                for task_name, value in (record.get("labels") or {}).items():
                    labels.setdefault(task_name, Counter())[json.dumps(value, ensure_ascii=False)] += 1
        return {
            "name": name,
            "samples": samples,
            "images": images,
            "captions": dict(sorted(captions.items())),
            "languages": dict(sorted(languages.items())),
            "labels": {task: dict(sorted(values.items())) for task, values in sorted(labels.items())},
            "bytes": path.stat().st_size,
            "checksum": _checksum(path),
            "inputs": _inputs(task, files),
            "skipped": dict(sorted(skipped.items())),
            "skipped_rows": listed,
        }


def _checksum(path: Path) -> str:
    with open(path, "rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def _finished(out: Path) -> dict[str, dict]:
    """The entries by name of an earlier run's shards.json. Raises ValueError where shards lie without one."""
    listed = read_listing(out / LISTING)
    tars = {tar.name for tar in out.glob("*.tar")}
    foreign = sorted(name for name in tars if listed is None or not OUR_NAME.fullmatch(name))
    if foreign:
        raise ValueError(f"out: {out} holds shards of something else ({foreign[0]}); an empty folder")
    return {name: entry for name, entry in (listed or {}).items() if name in tars}


def _write_listing(out: Path, entries: list[dict]) -> dict:
    captions, skipped = Counter[str](), Counter[str]()
    for entry in entries:
        captions.update(entry["captions"])
        skipped.update(entry["skipped"])
    listing = {
        "format": FORMAT,
        "samples": sum(entry["samples"] for entry in entries),
        "images": sum(entry["images"] for entry in entries),
        "captions": dict(sorted(captions.items())),
        "bytes": sum(entry["bytes"] for entry in entries),
        "skipped": dict(sorted(skipped.items())),
        "shards": entries,
    }
    write_whole(out / LISTING, json.dumps(listing, ensure_ascii=False, indent=1) + "\n")
    return listing
