"""From rows to shards: choose rows, leave out those that cannot be used, write the others."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from datamodules.curation.filters import CaptionFilter, Length, PictureFilter, SpokenLanguage, read_ids
from datamodules.curation.near import NearCaption, NearPicture, SamePicture
from datamodules.curation.proper_nouns import ProperNouns
from datamodules.files import inside, one_at_a_time, whole_folder
from datamodules.packing.cells import file_of, read_path
from datamodules.packing.filters import filtered
from datamodules.packing.pages import PageLayout
from datamodules.packing.reencoding import reencoded
from datamodules.packing.row import Row
from datamodules.shards.encoding import BadRow, convert, encoded_record, encoded_sample
from datamodules.shards.locations import LISTING
from datamodules.shards.samples import FEATURE_SUFFIX, holds
from datamodules.shards.writing import LISTED_SKIPS, write_shards

SAMPLES_PER_SHARD = 1000
MOST_SPLITS = 20  # named in an error


def pack_rows(
    rows: Iterable[Row | BadRow],
    out: str | Path,
    *,
    images: str | Path,
    split: str | None = None,
    exclude_ids: str | Path | None = None,
    only_ids: str | Path | None = None,
    image_size: int | None = None,
    image_format: Literal["jpeg", "webp"] | None = None,
    quality: int = 90,
    deduplicate: bool = False,
    proper_nouns: Annotated[Mapping[str, str], "[it=MODEL]"] | None = None,
    proper_noun_share: float = 0.8,
    shortest_caption: int = 1,
    longest_caption: int | None = None,
    identify: bool = False,
    near_pictures: int | None = None,
    near_captions: float | None = None,
    samples_per_shard: int = SAMPLES_PER_SHARD,
    workers: int = 1,
    title: str = "packing",
    pages: PageLayout | None = None,
) -> dict:
    """Packs what a reader yields; returns what shards.json says.

    Args:
        rows: The reader's rows, and BadRows for what it could not make into one. A record's "split" travels with it.
        out: Folder for the shards and shards.json.
        images: The folder of the images, which a row cannot lead out of; default on the command line: that of the
            source.
        split: Pack only rows of this split, and BadRows, which belong to every split; default: all.
        exclude_ids: A text file of ids or image names (with or without suffix) to leave out, one a line.
        only_ids: The same of those to pack: a split that is given as a list.
        image_size: Shorter side of images at most, in pixels; larger ones are resized and encoded anew.
        image_format: Encode every image anew; default: only those that are resized, as jpeg.
        quality: Of images encoded anew, 1 to 100.
        deduplicate: Leave out images that were packed before. Each is read twice and takes 100 bytes of memory.
        proper_nouns: For each language spaCy's model, such as it=it_core_news_sm: leave out captions that are mostly
            proper nouns.
        proper_noun_share: Share of a caption's tokens from which on they are.
        shortest_caption: Leave out captions of fewer letters.
        longest_caption: Leave out captions of more letters.
        identify: Leave out captions of 20 letters or more whose language is not that of their tag (py3langid).
        near_pictures: Leave out pictures whose perceptual hash differs in at most so many of 64 bits from one packed
            before, such as 4. Each is read twice.
        near_captions: Leave out captions that share so much of their runs of three letters with one of their language
            packed before, such as 0.8; at least 0.5.
        samples_per_shard: Rows that make one shard.
        workers: Processes; the bytes written do not depend on it.
        title: Of the progress bar.
        pages: Rows as `read_documents` yields them become pictures of pages.

    Rows that cannot be samples (a caption that is no string, a missing or broken image), excluded ones and duplicates
    are left out, counted by cause and listed in shards.json. Raises ValueError, one line, when the source cannot be
    read, there is no row of the split, no sample at all, or no place to write.
    """
    if samples_per_shard < 1 or workers < 1:
        raise ValueError(f"samples_per_shard, workers: {samples_per_shard}, {workers} are too small; at least 1 each")
    if image_size is not None and image_size < 1:
        raise ValueError(f"image_size: {image_size} is no number of pixels; at least 1")
    if image_format not in (None, "jpeg", "webp"):
        raise ValueError(f"image_format: {image_format!r} is unknown; jpeg or webp")
    if not 1 <= quality <= 100:
        raise ValueError(f"quality: {quality} is out of range; 1 to 100")
    folder = Path(images)
    if not folder.is_dir():
        raise ValueError(f"images: {folder} is no folder; where the pictures lie")
    excluded = read_ids(exclude_ids, "exclude_ids") if exclude_ids else frozenset()
    only = read_ids(only_ids, "only_ids") if only_ids else None
    encoding = None if image_size is None and image_format is None else [image_size, image_format, quality]

    splits: set[str] = set()
    chosen = _of_split(rows, split, splits)
    if only is not None:
        chosen = (row for row in chosen if isinstance(row, BadRow) or _names_of(row) & only)
    filters: list[CaptionFilter] = [ProperNouns(proper_nouns, proper_noun_share)] if proper_nouns else []
    if shortest_caption != 1 or longest_caption is not None:
        filters.append(Length(shortest_caption, longest_caption))
    filters += [SpokenLanguage()] if identify else []
    pictures: list[PictureFilter] = [SamePicture()] if deduplicate else []
    pictures += [] if near_pictures is None else [NearPicture(near_pictures)]
    chosen = convert(filtered(chosen, filters), partial(_usable, folder=folder, excluded=excluded))
    for each in pictures:
        chosen = _without_repeated(chosen, folder, each)
    if near_captions is not None:  # last, so that it remembers what is packed alone
        chosen = filtered(chosen, [NearCaption(near_captions)])
    tasks = _tasks(chosen, samples_per_shard, encoding if pages is None else pages.settings)
    first = next(tasks, None)
    if first is None:
        if only is not None:
            raise ValueError(f"only_ids: {only_ids} names no row of the source{' and split' * (split is not None)}")
        if split is None:
            raise ValueError(f"{title}: the source holds no row; at least one")
        raise ValueError(f"{title}: no row with split {split!r}; its splits are {', '.join(sorted(splits)) or 'none'}")
    return write_shards(
        out,
        chain([first], tasks),
        partial(_samples if pages is None else pages.samples, folder),
        files=partial(_files, folder),
        workers=workers,
        title=title,
    )


def pack_once(
    rows: Iterable[Row | BadRow],
    out: Path,
    *,
    images: str | Path,
    split: str | None = None,
    title: str = "packing",
    beside: Callable[[Path], None] | None = None,
) -> None:
    """`pack_rows` into a folder of a cache, where it is not there yet. It appears whole; of several processes one packs
    and the others wait. `beside` writes further files into the folder.
    """
    with one_at_a_time(out):
        if not (out / LISTING).is_file():
            with whole_folder(out) as unfinished:
                if beside is not None:
                    beside(unfinished)
                pack_rows(rows, unfinished, images=images, split=split, title=title)


def digest_of(rows: Iterable[Row | BadRow], images: str | Path, *key: object) -> str:
    """What shards depend on, as a few characters: the rows, size and times of each one's image, and `key`, as JSON.

    So an image that comes, goes or changes makes other shards.
    """
    digest = hashlib.blake2b(json.dumps(key, sort_keys=True).encode(), digest_size=8)
    for row in rows:
        content: object = str(row)
        if isinstance(row, Row):
            stats = [_stat(Path(images), places) for places in (row.images, *((path,) for path in row.files.values()))]
            content = [row.number, row.record, row.images, *stats, *row.files.items()]
        digest.update(json.dumps(content, sort_keys=True).encode())
    return digest.hexdigest()


def _stat(folder: Path, places: Iterable[object]) -> list[int] | None:
    found = _found(folder, places)
    stat = None if found is None else Path(folder, file_of(found)).stat()
    return None if stat is None else [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def _names_of(row: Row) -> set[str]:
    """The row's id, and its images' names with and without suffix."""
    images = [Path(name) for name in row.images if isinstance(name, str)]
    return {str(row.record.get("id")), *(path.name for path in images), *(path.stem for path in images)}


def _of_split(rows: Iterable[Row | BadRow], split: str | None, splits: set[str]) -> Iterator[Row | BadRow]:
    """The rows of the split. The names of the others are added to `splits`, for the error when there is none."""
    for row in rows:
        if isinstance(row, BadRow) or split is None or row.record.get("split") == split:
            yield row
        elif len(splits) < MOST_SPLITS and "split" in row.record:
            splits.add(str(row.record["split"]))


def _usable(
    number: int,
    record: dict,
    images: tuple[str, ...],
    files: Mapping[str, str],
    complete: bool,
    *,
    folder: Path,
    excluded: frozenset[str],
) -> Row:
    """The row with the one image that is there. Raises BadRow for what can be seen without opening an image."""
    _, captions = encoded_record(number, record)
    where = _where(number, record)
    if complete and not captions:
        raise BadRow("no caption" if "captions" in record else "no captions", where)
    if not (complete or images or files or holds(record, captions, ())):
        raise BadRow("no picture and no text", where)
    if not all(isinstance(name, str) for name in images):
        raise BadRow("image is no path", where)
    if excluded & _names_of(Row(number, record, images)):
        raise BadRow("excluded id", where)
    needed = [images] if complete or images else []
    for places in (*needed, *((path,) for path in files.values())):
        if _found(folder, places) is None:
            outside = [name for name in places if not inside(folder, name)]
            cause = "image outside the folder of images" if outside else "missing image"
            raise BadRow(cause, where, next(iter(outside or places), ""))
    image = _found(folder, images)
    return Row(number, record, () if image is None else (image,), files)


def _found(folder: Path, images: Iterable[object]) -> str | None:
    """The first of these images that is there."""
    # isfile, because names out of web addresses may be longer than a file's name can be: not there, not an error
    named = (name for name in images if isinstance(name, str) and inside(folder, name))
    return next((name for name in named if os.path.isfile(folder / file_of(name))), None)


def _without_repeated(rows: Iterable[Row | BadRow], folder: Path, pictures: PictureFilter) -> Iterator[Row | BadRow]:
    # in the one process that hands out the work, so that which row comes first does not depend on the others' speed
    def unseen(number: int, record: dict, images: tuple[str, ...], *further: Any) -> Row:
        where = _where(number, record)
        if images and pictures.repeats(_content(folder, images[0], where), where):
            raise BadRow(pictures.cause, where, images[0])
        return Row(number, record, images, *further)

    return convert(rows, unseen)


def _tasks(rows: Iterable[Row | BadRow], samples_per_shard: int, encoding: list | dict | None) -> Iterator[dict]:
    """What each shard is made from. Rows left out do not count, so shards are full however many images are missing;
    they are told with the shard that they would have been in, the first few by name.
    """

    def empty() -> dict:
        return {"rows": [], "encoding": encoding, "left_out": Counter(), "left_out_rows": []}

    task = empty()
    for row in rows:
        if isinstance(row, BadRow):
            task["left_out"][row.cause] += 1
            task["left_out_rows"] += [str(row)] if len(task["left_out_rows"]) < LISTED_SKIPS else []
            continue
        if len(task["rows"]) == samples_per_shard:
            yield task
            task = empty()
        image = row.images[0] if row.images else None
        task["rows"].append([row.number, row.record, image, *([dict(row.files)] if row.files else [])])
    if task["rows"] or task["left_out"]:
        yield task


def _files(folder: Path, task: dict) -> Iterator[Path]:
    for _, _, image, *further in task["rows"]:
        for path in ([] if image is None else [image], *(files.values() for files in further)):
            yield from (folder / file_of(name) for name in path)


def _samples(folder: Path, task: dict) -> Iterator[dict | BadRow]:
    def sample(number: int, record: dict, image: str | None, files: Mapping[str, str] = MappingProxyType({})) -> dict:
        where, stored = _where(number, record), {}
        for name, path in {"": image, **files}.items():
            if path is not None:
                try:
                    stored[name] = content(name or path, path, where)
                except BadRow as bad:
                    raise BadRow(bad.cause, bad.where, path) from None
        suffix = FEATURE_SUFFIX if image is not None and _features(image) else None
        try:
            return encoded_sample(number, record, stored.pop("", None), suffix, stored)
        except BadRow as bad:
            raise BadRow(bad.cause, bad.where, bad.name or image or "") from None

    def content(kind: str, path: str, where: str) -> bytes:
        read = _content(folder, path, where)
        if task["encoding"] is None or _features(kind):
            return read
        size, image_format, quality = task["encoding"]
        return reencoded(read, where, size=size, image_format=image_format, quality=quality)

    return convert(task["rows"], sample)


def _features(path: str) -> bool:
    return path.lower().endswith(f".{FEATURE_SUFFIX}")


def _content(folder: Path, path: str, where: str) -> bytes:
    try:
        return read_path(folder, path)
    except OSError:  # it was there when the row was chosen
        raise BadRow("missing image", where) from None


def _where(number: int, record: dict) -> str:
    return f"row {number + 1} ({record['id']})"
