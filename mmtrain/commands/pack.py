"""`mmtrain pack`: shards from a source. What a format's reader takes by name are its options."""

import argparse
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

from datamodules import packing
from datamodules.packing.formats import FORMATS, Format
from mmtrain.commands.usage import File, Folder, OneLineParser, Shards, add_arguments, add_command, add_verb, call
from mmtrain.display.messages import say

WORKERS = os.cpu_count() or 1
HALVES = {"image": "picture", "texts": "caption"}
OF_PICTURES = ["images", "image_size", "image_format", "quality", "deduplicate", "near_pictures", "near_captions"]
OF_PICTURES += ["proper_nouns", "proper_noun_share", "shortest_caption", "longest_caption", "identify"]


def add_formats(pack: OneLineParser) -> None:
    """One sub-command a format."""
    formats = pack.add_subparsers(dest="format", metavar="FORMAT", required=True, parser_class=OneLineParser)
    for name, format in FORMATS.items():
        parser = add_verb(formats, name, format.text, format.aliases)
        parser.add_argument("source", metavar=format.source)
        parser.add_argument("--out", required=True, metavar="DIR", help="gets the shards and shards.json")
        add_arguments(parser, format.read, without=("source",))
        without = ("rows", "out", "title", "pages") + (() if format.splits else ("split",))
        without += () if format.pictures else tuple(OF_PICTURES)
        add_arguments(parser, packing.pack_rows, without=without, defaults={"workers": WORKERS, "images": None})
        parser.set_defaults(run=partial(_pack, format))
    add_command(formats, "numbers", numbers, "the embedded corpus: handwritten numbers in many languages")
    add_command(formats, "products", products, "a catalogue and queries of several pictures: generated, or MERIT's")
    add_command(formats, "pages", pages, "texts and pictures as pictures of pages, for the search of documents")
    add_command(formats, "questions", questions, "a file of questions from captions, for evaluate --questions")


def _pack(format: Format, options: argparse.Namespace) -> None:
    source = Path(options.source)
    images = vars(options).get("images") or (source if source.is_dir() else source.parent)
    rows = call(format.read, options)
    _print(options.out, call(packing.pack_rows, options, rows=rows, images=images, title=f"packing {source.name}"))


def numbers(
    *,
    out: Folder,
    split: Literal["train", "val", "test"],
    languages: list[str] | None = None,
    renderings: int | None = None,
    posts: bool = False,
    equal: bool = False,
    pairs: bool = False,
    spoken: bool = False,
    scenes: bool = False,
    samples_per_shard: int = packing.SAMPLES_PER_SHARD,
    workers: int = WORKERS,
) -> None:
    """Packs handwritten numbers.

    Args:
        out: Gets the shards and shards.json.
        split: The numbers of one split are in no other.
        languages: Default: every language there is.
        renderings: Pictures of each number; default: 16 to train on, else 1.
        posts: Posts with relation labels: two sets of numbers each.
        equal: Posts without labels, whose text says exactly what the picture shows: pairs of one number and of two.
        pairs: Text pairs without pictures: the first language beside each further one, numbers of one other digit as
            negatives.
        spoken: Texts of w numbers, one a language, audio that tells the language, a picture of the number said in it.
        scenes: Pages of two or three numbers at places that the captions name; labels by place for a probe of patches.
        samples_per_shard: Rows that make one shard.
        workers: Processes; the bytes written do not depend on it.

    Raises:
        ValueError: for more than one of posts, equal, pairs, spoken and scenes, renderings of what has none, languages
            left out where they matter, and what the packers find.
    """
    from datamodules.numbers.corpus import pack_numbers
    from datamodules.numbers.pairs import pack_pairs
    from datamodules.numbers.posts import pack_posts
    from datamodules.numbers.scenes import pack_scenes
    from datamodules.numbers.spoken import pack_spoken

    sharding = {"samples_per_shard": samples_per_shard, "workers": workers}
    kinds = {"posts": posts, "equal": equal, "pairs": pairs, "spoken": spoken, "scenes": scenes}
    chosen = [name for name, wanted in kinds.items() if wanted]
    if len(chosen) > 1:
        raise ValueError(f"{chosen[1]}: got --{' and --'.join(chosen)}; one of them")
    if renderings is not None and chosen and not spoken:
        raise ValueError(f"renderings: {renderings} says nothing about {chosen[0]}; without --{chosen[0]}")
    if (pairs or spoken) and not languages:
        raise ValueError(f"languages: --{chosen[0]} needs two or more, as in --languages [en,lv]")
    if pairs:
        _print(out, pack_pairs(out, split, languages or [], **sharding))
    elif spoken:
        _print(out, pack_spoken(out, split, languages or [], renderings=renderings, **sharding))
    elif scenes:
        _print(out, pack_scenes(out, split, languages, **sharding))
    elif posts or equal:
        _print(out, pack_posts(out, split, languages, equal=equal, **sharding))
    else:
        _print(out, pack_numbers(out, split, languages, renderings=renderings, **sharding))


