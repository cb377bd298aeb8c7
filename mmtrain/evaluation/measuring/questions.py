"""`mmtrain evaluate --questions`: texts, pictures or both look for items, or for the right one of some choices.

Letters: Q questions, N items, D dimensions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from datamodules.shards.progress import with_progress
from mmtrain.evaluation.measuring.items import Items
from mmtrain.evaluation.metrics.bootstrap import DRAWS
from mmtrain.evaluation.metrics.questions import ACCURACY, UNKNOWN, Values, question_figures
from mmtrain.evaluation.questions import Question, read_questions
from mmtrain.evaluation.ranking.asked import Asked, Ranks
from mmtrain.evaluation.ranking.graded import EmbeddingScores
from mmtrain.evaluation.ranking.tiles import TIE_TOLERANCE, Rows, Similarity, pair_scores, score_steps
from mmtrain.evaluation.ranking.token_rows import TokenRows
from mmtrain.models.encoder import Encoder
from mmtrain.models.queries import query_token_rows

AT_ONCE = 64  # questions whose pictures are open together


@dataclass(frozen=True)
class QuestionResults:
    """What was measured of questions.

    Attributes:
        figures: "questions" of metrics.json.
        facts: "questions" of its "protocol".
        values: Of each question by name.
        scores: Of questions with items.
    """

    asked: Asked
    ranks: Ranks
    scores: EmbeddingScores
    values: Values
    figures: dict[str, Any]
    facts: dict[str, Any]

    @property
    def languages(self) -> list[str]:
        """Of the Q questions."""
        return [question.language or UNKNOWN for question in self.asked.questions]


def asked_in(file: str, languages: Sequence[str] | None) -> list[Question]:
    """The questions of a file, those in the languages where some are named.

    Raises:
        ValueError: one line, for a file of questions that cannot be used, or has none in the languages.
    """
    questions = read_questions(file)
    chosen = [each for each in questions if languages is None or (each.language or UNKNOWN) in languages]
    if not chosen:
        there = ", ".join(sorted({question.language or UNKNOWN for question in questions})[:20])
        raise ValueError(f"--languages: no question of {file} is in {', '.join(languages or ())}; they are in {there}")
    return chosen


def measure_questions(
    encoder: Encoder, items: Items, questions: Sequence[Question], similarity: Similarity, *, bootstrap: int = DRAWS
) -> QuestionResults:
    """The figures of questions to some items.

    Raises:
        ValueError: one line, where no question is left, and for pictures of a question that cannot be read.
    """
    by_name = any(isinstance(question.pool, str) for question in questions)
    asked = Asked.of(questions, items.ids, items.named_pools() if by_name else {})
    queries = question_rows(encoder, questions, similarity == "late")
    scores = EmbeddingScores(items.rows(), queries, similarity, encoder.device)
    ranks = asked.ranks(scores)
    values = asked.values(ranks)
    if any(question.choices for question in questions):
        values[ACCURACY] = chosen_rightly(encoder, questions, similarity)
    facts = asked.facts()
    if all(np.isnan(each).all() for each in values.values()):
        some = ", ".join(sorted(asked.unknown)[:3])
        reason = f"; {len(asked.unknown):,} ids are no item, such as {some}" if asked.unknown else ""
        raise ValueError(f"--questions: none of {len(questions):,} questions has an answer among its items{reason}")
    facts |= {
        "text_items": items.of_text,
        "repeated_items": items.repeated,
        "ties": "pessimistic",
        "tie_tolerance": TIE_TOLERANCE,
    }
    facts |= {"similarity": similarity, "bootstrap": {"samples": bootstrap, "seed": 0, "resampled": "questions"}}
    languages = [question.language or UNKNOWN for question in questions]
    figures = question_figures(values, languages, [question.group for question in questions], bootstrap=bootstrap)
    return QuestionResults(asked, ranks, scores, values, figures, facts)


def question_rows(encoder: Encoder, questions: Sequence[Question], late: bool = False) -> Rows:
    """Questions as float32 [Q, D], or as token rows of Q; texts with the prompt of a query.

    Raises:
        ValueError: for a picture that cannot be read.
    """
    parts: list[np.ndarray] = []
    runs = [questions[start : start + AT_ONCE] for start in range(0, len(questions), AT_ONCE)]
    for run in with_progress(runs, "encoding", len(questions), "questions", len):
        parts += _encoded(encoder, [_query(encoder, question, question.text) for question in run], late)
    return _rows(parts, late)


def chosen_rightly(encoder: Encoder, questions: Sequence[Question], similarity: Similarity) -> np.ndarray:
    """Whether the most similar choice is the right one, float64 [Q]; NaN without choices.

    A choice behind the question's text looks for the question's pictures; without pictures the text looks for the
    choice, a passage. Of equal ones the first is chosen.
    """
    right, late = np.full(len(questions), np.nan), similarity == "late"
    places = [place for place, question in enumerate(questions) if question.choices]
    for start in range(0, len(places), AT_ONCE):
        part = places[start : start + AT_ONCE]
        asked, offered = [], []
        for question in (questions[place] for place in part):
            asked.append(_query(encoder, question, "" if question.images else question.text))
            spoken = {"language": question.language or None, "role": "query" if question.images else "passage"}
            before = f"{question.words} " if question.images and question.text else ""
            offered += [{"text": before + choice, **spoken} for choice in question.choices]
        rows, choices = (_rows(_encoded(encoder, each, late), late) for each in (asked, offered))
        of_choice = np.repeat(np.arange(len(part)), [len(questions[place].choices) for place in part])
        every, pictured = np.arange(len(of_choice)), np.array([bool(questions[place].images) for place in part])
        pairs = {True: (rows, choices, of_choice, every), False: (choices, rows, every, of_choice)}
        scores = {of_pictures: pair_scores(*each, similarity) for of_pictures, each in pairs.items()}
        steps = score_steps(np.where(pictured[of_choice], scores[True], scores[False]))
        for number, place in enumerate(part):
            right[place] = np.argmax(steps[of_choice == number]) == questions[place].answer
    return right


def _encoded(encoder: Encoder, queries: Sequence[dict[str, Any]], late: bool) -> list[np.ndarray]:
    return query_token_rows(encoder, queries) if late else list(encoder.encode_queries(queries))


def _rows(encoded: Sequence[np.ndarray], late: bool) -> Rows:
    return TokenRows.of(encoded) if late else torch.from_numpy(np.stack(encoded))


def _query(encoder: Encoder, question: Question, text: str) -> dict[str, Any]:
    query: dict[str, Any] = {"images": [_picture(encoder, question, path) for path in question.images]}
    return query | ({"text": text, "language": question.language or None, "role": "query"} if text.strip() else {})


def _picture(encoder: Encoder, question: Question, path: Path) -> Image.Image | np.ndarray:
    """A picture, or features where the model reads those."""
    try:
        if encoder.images is None:
            return np.load(path, allow_pickle=False)
        image = encoder.images.open(path.read_bytes())
        image.load()
        return image
    except (OSError, ValueError, EOFError) as error:
        reason = getattr(error, "strerror", None) or ("no picture" if encoder.images else "no array of numbers")
        raise ValueError(f"--questions: {question.id!r}: image {path} cannot be read ({reason})") from None
