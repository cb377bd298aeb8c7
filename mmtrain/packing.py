"""`mmtrain pack`: the command line of the packers in datamodules."""

import argparse
import os
from collections.abc import Callable
from typing import Any


def add_arguments(parser: argparse.ArgumentParser, parse_list: Callable[[str], list[str]]) -> None:
    """One sub-command a source; `options.pack` is the function that runs it."""
    formats = parser.add_subparsers(dest="format", metavar="FORMAT", required=True, parser_class=type(parser))

    jsonl = _format(formats, "jsonl", 'JSON Lines: a sample\'s record and "image", a path beside the manifest', _jsonl)
    jsonl.add_argument("source", metavar="FILE")
    jsonl.add_argument("--split", help="pack only rows whose split is this; default: all")

    numbers = _format(formats, "numbers", "the embedded corpus: handwritten numbers in many languages", _numbers)
    numbers.add_argument("--split", choices=("train", "val", "test"), required=True)
    numbers.add_argument("--languages", type=parse_list, metavar="[en,lv]", help="default: every language there is")


def run(options: argparse.Namespace) -> None:
    """Packs and prints what came out."""
    facts = options.pack(options)
    left_out = sum(facts.get("skipped", {}).values()) if isinstance(facts.get("skipped"), dict) else 0
    languages = facts["captions"]
    print(
        f"{options.out}: {facts['samples']:,} samples, {facts['images']:,} images, {sum(languages.values()):,} captions"
        f" in {len(languages)} languages, {facts['bytes'] / 2**20:.1f} MiB in {len(facts['shards'])} shards"
        + (f"; {left_out:,} rows left out, listed in shards.json" if left_out else "")
    )


def _format(formats: Any, name: str, text: str, pack: Callable) -> argparse.ArgumentParser:
    parser = formats.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.add_argument("--out", required=True, metavar="DIR", help="gets the shards and shards.json")
    parser.add_argument("--samples_per_shard", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: %(default)s)")
    parser.set_defaults(pack=pack)
    return parser


def _jsonl(options: argparse.Namespace) -> dict:
    from datamodules.packing import pack_jsonl

    return pack_jsonl(options.source, options.out, split=options.split, **_common(options))


def _numbers(options: argparse.Namespace) -> dict:
    from datamodules.numbers import pack_numbers

    return pack_numbers(options.out, options.split, options.languages, **_common(options))


def _common(options: argparse.Namespace) -> dict[str, Any]:
    return {"samples_per_shard": options.samples_per_shard, "workers": options.workers}
