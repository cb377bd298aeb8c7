"""`mmtrain pack`: the command line of the packers in datamodules."""

import argparse
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ParseList = Callable[[str], list[str]]


def add_arguments(parser: argparse.ArgumentParser, parse_list: ParseList) -> None:
    """One sub-command a source; `options.pack` is the function that runs it."""

    def columns(text: str) -> dict[str, list[str]]:
        return _columns(parse_list(text))

    formats = parser.add_subparsers(dest="format", metavar="FORMAT", required=True, parser_class=type(parser))

    _source(formats, "jsonl", _jsonl, 'JSON Lines: a sample\'s record and "image", a path', "FILE", split=True)

    table = _source(formats, "csv", _table, "CSV or TSV with a row of column names", "FILE", split=True, alias="tsv")
    table.add_argument(
        "--captions",
        type=columns,
        required=True,
        metavar="[en=COLUMN,lv=COLUMN]",
        help="the column of each language; a language may have several",
    )
    table.add_argument("--image", default="image", metavar="COLUMN", help="path of the picture (default: %(default)s)")
    table.add_argument("--id", metavar="COLUMN", help="default: id, else the picture's path")
    table.add_argument("--split_column", metavar="COLUMN", help="default: split, where there is one")
    table.add_argument(
        "--labels",
        type=columns,
        default={},
        metavar="[task=COLUMN]",
        help="the column of each task's label",
    )
    table.add_argument("--separator", metavar="C", help="one character, or tab (default: tab for .tsv, else a comma)")
    table.add_argument("--unquoted", action="store_true", help='take " as it stands: for files written without quoting')

    karpathy = _source(formats, "karpathy", _karpathy, "Karpathy's split of COCO, Flickr30k ...", "JSON", split=True)
    karpathy.add_argument("--language", default="en", help="of the captions (default: %(default)s)")

    _source(formats, "multi30k", _multi30k, "Multi30k's text files beside lists of pictures", "FOLDER", split=True)

    _source(formats, "xm3600", _crossmodal3600, "Crossmodal-3600's captions.jsonl", "FILE")

    wit = _source(formats, "wit", _wit, "WIT's TSV files, with pictures in a local folder", "FILE|FOLDER", split=True)
    wit.add_argument(
        "--caption_fields",
        type=parse_list,
        default=["reference", "attribution", "alt"],
        metavar="[reference,attribution,alt]",
        help="what becomes a caption, in this order; also page, section, title",
    )
    wit.add_argument("--first", action="store_true", help="only the first of these fields that is filled")

    xtd10 = _source(formats, "xtd10", _xtd10, "XTD10's text files in eleven languages", "FOLDER")
    xtd10.add_argument("--without_train2014", action="store_true", help="leave out COCO's training pictures (800)")

    folder = _source(formats, "folder", _folder, "a folder of pictures, each with a .txt beside it", "FOLDER")
    folder.add_argument("--language", default="und", help="of <name>.txt; <name>.lv.txt says its own (default: und)")

    tir = _source(formats, "tir", _tir, "labels of tweets' image-text relations (textimage.csv)", "FILE")
    tir.add_argument("--texts", required=True, metavar="DIR|FILE", help="<tweet_id>.txt files, or a CSV or TSV")
    tir.add_argument("--text_id", default="tweet_id", metavar="COLUMN", help="of that table (default: %(default)s)")
    tir.add_argument("--text", default="text", metavar="COLUMN", help="of that table (default: %(default)s)")
    tir.add_argument("--language", default="en", help="of the texts (default: %(default)s)")

    four = _source(
        formats, "four_classes", _four_classes, "a table of posts with a relation 0 to 3", "FILE", split=True
    )
    four.add_argument(
        "--captions",
        type=columns,
        metavar="[lv=COLUMN,en=COLUMN]",
        help="the column of each language",
    )
    four.add_argument(
        "--texts",
        type=columns,
        default={},
        metavar="[lv=DIR,en=DIR]",
        help="folders of <id>.txt, where the table has no texts",
    )
    four.add_argument("--label", default="label", metavar="COLUMN", help="of the class (default: %(default)s)")
    four.add_argument("--image", default="image", metavar="COLUMN", help="of the picture's path or id")
    four.add_argument(
        "--coding",
        type=parse_list,
        metavar="[CLASS,CLASS,CLASS,CLASS]",
        help="what 0 to 3 mean (default: represented,represented+adds,not_represented,not_represented+adds)",
    )

    _source(
        formats, "stories", _stories, "picture stories: whose text is it, the page's or another's", "FILE", split=True
    )

    numbers = _format(formats, "numbers", _numbers, "the embedded corpus: handwritten numbers in many languages")
    numbers.add_argument("--split", choices=("train", "val", "test"), required=True)
    numbers.add_argument("--languages", type=parse_list, metavar="[en,lv]", help="default: every language there is")
    numbers.add_argument("--renderings", type=int, help="pictures of each number (default: 16 to train on, else 1)")
    numbers.add_argument("--posts", action="store_true", help="posts with relation labels: two sets of numbers each")


