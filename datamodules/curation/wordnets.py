"""Lemmas of the WordNets in a folder, in the forms that they are installed in."""

from __future__ import annotations

import contextlib
import io
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from xml.etree import ElementTree
from zipfile import BadZipFile, ZipFile

from babel.core import get_global

from datamodules.packing.texts import lines

PARTS = (".noun", ".verb", ".adj", ".adv")  # index.noun and so on, of Princeton's WordNet
PREFERRED = """
    SELECT lexicons.language, forms.form FROM forms JOIN entries ON entries.rowid = forms.entry_rowid
    JOIN lexicons ON lexicons.rowid = entries.lexicon_rowid WHERE forms.rank = 0 ORDER BY forms.rowid
"""
SHOWN = "index.noun, wn-data-lav.tab, WN-LMF (.xml) or wn.db"


def lemmas_in(folder: Path) -> dict[str, list[str]]:
    """Language -> lemmas, each once, with spaces.

    Reads, wherever they lie in the folder, Princeton's index.noun, index.verb, index.adj and index.adv (Debian's
    /usr/share/wordnet), wn-data-lav.tab of the Open Multilingual Wordnet, both in zip files too (nltk_data/corpora),
    the XML of WN-LMF, and the database of the package wn (~/.wn_data).

    Raises:
        ValueError: one line, where there is none, or one cannot be read.
    """
    found: dict[str, dict[str, None]] = {}
    for path in sorted(folder.rglob("*")):
        try:
            for language, lemma in _lemmas(path):
                found.setdefault(_short(language), {})[lemma.replace("_", " ")] = None
        except (OSError, BadZipFile, ElementTree.ParseError, sqlite3.Error) as error:
            raise ValueError(f"--wordnet: {path} cannot be read ({error}); {SHOWN}") from None
    if not found:
        raise ValueError(f"--wordnet: {folder} holds no WordNet; {SHOWN}")
    return {language: list(lemmas) for language, lemmas in found.items()}


def _lemmas(path: Path) -> Iterator[tuple[str, str]]:
    if path.name == "wn.db":
        with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
            yield from database.execute(PREFERRED)
    elif path.suffix == ".xml":
        yield from _of_lmf(path)
    elif path.suffix == ".zip":
        with ZipFile(path) as archive:
            for name in filter(_is_text, archive.namelist()):
                with io.TextIOWrapper(archive.open(name), "utf-8", errors="surrogateescape") as text:
                    yield from _of_lines(name, (line.rstrip("\n") for line in text))
    elif _is_text(path.name):
        yield from _of_lines(path.name, lines(path, field="--wordnet"))


def _is_text(name: str) -> bool:
    path = Path(name)
    return (path.stem.startswith("wn-data-") and path.suffix == ".tab") or (
        path.stem == "index" and path.suffix in PARTS
    )


def _of_lines(name: str, every: Iterable[str]) -> Iterator[tuple[str, str]]:
    code = Path(name).stem.removeprefix("wn-data-")
    for line in every:
        if code == "index":
            if not line.startswith(" "):  # as the licence does
                yield "en", line.split(" ", 1)[0]
            continue
        _, kind, lemma, *_ = [*line.split("\t"), "", ""]
        if lemma and (kind == "lemma" or kind.endswith(":lemma")):
            yield code, lemma


def _of_lmf(path: Path) -> Iterator[tuple[str, str]]:
    language = ""
    for event, element in ElementTree.iterparse(path, ["start", "end"]):
        if event == "start" and element.tag == "Lexicon":
            language = element.get("language", "")
        elif event == "end" and element.tag == "Lemma" and language:
            yield language, element.get("writtenForm", "")
        elif event == "end" and element.tag in ("LexicalEntry", "Synset"):
            element.clear()


def _short(code: str) -> str:
    """The code that samples have, such as lv for lav and zh for cmn."""
    return str(get_global("language_aliases").get(code, code))
