"""Questions to a set of items: JSON Lines {"id", "text", "language", "images", "relevant", "pool", ...}."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datamodules.reading.fields import pieces


@dataclass(frozen=True)
class Question:
    """A question to items, or with choices, or both.

    Attributes:
        text: Its words, with <image> where one of its pictures stands; "" where it asks by pictures alone.
        relevant: Grades by item, 0 for what is wrong.
        images: Files of its pictures.
        pool: The ids of the items among which it looks, or the name of their pool; None for all items.
        group: What kind of question it is, such as "table".
        choices: Answers of which one is right.
        answer: The number of the right choice, from 0.
        record: The line, whatever else it says.
    """

    id: str
    text: str = ""
    language: str = ""
    relevant: dict[str, float] = field(default_factory=dict)
    images: list[Path] = field(default_factory=list)
    pool: str | list[str] | None = None
    group: str | None = None
    choices: list[str] = field(default_factory=list)
    answer: int | None = None
    record: dict[str, Any] = field(default_factory=dict)

    @property
    def words(self) -> str:
        """The text without the places of pictures."""
        return " ".join(pieces(self.text)) if self.images else self.text

    @property
    def right(self) -> dict[str, float]:
        """The grades above 0 by item."""
        return {item: grade for item, grade in self.relevant.items() if grade > 0}


def read_questions(file: str | Path) -> list[Question]:
    """The questions of a file.

    Raises:
        ValueError: one line, for a file that cannot be read, a malformed line, an id that comes twice.
    """
    path = Path(file)
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--questions: {path} cannot be read ({getattr(error, 'strerror', 'no UTF-8')})") from None
    questions: dict[str, Question] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"--questions: {path}, line {number}"
        try:
            question = read_question(_parsed(line), path.parent)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        if question.id in questions:
            raise ValueError(f"{where}: {question.id!r} comes twice")
        questions[question.id] = question
    if not questions:
        raise ValueError(f"--questions: {path} holds no question; a JSON object a line")
    return list(questions.values())


def read_question(record: dict[str, Any], folder: Path) -> Question:
    """The question of a line; its pictures lie in the folder. What is null counts as absent.

    Raises:
        ValueError: what is wrong with it.
    """
    record = {name: value for name, value in record.items() if value is not None}
    id, text, language, group = (record.get(name, "") for name in ("id", "text", "language", "group"))
    images, relevant, pool = record.get("images", []), record.get("relevant", {}), record.get("pool")
    choices, answer = record.get("choices", []), record.get("answer")
    if not all(isinstance(value, str) for value in (id, text, language, group)) or not id:
        raise ValueError("id, text, language and group are strings, the id not empty")
    if language in ("mean", "groups"):
        raise ValueError(f"language is {language!r}, which metrics.json has for something else")
    if not _are_strings(images):
        raise ValueError("images is no list of paths")
    if not text.strip() and not images:
        raise ValueError("neither text nor images")
    if not isinstance(relevant, dict) or not all(map(_is_grade, relevant.values())):
        raise ValueError("relevant is no object of grades, finite and not below 0")
    if pool is not None and not isinstance(pool, str) and not _are_strings(pool):
        raise ValueError("pool is neither a name nor a list of item ids")
    if not _are_strings(choices) or ("choices" in record and not choices):
        raise ValueError("choices is no list of answers")
    numbered = isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(choices)
    if (choices or answer is not None) and not numbered:
        raise ValueError(f"answer is {answer!r}; expected the number of one of {len(choices)} choices, from 0")
    grades = {item: float(grade) for item, grade in relevant.items()}
    files = [folder / each for each in images]
    return Question(id, text, language, grades, files, pool, group or None, choices, answer, record)


def pool_names(record: dict[str, Any]) -> list[str]:
    """The pools that an item's JSON names, one or a list."""
    names = record.get("pool") or []
    return [str(name) for name in (names if isinstance(names, list) else [names])]


def _parsed(line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError("no JSON") from None
    if not isinstance(record, dict):
        raise ValueError("no JSON object")
    return record


def _are_strings(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _is_grade(grade: object) -> bool:
    if not isinstance(grade, int | float) or isinstance(grade, bool):
        return False
    return 0 <= grade < 1e300 and math.isfinite(grade)