def run(options: argparse.Namespace) -> None:
    """Packs and prints what came out."""
    facts = options.pack(options)
    languages, causes = facts["captions"], facts["skipped"]
    left_out = ", ".join(f"{rows:,} {cause}" for cause, rows in causes.items())
    print(
        f"{options.out}: {facts['samples']:,} samples, {facts['images']:,} images, {sum(languages.values()):,} captions"
        f" in {len(languages)} languages, {facts['bytes'] / 2**20:.1f} MiB in {len(facts['shards'])} shards"
        + (f"; {sum(causes.values()):,} rows left out ({left_out}), listed in shards.json" if causes else "")
    )


def _format(formats: Any, name: str, pack: Callable, text: str, alias: str | None = None) -> argparse.ArgumentParser:
    described = text[0].upper() + text[1:] + "."
    parser = formats.add_parser(name, aliases=[alias] if alias else [], help=text, description=described)
    parser.add_argument("--out", required=True, metavar="DIR", help="gets the shards and shards.json")
    parser.add_argument("--samples_per_shard", type=int, default=1000, metavar="N")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="default: %(default)s")
    parser.set_defaults(pack=pack)
    return parser


def _source(
    formats: Any,
    name: str,
    pack: Callable[[argparse.Namespace], dict],
    text: str,
    metavar: str,
    split: bool = False,
    alias: str | None = None,
) -> argparse.ArgumentParser:
    parser = _format(formats, name, pack, text, alias)
    parser.add_argument("source", metavar=metavar)
    parser.add_argument("--images", metavar="DIR", help="where the pictures lie (default: the source's folder)")
    if split:
        parser.add_argument("--split", help="pack only rows of this split (default: all)")
    parser.add_argument(
        "--exclude_ids", "--exclude-ids", metavar="FILE", help="ids or picture names to leave out, one a line"
    )
    parser.add_argument("--only_ids", "--only-ids", metavar="FILE", help="the only ones to pack, listed likewise")
    parser.add_argument("--deduplicate", action="store_true", help="leave out pictures that were packed before")
    parser.add_argument("--image_size", type=int, metavar="N", help="shorter side of pictures at most, in pixels")
    parser.add_argument("--image_format", choices=("jpeg", "webp"), help="encode every picture anew")
    parser.add_argument("--quality", type=int, default=90, metavar="Q", help="of pictures encoded anew (default: 90)")
    return parser


def _columns(pairs: list[str]) -> dict[str, list[str]]:
    """["en=a", "en=b", "lv=c"] -> {"en": ["a", "b"], "lv": ["c"]}."""
    columns: dict[str, list[str]] = {}
    for pair in pairs:
        name, equals, column = pair.partition("=")
        if not (name and equals and column):
            raise argparse.ArgumentTypeError(f"got {pair!r}, expected a name and a column like en=caption")
        columns.setdefault(name, []).append(column)
    return columns


