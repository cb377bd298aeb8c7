"""Metadata from texts: words, pairs of words, titles and WordNet's lemmas of each language (Chuang et al. 2025,
section 3.1, and its code).
"""

from __future__ import annotations

import html
import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise
from pathlib import Path
from typing import NamedTuple

from datamodules.curation.matching import spaced_text
from datamodules.curation.metadata import write_metadata
from datamodules.curation.segmentation import WITHOUT_SPACES, segmented
from datamodules.curation.wordnets import lemmas_in
from datamodules.packing.texts import LANGUAGE_CODE, language_code, lines
from datamodules.reading.whole import WholeSamples
from datamodules.shards.progress import with_progress
from datamodules.shards.samples import BrokenSample

DOCUMENT = re.compile(r'<doc\b[^>]*?\btitle="([^"]*)"[^>]*>|</doc>')  # in extracts of a dump
NAMED = re.compile(LANGUAGE_CODE)
TAG = re.compile("&lt;.*?&gt;|<.*?>")  # what is left of a page's markup in its extract
TEXTS = (".txt", ".jsonl", ".gz", ".bz2", ".tar")
KIN = {"no": "nb", "nb": "no"}  # Wikipedia's Norwegian is what WordNets call Bokmål


@dataclass(frozen=True)
class Limits:
    """How many entries a language gets of each kind that it has not of another, and how long they are.

    Raises:
        ValueError: for values out of range.
    """

    top_unigrams: float = 0.1
    most_unigrams: int = 251_465
    min_pmi: float = 30
    most_bigrams: int = 100_646
    top_titles: float = 0.76
    most_titles: int = 61_235
    longest: int = 256

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            share = name.startswith("top_")
            if name != "min_pmi" and not 0 <= value <= (1 if share else math.inf):
                raise ValueError(f"--{name}: got {value}, expected {'a share, 0 to 1' if share else 'at least 0'}")


class Text(NamedTuple):
    """A line or a document. A title's `views` say which come first."""

    language: str
    text: str
    title: str | None = None
    views: float = 0


@dataclass
class Counts:
    """What was counted in the texts of a language."""

    words: Counter[str] = field(default_factory=Counter)
    pairs: Counter[tuple[str, str]] = field(default_factory=Counter)
    titles: dict[str, float] = field(default_factory=dict)


def build_metadata(
    sources: Sequence[str | Path], limits: Limits, *, language: str | None = None, wordnet: str | Path | None = None
) -> dict[str, dict[str, str]]:
    """Language -> entry -> what it is: "number", "lemma", "unigram", "bigram" or "title".

    Words and pairs of all texts are counted in memory. Languages that are written without spaces are segmented, and
    their pairs are joined without a space.

    Args:
        sources: Files and folders.
        limits: How many entries of each kind.
        language: Of texts that do not say theirs.
        wordnet: A folder of WordNets, see `lemmas_in`.

    Raises:
        ValueError: when there is no text, or one says no language.
    """
    files = {file: language or _language_of(file, Path(source)) for source in sources for file in _files(Path(source))}
    counts: dict[str, Counts] = {}
    for text in with_progress(_texts(files), "counting words", None, "texts"):
        _count(text, counts.setdefault(text.language, Counts()))
    if not counts:
        raise ValueError(
            f"--build_metadata: no text in {', '.join(map(str, sources))}; JSON Lines, plain text, extracts"
        )
    lemmas: dict[str, list[str]] = {} if wordnet is None else lemmas_in(Path(wordnet))
    return {
        name: _entries(name, counts[name], lemmas.get(name) or lemmas.get(KIN.get(name, ""), []), limits)
        for name in sorted(counts)
    }


def build(
    target: Path, sources: Sequence[Path], limits: Limits, *, language: str | None, wordnet: str | Path | None
) -> dict[str, Counter[str]]:
    """Writes the metadata of texts to a file; returns for each language how many entries there are of each kind."""
    entries = build_metadata(sources, limits, language=language, wordnet=wordnet)
    write_metadata(target, entries)
    return {name: Counter(own.values()) for name, own in entries.items()}


