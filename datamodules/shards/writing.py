"""The one writer of shards: deterministic tars, written then renamed, and the shards.json that describes them."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from pathlib import Path

from webdataset import TarWriter

from datamodules.files import whole_file, writing_into
from datamodules.shards.encoding import BadRow
from datamodules.shards.journal import begin_journal, drop_journal, end_journal, finished_shards, note
from datamodules.shards.locations import LISTING
from datamodules.shards.progress import with_progress
from datamodules.shards.samples import IMAGE_SUFFIXES, languages_held, read_labels, read_record

LISTED_SKIPS = 20  # a shard's entry names the first skips and counts the rest


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
        files: task -> the files it reads, None for none; where one was changed since, the shard is made anew.
        workers: Processes; the shards are the same for any number.
        total: How many samples, for the progress bar; None where nobody knows.

    A shard that is already there with the checksum and the task that shards.json names is not written again. A run
    that fails takes its shards back, unless it is the disk that failed: they are kept for the next run, as after a
    kill. Raises ValueError, one line, when the folder cannot be written, holds foreign shards, or is written to by
    another run.
    """
    out, new = Path(out), not Path(out).exists()
    try:
        with writing_into(out):
            return _write_into(out, tasks, make, files, workers, total, title)
    except OSError as error:
        raise ValueError(f"out: {out} cannot be written ({error.strerror or error}); a folder with room") from None
    finally:
        if new and out.is_dir() and not any(out.iterdir()):
            out.rmdir()


def _write_into(
    out: Path, tasks: Iterable[dict], make: MakeSamples, files: NamesFiles, workers: int, total: int | None, title: str
) -> dict:
    finished = finished_shards(out)
    for unfinished in out.glob(".*.part"):
        unfinished.unlink()
    entries: dict[int, dict] = {}
    context = multiprocessing.get_context("fork" if hasattr(os, "fork") else "spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_end_with_parent) if workers > 1 else None
    results = _results(pool, out, tasks, make, files, finished, 2 * workers)
    try:
        with begin_journal(out, finished.values()) as journal:
            for number, entry in with_progress(results, title, total, "samples", lambda done: done[1]["samples"]):
                entries[number] = entry
                if entry["name"] not in finished:
                    note(journal, entry)
        ordered = [entries[number] for number in sorted(entries)]
        if not any(entry["samples"] for entry in ordered):
            causes = ", ".join(Counter(cause for entry in ordered for cause in entry["skipped"]))
            first = "".join(f"; {row}" for entry in ordered[:1] for row in entry["skipped_rows"][:1])
            raise ValueError(f"{title}: no sample could be packed ({causes or 'the source is empty'}){first}")
    except Exception as error:
        _shut(pool)
        for tar in out.glob("*.tar"):
            if tar.name not in finished and not isinstance(error, OSError):
                tar.unlink()
        drop_journal(out)
        raise
    finally:
        _shut(pool)
    foreign = sorted({tar.name for tar in out.glob("*.tar")} - {entry["name"] for entry in ordered})
    if foreign:
        raise ValueError(f"out: {out} holds shards of an earlier, larger pack ({foreign[0]}); an empty folder")
    return end_journal(out, ordered)


def _shut(pool: Executor | None) -> None:
    if pool is not None:
        pool.shutdown(wait=True, cancel_futures=True)


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
        if entry is not None and entry["inputs"] == _inputs(task, files) and _stands(out / name, entry, task, files):
            yield number, entry
            continue
        finished.pop(name, None)
        (out / LISTING).unlink(missing_ok=True)  # it would describe other bytes; the journal says what is there
        if pool is None:
            yield number, write_shard(out, name, task, make, files)
            continue
        running[pool.submit(write_shard, out, name, task, make, files)] = number
        while len(running) >= most:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()
    while running:
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            yield running.pop(future), future.result()


def _inputs(task: dict, files: NamesFiles) -> str:
    sizes = [path.stat().st_size if path.is_file() else -1 for path in (files(task) if files else ())]
    return hashlib.sha256(json.dumps([task, sizes], sort_keys=True).encode()).hexdigest()[:32]


def _stands(shard: Path, entry: dict, task: dict, files: NamesFiles) -> bool:
    """Whether the shard has its bytes, and no file it was made from was changed since: by the time of change that
    nobody can set, because another image may have the same size and an older date.
    """
    begun = shard.stat().st_mtime_ns
    changed = any(path.stat().st_ctime_ns >= begun for path in (files(task) if files else ()) if path.is_file())
    return not changed and entry["checksum"] == _checksum(shard)


def write_shard(out: Path, name: str, task: dict, make: MakeSamples, files: NamesFiles = None) -> dict:
    """Writes one shard, whole or not at all, as `write_shards` does; returns what shards.json says of it."""
    captions, languages, held = Counter[str](), Counter[str](), Counter[str]()
    labels: dict[str, Counter[str]] = {}
    skipped: Counter[str] = Counter(task.get("left_out"))
    listed: list[str] = list(task.get("left_out_rows", ()))
    samples = images = 0
    begun = time.time_ns()
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
                what = languages_held(record, texts, sample.keys())
                held.update(what.keys())
                languages.update({language for of_text in what.values() for language in of_text})
                captions.update({language: len(texts[language]) for language in texts})
                for task_name, value in read_labels(record.get("labels")).items():
                    labels.setdefault(task_name, Counter())[json.dumps(value, ensure_ascii=False)] += 1
        checksum, older = _checksum(path), out / name
        if older.is_file() and _checksum(older) == checksum:  # it stays as it was
            begun = older.stat().st_mtime_ns
        os.utime(path, ns=(begun, begun))  # what changes from here on is not in the shard
        return {
            "name": name,
            "samples": samples,
            "images": images,
            "captions": dict(sorted(captions.items())),
            "languages": dict(sorted(languages.items())),
            "holds": dict(sorted(held.items())),
            "labels": {task: dict(sorted(values.items())) for task, values in sorted(labels.items())},
            "bytes": path.stat().st_size,
            "checksum": checksum,
            "inputs": _inputs(task, files),
            "skipped": dict(sorted(skipped.items())),
            "skipped_rows": listed,
        }


def _checksum(path: Path) -> str:
    with open(path, "rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