def _one_each(named: dict[str, list[str]], field: str, what: str, accepted: str) -> dict[str, str]:
    """Raises ValueError where a name has several."""
    for name, values in named.items():
        if len(values) > 1:
            raise ValueError(f"{field}: {name} has the {what} {', '.join(values)}; {accepted}")
    return {name: values[0] for name, values in named.items()}


def _pack(options: argparse.Namespace, rows: Iterator) -> dict:
    from datamodules.packing import pack_rows

    source = Path(options.source)
    return pack_rows(
        rows,
        options.out,
        images=options.images or (source if source.is_dir() else source.parent),
        split=getattr(options, "split", None),
        exclude_ids=options.exclude_ids,
        only_ids=options.only_ids,
        image_size=options.image_size,
        image_format=options.image_format,
        quality=options.quality,
        deduplicate=options.deduplicate,
        samples_per_shard=options.samples_per_shard,
        workers=options.workers,
        title=f"packing {source.name}",
    )


def _jsonl(options: argparse.Namespace) -> dict:
    from datamodules.packing import read_jsonl

    return _pack(options, read_jsonl(options.source))


def _table(options: argparse.Namespace) -> dict:
    from datamodules.packing import read_table

    labels = _one_each(options.labels, "labels", "columns", "one a task")
    return _pack(
        options,
        read_table(
            options.source,
            captions=options.captions,
            image=options.image,
            id=options.id,
            split=options.split_column,
            labels=labels,
            separator={"tab": "\t", "\\t": "\t"}.get(options.separator, options.separator),
            quoted=not options.unquoted,
        ),
    )


def _karpathy(options: argparse.Namespace) -> dict:
    from datamodules.packing import read_karpathy

    return _pack(options, read_karpathy(options.source, options.language))


def _multi30k(options: argparse.Namespace) -> dict:
    from datamodules.packing import read_multi30k

    return _pack(options, read_multi30k(options.source))


def _crossmodal3600(options: argparse.Namespace) -> dict:
    from datamodules.packing import read_crossmodal3600

    return _pack(options, read_crossmodal3600(options.source))


def _wit(options: argparse.Namespace) -> dict:
    from datamodules.packing import read_wit

    return _pack(options, read_wit(options.source, options.caption_fields, options.first))


def _xtd10(options: argparse.Namespace) -> dict:
    from datamodules.packing import read_xtd10

    return _pack(options, read_xtd10(options.source, options.without_train2014))


def _tir(options: argparse.Namespace) -> dict:
    from datamodules.packing import read_tir

    named = {"language": options.language, "text_id": options.text_id, "text": options.text}
    return _pack(options, read_tir(options.source, options.texts, **named))


def _four_classes(options: argparse.Namespace) -> dict:
    from datamodules.packing import read_four_classes

    coding = {} if options.coding is None else {"coding": options.coding}
    texts = _one_each(options.texts, "texts", "folders", "one a language")
    named = {"captions": options.captions, "texts": texts, "label": options.label, "image": options.image}
    return _pack(options, read_four_classes(options.source, **named, **coding))


def _stories(options: argparse.Namespace) -> dict:
    from datamodules.packing import read_stories

    return _pack(options, read_stories(options.source))


def _folder(options: argparse.Namespace) -> dict:
    from datamodules.packing import read_folder

    return _pack(options, read_folder(options.source, options.language))


def _numbers(options: argparse.Namespace) -> dict:
    from datamodules.numbers import pack_numbers
    from datamodules.posts import pack_posts

    sharding = {"samples_per_shard": options.samples_per_shard, "workers": options.workers}
    if not options.posts:
        return pack_numbers(options.out, options.split, options.languages, renderings=options.renderings, **sharding)
    if options.renderings is not None:
        raise ValueError(f"renderings: {options.renderings} says nothing about posts; without --posts")
    return pack_posts(options.out, options.split, options.languages, **sharding)
