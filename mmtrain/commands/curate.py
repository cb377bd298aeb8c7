"""`mmtrain curate`: which captions of SHARDS a training is fed with."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmtrain.commands.usage import BatchSize, Device, File, Files, Model, Shards, Trust, UsageError, Workers
from mmtrain.display.messages import say

if TYPE_CHECKING:
    from datamodules.curation.filters import Filter


def curate(
    shards: Shards | None = None,
    *,
    out: str | Path,
    metadata: File | None = None,
    head_language: str = "en",
    t: int | None = None,
    tail: float | None = None,
    floor: int = 20,
    seed: int = 0,
    one_caption: bool = False,
    identify: bool = False,
    text_language: str = "und",
    filters: File | None = None,
    part: str | None = None,
    join: bool = False,
    by_model: Model | None = None,
    share: float | None = None,
    build_metadata: Files | None = None,
    language: str | None = None,
    top_unigrams: float = 0.1,
    most_unigrams: int = 251_465,
    min_pmi: float = 30,
    most_bigrams: int = 100_646,
    top_titles: float = 0.76,
    most_titles: int = 61_235,
    longest: int = 256,
    wordnet: str | Path | None = None,
    batch_size: BatchSize = 64,
    workers: Workers = 2,
    device: Device | None = None,
    trust: Trust | None = None,
) -> Path:
    """Chooses captions of SHARDS: a balance over the entries that they match, in every language by its own threshold.

    keep.jsonl says of each caption how many entries it matches, with what probability it is kept and whether it is,
    curation.json what became of each language, curation.html shows it. A source's `keep: DIR` trains on what is kept.
    Under torchrun, srun or as a SLURM array every process matches its share; process 0 joins the parts, which lie in
    `out`.parts until then. What was stopped goes on with them.

    Args:
        out: Gets keep.jsonl, curation.json and curation.html; with --build_metadata the file to write.
        metadata: JSON Lines {"language", "entry"}.
        head_language: Whose tail share every language gets, with --t.
        t: Its threshold: its tail are the entries in fewer captions.
        tail: The tail share, in place of --t (default: 0.06).
        floor: The lowest threshold of a language.
        seed: Of what is kept.
        one_caption: Draws one caption of each sample first.
        identify: Captions without a language (und) get one.
        text_language: Language of .txt captions.
        filters: YAML, a list as a source's `filters`: captions that they leave out are counted, and not matched.
        part: i/n: makes a share of the parts and ends; i from 0 or from 1.
        join: Joins the parts that --part made.
        by_model: Keeps the captions that are most similar to their pictures, of each language, in place of a balance.
        share: Of each language's captions kept by the model.
        build_metadata: Writes metadata of texts instead: a file or folder of JSON Lines, plain text, extracts of a
            dump or shards. May be given again.
        language: Of texts that do not say theirs, by a "language" or as in en.txt or en/AA/wiki_00.
        top_unigrams: Share of the words of a language that become entries, the most frequent first.
        most_unigrams: At most so many.
        min_pmi: Pairs of words with a higher pointwise mutual information, in bits, become entries.
        most_bigrams: At most so many.
        top_titles: Share of the titles, those with the most "views" first.
        most_titles: At most so many.
        longest: The most letters of an entry.
        wordnet: A folder of WordNets whose lemmas become entries: wn-data-lav.tab of the Open Multilingual Wordnet,
            index.noun and so on of Princeton's.

    Raises:
        ValueError: when `out` holds something else, or nothing can be read.
    """
    target = Path(out)
    if build_metadata is not None:
        from datamodules.curation.building import Limits, build

        limits = Limits(top_unigrams, most_unigrams, min_pmi, most_bigrams, top_titles, most_titles, longest)
        for name, kinds in build(target, build_metadata, limits, language=language, wordnet=wordnet).items():
            each = ", ".join(f"{count:,} {kind}s" for kind, count in kinds.items())
            say(f"{target}: {name}: {kinds.total():,} entries ({each})")
        return target
    if shards is None:
        raise UsageError("SHARDS: none are named, expected a folder, a tar, or --build_metadata TEXTS")
    if (by_model is None) == (metadata is None):
        raise UsageError("--metadata, --by_model: expected one of them")
    if by_model is not None:
        if share is None or part is not None or join or filters:
            raise UsageError("--by_model: expected --share, and neither --part, --join nor --filters")
        from mmtrain.search.keeping import keep_by_model

        options: dict[str, Any] = {"batch_size": batch_size, "workers": workers, "device": device, "trust": trust}
        return keep_by_model(by_model, shards, target, share, **options)
    if share is not None:
        raise UsageError("--share: expected --by_model MODEL with it")
    return _balance(
        shards,
        target,
        metadata=metadata or "",
        balance={"head_language": head_language, "t": t, "tail": tail, "floor": floor, "seed": seed},
        reading={
            "text_language": text_language,
            "one_of": seed if one_caption else None,
            "filters": [] if filters is None else _filters(filters),
        },
        identify=identify,
        part=None if part is None else _part(part),
        join=join,
    )


def _part(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or not 0 <= int(match[1]) <= int(match[2]) or int(match[2]) < 1:
        raise UsageError(f"--part: got {text}, expected i/n, as in 0/4 or {{task}}/{{tasks}}")
    return int(match[1]) % int(match[2]), int(match[2])


def _filters(file: str) -> list["Filter"]:
    """What a YAML file lists. Raises ValueError, one line."""
    import yaml
    from jsonargparse import ArgumentError, ArgumentParser

    from datamodules.curation.filters import Filter

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--filters", type=list[Filter])
    try:
        content = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
        return parser.instantiate_classes(parser.parse_object({"filters": content})).filters
    except (OSError, ArgumentError, ValueError, yaml.YAMLError) as error:
        raise ValueError(
            f"--filters: {file}: {error}; expected a list such as"
            " [{class_path: datamodules.curation.Length, init_args: {shortest: 3}}]"
        ) from None


def _balance(
    shards: str,
    target: Path,
    *,
    metadata: str,
    balance: dict[str, Any],
    reading: dict[str, Any],
    identify: bool,
    part: tuple[int, int] | None,
    join: bool,
) -> Path:
    from collections.abc import Sequence

    from datamodules.curation.identification import language_of
    from datamodules.curation.joining import (
        Balance,
        Joined,
        check_curation_folder,
        is_curation,
        joined_identity,
    )
    from datamodules.curation.metadata import Metadata
    from datamodules.curation.parts import CurationParts
    from datamodules.files import room_for, whole_folder
    from datamodules.shards.progress import with_progress
    from mmtrain.display.curation import Examples, print_curation, write_curation_page
    from mmtrain.embedding.division import Division, parts_beside
    from mmtrain.embedding.processes import Processes

    check_curation_folder(target)
    balanced, entries = Balance(**balance), Metadata.read(metadata)
    processes = Processes() if part or join else Processes.launched()
    with parts_beside(target, 1 if part else processes.rank) as folder, room_for(target):
        parts = CurationParts(shards, entries, identify=language_of if identify else None, **reading)
        division = Division(folder / parts.identity, len(parts.runs), ["safetensors"])
        if is_curation(target, joined_identity(parts.identity, balanced)):
            if processes.rank == 0 and not part:
                say(f"{target}: all is there already")
                division.remove(Processes())
            return target

        def make(numbers: Sequence[int]) -> None:
            sizes = {number: len(parts.runs[number]) for number in numbers}
            for number in with_progress(numbers, "matching", sum(sizes.values()), "samples", sizes.__getitem__):
                made = parts.make(number)
                if part:  # others that end take an empty folder away
                    division.folder.mkdir(parents=True, exist_ok=True)
                elif not division.folder.exists():  # process 0 made the rest itself and is done
                    return
                made.write(division.path(number))

        if part:
            own = range(part[0], division.count, part[1])
            make([number for number in division.missing() if number in own])
            say(f"{division.folder}: share {part[0]} of {part[1]} is there, {len(own)} of {division.count} parts")
            return target
        if not join:
            division.make(processes, make)
            if processes.rank:
                return target
        elif missing := division.missing():
            raise ValueError(
                f"--join: {len(missing)} of {division.count} parts of these SHARDS and this metadata are missing in"
                f" {division.folder}; --part makes them, with the same options"
            )
        paths = [division.path(number) for number in range(division.count)]
        joined = Joined(paths, entries, balanced, parts.identity, reading["filters"])
        with whole_folder(target, check_curation_folder) as unfinished:
            facts = joined.write(unfinished)
            shown = {
                name: Examples(joined.most_frequent(name), [example for _, example in sorted(own.let_go, reverse=True)])
                for name, own in joined.languages.items()
            }
            write_curation_page(unfinished, shards, facts, shown)
        division.remove(processes)
    print_curation(target, facts)
    return target
