"""Questions to a set of items: JSON Lines {"id", "text", "language", "images", "relevant", "pool", ...}."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Question:
    """A question.

    Attributes:
        relevant: Grades above 0 by item.
        images: Files of its pictures.
        pool: The pool that it names; None where it names none.
        record: The line, whatever else it says.
    """

    id: str
    text: str
    language: str
    relevant: dict[str, float]
    images: list[Path]
    pool: str | None
    record: dict[str, Any]


def read_questions(file: str | Path) -> list[Question]:
    """The questions of a file.

    Raises:
        ValueError: one line, for a file that cannot be read, a malformed line, an id that comes twice.
    """
    path = Path(file)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--questions: {path} cannot be read ({getattr(error, 'strerror', 'no UTF-8')})") from None
    questions = list(_questions(path, lines))
    if not questions:
        raise ValueError(f"--questions: {path} holds no question; a JSON object a line")
    return questions


def _questions(path: Path, lines: list[str]) -> Iterator[Question]:
    seen: set[str] = set()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"--questions: {path}, line {number}"
        try:
            record = json.loads(line)
        except ValueError:
            raise ValueError(f"{where}: no JSON") from None
        if not isinstance(record, dict):
            raise ValueError(f"{where}: no JSON object")
        id, text, language = (record.get(name, "") for name in ("id", "text", "language"))
        images, relevant, pool = record.get("images") or [], record.get("relevant") or {}, record.get("pool")
        if not all(isinstance(value, str) for value in (id, text, language)) or not id:
            raise ValueError(f"{where}: id, text and language are strings, the id not empty")
        if not isinstance(images, list) or not all(isinstance(each, str) for each in images):
            raise ValueError(f"{where}: images is no list of paths")
        if not text and not images:
            raise ValueError(f"{where}: neither text nor images")
        if not isinstance(relevant, dict) or not all(map(_is_grade, relevant.values())):
            raise ValueError(f"{where}: relevant is no object of grades, finite and not below 0")
        if id in seen:
            raise ValueError(f"{where}: {id!r} comes twice")
        seen.add(id)
        graded = {item: float(grade) for item, grade in relevant.items() if grade > 0}
        files = [path.parent / each for each in images]
        yield Question(id, text, language, graded, files, pool if isinstance(pool, str) else None, record)


def _is_grade(grade: object) -> bool:
    return isinstance(grade, int | float) and not isinstance(grade, bool) and math.isfinite(grade) and grade >= 0