def _entries(language: str, counts: Counts, lemmas: Iterable[str], limits: Limits) -> dict[str, str]:
    total = counts.words.total()

    def pmi(pair: tuple[str, str]) -> float:
        one, other = pair
        return math.log2(counts.pairs[pair] * total / (counts.words[one] * counts.words[other]))

    near = [(-value, pair) for pair in counts.pairs if (value := pmi(pair)) > limits.min_pmi]
    between = "" if _together(language) else " "
    kinds: dict[str, tuple[Iterable[str], float]] = {
        "number": (map(str, range(100)), math.inf),
        "lemma": (lemmas, math.inf),
        "unigram": (
            (word for word, _ in counts.words.most_common()),
            min(math.ceil(limits.top_unigrams * len(counts.words)), limits.most_unigrams),
        ),
        "bigram": ((between.join(pair) for _, pair in sorted(near)), limits.most_bigrams),
        "title": (
            sorted(counts.titles, key=lambda title: -counts.titles[title]),
            min(math.ceil(limits.top_titles * len(counts.titles)), limits.most_titles),
        ),
    }
    found: dict[str, str] = {}
    for kind, (entries, most) in kinds.items():
        new = 0
        for entry in entries:
            if new >= most:
                break
            if entry not in found and len(entry) <= limits.longest and not _says_nothing(entry):
                found[entry] = kind
                new += 1
    return found


def _says_nothing(text: str) -> bool:
    return all(unicodedata.category(letter)[0] in "PSZC" for letter in text)


def _together(language: str) -> bool:
    return language.partition("-")[0] in WITHOUT_SPACES


def _count(text: Text, counts: Counts) -> None:
    if text.title:
        counts.titles[text.title] = max(counts.titles.get(text.title, 0), text.views)
    together = _together(text.language)
    found = segmented(text.text, text.language) if together else spaced_text(text.text).split()
    words = [_trimmed(word) for word in found]
    counts.words.update(filter(None, words))
    counts.pairs.update((one, other) for one, other in pairwise(words) if one and other)  # none over punctuation


def _trimmed(word: str) -> str:
    """Without punctuation and symbols at its ends; "" where it is nothing else."""
    if word.isalnum():
        return word
    kept = [place for place, letter in enumerate(word) if unicodedata.category(letter)[0] in "LNM"]
    return word[kept[0] : kept[-1] + 1] if kept else ""


def _files(source: Path) -> list[Path]:
    if not source.exists():
        raise ValueError(f"--build_metadata: {source} is not there; a file or folder of texts")
    if source.is_file():
        return [source]
    # extracts of a dump are called wiki_00
    files = [path for path in source.rglob("*") if path.suffix in TEXTS or path.name.startswith("wiki_")]
    return sorted(path for path in files if path.is_file())


def _texts(files: Mapping[Path, str | None]) -> Iterator[Text]:
    return chain.from_iterable(_texts_of(file, language) for file, language in files.items())


def _texts_of(path: Path, spoken: str | None) -> Iterator[Text]:
    if path.suffix == ".tar":
        yield from _captions(path)
        return
    title, document = None, False
    for number, line in enumerate(lines(path, field="--build_metadata"), start=1):
        if not line.strip():
            continue
        if line.lstrip().startswith("{"):
            yield _record(line, spoken, f"{path}, line {number}")
        elif match := DOCUMENT.fullmatch(line.strip()):
            document, title = bool(match[1]), html.unescape(match[1] or "") or None
        elif document and title == line.strip():
            continue  # an extract begins with its title
        else:
            yield Text(_named(spoken, str(path)), TAG.sub("", line) if document else line, title)
            title = None


def _captions(shard: Path) -> Iterator[Text]:
    samples = WholeSamples.named(str(shard), "--build_metadata")
    for found in samples.captions(range(len(samples))):
        for language, texts in ({} if isinstance(found, BrokenSample) else found[1]).items():
            yield from (Text(language, text) for text in texts)


def _record(line: str, language: str | None, where: str) -> Text:
    try:
        record = json.loads(line)
        text, title = record.get("text") or "", record.get("title")
        views = float(record.get("views") or 0)
        spoken = record.get("language") or record.get("lang") or language
        if not isinstance(text, str) or not isinstance(title, str | None) or not isinstance(spoken, str | None):
            raise TypeError
    except (ValueError, TypeError):
        expected = '{"language": "en", "text": "..."}, with a "title" and its "views" where there are'
        raise ValueError(f"--build_metadata: {where}: got {line[:60]}, expected {expected}") from None
    return Text(_named(spoken, where), text, title, views)


def _named(language: str | None, where: str) -> str:
    if language is None:
        raise ValueError(f'--build_metadata: {where} says no language; en.txt, en/wiki_00, a "language", or --language')
    return language


def _language_of(path: Path, source: Path) -> str | None:
    """By its name, else by that of the nearest folder in `source`, or of `source`, that is a language's code."""
    for name in (path.name.split(".")[0], *reversed(path.relative_to(source.parent).parts[:-1])):
        if NAMED.fullmatch(name) and name[:2].islower() and len(re.split("[-_]", name)[0]) <= 3:
            return language_code(name)
    return None