def products(
    source: Folder | None = None,
    *,
    out: Folder,
    split: Literal["train", "val", "test"],
    languages: list[str] | None = None,
    queries: int | None = None,
    samples_per_shard: int = packing.SAMPLES_PER_SHARD,
    workers: int = WORKERS,
) -> None:
    """Packs queries of two products and a text, each with a product that they look for, as title and picture.

    Without a source products are handwritten numbers in an ink on a paper, with titles in five languages; of test the
    samples are the products of a catalogue, beside them questions.jsonl for evaluate --questions.

    Args:
        source: The folder of MERIT: queries-SPLIT.json and the products in parquet files. evaluate --protocol merit
            reads its test split by itself.
        out: Gets the shards and shards.json.
        split: Those of the generated catalogue share no number.
        languages: Of generated queries and titles; default: de, en, es, fr and lv.
        queries: How many are generated; default: 8,000, 400 or 600.
        samples_per_shard: Rows that make one shard.
        workers: Processes; the bytes written do not depend on it.

    Raises:
        ValueError: for options of what is generated beside a source, and what the packers find.
    """
    from datamodules.numbers.products import pack_products
    from datamodules.packing.merit import read_merit

    sharding: dict[str, Any] = {"samples_per_shard": samples_per_shard, "workers": workers}
    if source is None:
        _print(out, pack_products(out, split, languages, queries=queries, **sharding))
        return
    for name, value in {"languages": languages, "queries": queries}.items():
        if value is not None:
            raise ValueError(f"{name}: got {value}, which says nothing about {source}; without it")
    title = f"packing {Path(source).name}"
    _print(out, packing.pack_rows(read_merit(source), out, images=source, split=split, title=title, **sharding))


def pages(
    source: File,
    *,
    out: Folder,
    images: Folder | None = None,
    split: str | None = None,
    language: str | None = None,
    document: str = "document",
    width: int = 448,
    height: int = 448,
    margin: int = 24,
    font_size: int = 18,
    picture_share: float = 0.5,
    fonts: list[str] | None = None,
    samples_per_shard: int = packing.SAMPLES_PER_SHARD,
    workers: int = WORKERS,
) -> None:
    """Packs texts and pictures as pictures of pages: a picture on top, the text below, the rest on further pages.

    A page is a sample with its "text" and the "language" of it, "document" and "pool" (the document's name), the id
    of its "row" and its "page" in it, and the captions of its row: the others ask for it, see `pack questions`. A row
    with a letter that no font has is left out and counted.

    Args:
        source: JSON Lines with "captions" or "text", and an "image" where there is one; or a .txt, a row a paragraph.
        out: Gets the shards and shards.json.
        images: Folder of the images; default: that of the source.
        split: Only rows of this split.
        language: Of the captions that pages show; default: the row's "text", or its only captions.
        document: Key of the document that a row belongs to; default: "document", else every row is one.
        width: Of a page in pixels.
        height: Of a page in pixels.
        margin: On all sides, in pixels.
        font_size: In pixels.
        picture_share: The most of the height that the picture takes.
        fonts: Files or families of fonts, such as [Noto Serif], before the usual ones: DejaVu Sans, and Noto's of each
            script.
        samples_per_shard: Rows that make one shard.
        workers: Processes; the bytes written do not depend on it.

    Raises:
        ValueError: for a page without room, a font that is not there, and what `pack jsonl` refuses.
    """
    from datamodules.packing.documents import read_documents
    from datamodules.packing.pages import PageLayout

    layout = PageLayout(width, height, margin, font_size, picture_share, tuple(fonts or ()))
    rows = read_documents(source, language=language, document=document)
    options: dict[str, Any] = {"samples_per_shard": samples_per_shard, "workers": workers, "split": split}
    options |= {"images": images or Path(source).parent, "title": f"packing {Path(source).name}"}
    _print(out, packing.pack_rows(rows, out, pages=layout, **options))


