"""CVQA (Romero et al. 2024): four answers to a question about a picture, in 31 languages and in English.

Parquet files with image, ID, Subset, Question, Options, Label and the English "Translated Question" and "Translated
Options". As MetaCLIP 2 measures models of two towers, the answer is the one whose text, the question and it, is most
similar to the picture, the first of equals. Accuracy is over questions; the groups are the subsets.
"""

import ast
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from datamodules.packing import Row
from datamodules.packing.cells import cell
from datamodules.packing.spelling import language_of
from mmtrain.evaluation.protocols.pages import rows_of
from mmtrain.evaluation.protocols.protocol import Protocol, Reference

COLUMNS = {"id": ("ID",), "subset": ("Subset",), "label": ("Label",)}
LOCAL = {"question": ("Question",), "options": ("Options",)}
ENGLISH = {"question": ("Translated Question",), "options": ("Translated Options",)}
CHOICES = 4


def tables(source: Path) -> list[Path]:
    """The parquet files of a folder, or the file itself. Raises ValueError where there is none."""
    files = sorted(source.rglob("*.parquet")) if source.is_dir() else [source]
    if not files:
        raise ValueError(f"--data: {source} holds no parquet file; the folder of CVQA")
    return files


def read(source: Path) -> Iterator[Row]:
    """The pictures, each once: an ID is that of the picture and the number of the question about it."""
    folder = source if source.is_dir() else source.parent
    seen: set[str] = set()
    for file in tables(source):
        for place, row in enumerate(rows_of(file, COLUMNS, "id")):
            id = str(row["id"]).rpartition("_")[0] or str(row["id"])
            if id not in seen:
                image = cell(file.relative_to(folder).as_posix(), "image", place)
                yield Row(len(seen), {"id": id}, (image,), complete=False)
                seen.add(id)


def questions(source: Path, english: bool = False) -> Iterator[dict[str, Any]]:
    """The questions, in the language of their subset or in English.

    Raises:
        ValueError: for labels that are kept hidden, and for options that are no list of four.
    """
    folder = source if source.is_dir() else source.parent
    columns = COLUMNS | (ENGLISH if english else LOCAL)
    for file in tables(source):
        for place, row in enumerate(rows_of(file, columns, "id", "subset", "question", "options")):
            where = f"--data: {file}, row {place + 1} ({row['id']})"
            if not isinstance(label := row.get("label"), int) or not 0 <= label < CHOICES:
                raise ValueError(f"{where}: Label is {label!r}, hidden; 0 to {CHOICES - 1}, of a release with labels")
            language, *countries = subset_of(row["subset"])
            yield {
                "id": str(row["id"]),
                "text": row["question"],
                "language": "en" if english else language_of(language),
                "images": [cell(file.relative_to(folder).as_posix(), "image", place)],
                "group": ", ".join((language, *countries)),
                "choices": options_of(row["options"], where),
                "answer": label,
            }


def subset_of(text: str) -> list[str]:
    """Language and country of "('Telugu', 'India')", as it stands in the table."""
    try:
        return [str(each) for each in ast.literal_eval(text)]
    except (ValueError, SyntaxError, TypeError):
        return [text]


def options_of(value: object, where: str) -> list[str]:
    """The four options: a list, or, in the first releases, its text. Raises ValueError for anything else."""
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            value = [line for line in str(value).splitlines() if line.strip()]
    if not isinstance(value, list) or len(value) != CHOICES or not all(isinstance(each, str) for each in value):
        raise ValueError(f"{where}: Options are {str(value)[:60]}; a list of {CHOICES}, or its text")
    return value


IN_ITS_LANGUAGE = Protocol(
    name="cvqa",
    variant="local",
    read=read,
    questions=questions,
    images=None,
    languages=None,
    comparable=(
        Reference(
            "MetaCLIP 2, README",
            "accuracy over all questions, CVQA-LOCAL: ViT-H/14 57.4, bigG-378 62.0, B/32 49.1, S/16 46.9; chance 25",
            "seen",
        ),
    ),
)
IN_ENGLISH = replace(
    IN_ITS_LANGUAGE,
    variant="en",
    questions=partial(questions, english=True),
    comparable=(Reference("MetaCLIP 2", "accuracy over all questions, CVQA-EN: ViT-H/14 61.5; chance 25", "reported"),),
)
PROTOCOLS = (IN_ITS_LANGUAGE, IN_ENGLISH)