def questions(
    source: Shards,
    *,
    out: File,
    languages: list[str] | None = None,
    sentence: bool = False,
    per_language: int | None = None,
    seed: int = 0,
) -> None:
    """Makes a question set from captions: each asks for its picture, or for the page that says it in another language.

    What a page itself shows does not ask. A question looks in the "pool" of its sample, where there is one; right are
    all samples there with that caption or the same picture, and all pages of the same row.

    Args:
        source: SHARDS, or a manifest in JSON Lines.
        out: A .jsonl, or a folder that gets questions.jsonl.
        languages: Of the captions that ask; default: all.
        sentence: One sentence of each caption asks, drawn at random.
        per_language: The most questions of a language, drawn at random.
        seed: Of the draws.

    Raises:
        ValueError: for samples that cannot be read, and where no caption asks.
    """
    from datamodules.packing.as_shards import as_shards
    from datamodules.packing.questions import caption_questions, write_questions
    from datamodules.reading.whole import WholeSamples
    from datamodules.shards.encoding import BadRow
    from datamodules.shards.samples import Sample

    whole = WholeSamples.named(as_shards(source, "SHARDS", None)[0])
    broken: list[BadRow] = []

    def samples() -> Iterator[Sample]:
        for each in map(whole.__getitem__, range(len(whole))):
            if isinstance(each, BadRow):
                broken.append(each)
            else:
                yield each.sample

    drawing: dict[str, Any] = {"languages": languages, "sentence": sentence, "per_language": per_language, "seed": seed}
    asked, chance = caption_questions(samples(), **drawing)
    if not asked:
        raise ValueError(f"SHARDS: no caption of {source} asks; captions in a language that the pages do not show")
    path, spoken = write_questions(asked, out), len({each["language"] for each in asked})
    lost = f"; {len(broken):,} samples could not be read ({broken[0]}, ...)" if broken else ""
    say(f"{path}: {len(asked):,} questions in {spoken} languages, R@1 by chance {100 * chance:.1f} %{lost}")


def _print(out: str, facts: dict[str, Any]) -> None:
    """What was written, what its rows lack, and what was not written, by cause."""
    languages, causes, holds = facts["captions"], facts["skipped"], facts["holds"]
    left_out = ", ".join(f"{rows:,} {cause}" for cause, rows in causes.items())
    contents = [f"{facts['samples']:,} samples", f"{facts['images']:,} images"]
    contents += [f"{sum(languages.values()):,} captions in {len(languages)} languages"]
    contents += [f"{count:,} with {name}" for name, count in holds.items() if name not in ("image", "texts")]
    lacks = [f"{facts['samples'] - holds.get(name, 0):,} have no {what}" for name, what in HALVES.items()]
    say(
        f"{out}: {', '.join(contents)}, {facts['bytes'] / 2**20:.1f} MiB in {len(facts['shards'])} shards"
        + "".join(f"; {lack}" for lack in lacks if not lack.startswith("0 "))
        + (f"; {sum(causes.values()):,} rows left out ({left_out}), listed in shards.json" if causes else "")
    )
