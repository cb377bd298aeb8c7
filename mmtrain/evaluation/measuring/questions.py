"""`mmtrain evaluate --questions`: texts, pictures or both look for items, or for the right one of some choices.

Letters: Q questions, N items, D dimensions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datamodules.batch import Batch
from datamodules.shards.progress import with_progress
from datamodules.shards.samples import Sample
from losses import Embeddings
from mmtrain.display.messages import first_line
from mmtrain.embedding.collected import real_samples
from mmtrain.embedding.items import item_rows
from mmtrain.embedding.splits import MeasuredShards
from mmtrain.evaluation.measuring.late import token_rows
from mmtrain.evaluation.metrics.bootstrap import DRAWS
from mmtrain.evaluation.metrics.questions import ACCURACY, UNKNOWN, Values, question_figures
from mmtrain.evaluation.questions import Question, pool_names, read_questions
from mmtrain.evaluation.ranking.asked import Asked, Ranks
from mmtrain.evaluation.ranking.graded import EmbeddingScores
from mmtrain.evaluation.ranking.tiles import TIE_TOLERANCE, Rows, Similarity, pair_scores, score_steps
from mmtrain.evaluation.ranking.token_rows import TokenRows
from mmtrain.models.encoder import Encoder

AT_ONCE = 64  # questions whose pictures are open together


class Items:
    """Collects the rows of all samples; of several samples with one id the first is the item.

    Args:
        shards: The samples.
        late: Collects their token rows instead.
        encoder: A model that composes pictures with captions; None for pictures alone.

    Attributes:
        ids: Of the N items.
        repeated: How many samples have the id of another.
    """

    def __init__(self, shards: MeasuredShards, late: bool = False, encoder: Encoder | None = None) -> None:
        self.ids, self.repeated, self._late = list[str](), 0, late
        self._encoder, self._languages = encoder, shards.languages
        self._dataset, self._known = shards.dataset, set[str]()
        self._rows, self._places = list[Tensor](), list[int]()

    def add(self, batch: Batch, embeddings: Embeddings) -> None:
        assert embeddings.image is not None
        new = []
        for number in real_samples(batch):
            if batch.ids[number] in self._known:
                self.repeated += 1
                continue
            self._known.add(batch.ids[number])
            new.append(number)
        self.ids += [batch.ids[number] for number in new]
        self._places += batch.rows[new].tolist()
        if self._late:
            self._rows += token_rows(embeddings.multi["image"], torch.tensor(new, dtype=torch.int64))
        elif self._encoder is not None:
            self._rows.append(item_rows(self._encoder, batch, self._languages)[new])
        else:
            self._rows.append(embeddings.image[new].float().cpu())

    def rows(self) -> Rows:
        """float32 [N, D], or token rows of N items."""
        if self._late:
            return TokenRows.of(self._rows)
        if len(self._rows) > 1:
            self._rows = [torch.cat(self._rows)]
        return self._rows[0]

    def sample(self, item: int) -> Sample:
        """An item as it lies in its shard."""
        return self._dataset.sample(*self._dataset.place(self._dataset.at(self._places[item])))

    def samples(self) -> Iterator[Sample]:
        """All items, read once more."""
        yield from with_progress(map(self.sample, range(len(self.ids))), "reading items", len(self.ids), "items")

    def named_pools(self) -> dict[str, list[int]]:
        """The items of each pool that an item's JSON names."""
        pools: dict[str, list[int]] = {}
        for item, sample in enumerate(self.samples()):
            for name in dict.fromkeys(pool_names(sample.record)):
                pools.setdefault(name, []).append(item)
        return pools


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
    queries = late_question_rows(encoder, questions) if similarity == "late" else question_rows(encoder, questions)
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
    facts |= {"repeated_items": items.repeated, "ties": "pessimistic", "tie_tolerance": TIE_TOLERANCE}
    facts |= {"similarity": similarity, "bootstrap": {"samples": bootstrap, "seed": 0, "resampled": "questions"}}
    languages = [question.language or UNKNOWN for question in questions]
    figures = question_figures(values, languages, [question.group for question in questions], bootstrap=bootstrap)
    return QuestionResults(asked, ranks, scores, values, figures, facts)


def late_question_rows(encoder: Encoder, questions: Sequence[Question]) -> TokenRows:
    """Token rows of Q questions, texts with the prompt of a query.

    Raises:
        ValueError: for a question with pictures or choices.
    """
    for question in questions:
        if question.images or question.choices:
            what = "pictures" if question.images else "choices"
            raise ValueError(f"--similarity: late compares texts with items; question {question.id!r} has {what}")
    rows: dict[int, np.ndarray] = {}
    for language in dict.fromkeys(question.language for question in questions):
        own = [place for place, question in enumerate(questions) if question.language == language]
        texts = [questions[place].text for place in own]
        rows |= zip(own, encoder.encode_text(texts, language or None, role="query", multi=True), strict=True)
    return TokenRows.of(rows[place] for place in range(len(questions)))


def question_rows(encoder: Encoder, questions: Sequence[Question]) -> Tensor:
    """Questions as float32 [Q, D], texts with the prompt of a query.

    Raises:
        ValueError: for a picture that cannot be read.
    """
    parts = []
    for start in with_progress(range(0, len(questions), AT_ONCE), "encoding questions", len(questions) // AT_ONCE):
        part = questions[start : start + AT_ONCE]
        parts.append(encoder.encode_queries([_query(encoder, question, question.text) for question in part]))
    return torch.from_numpy(np.concatenate(parts))


def chosen_rightly(encoder: Encoder, questions: Sequence[Question], similarity: Similarity) -> np.ndarray:
    """Whether the most similar choice is the right one, float64 [Q]; NaN without choices.

    A choice behind the question's text is compared with the question's pictures; without pictures the choice, as a
    passage, with the text. Of equal ones the first is chosen.
    """
    right = np.full(len(questions), np.nan)
    places = [place for place, question in enumerate(questions) if question.choices]
    for start in range(0, len(places), AT_ONCE):
        part = places[start : start + AT_ONCE]
        asked, offered = [], []
        for question in (questions[place] for place in part):
            asked.append(_query(encoder, question, "" if question.images else question.text))
            spoken = {"language": question.language or None, "role": "query" if question.images else "passage"}
            before = f"{question.words} " if question.images and question.text else ""
            offered += [{"text": before + choice, **spoken} for choice in question.choices]
        rows, choices = (torch.from_numpy(encoder.encode_queries(each)) for each in (asked, offered))
        of_choice = np.repeat(np.arange(len(part)), [len(questions[place].choices) for place in part])
        steps = score_steps(pair_scores(rows, choices, of_choice, np.arange(len(choices)), similarity))
        for number, place in enumerate(part):
            right[place] = np.argmax(steps[of_choice == number]) == questions[place].answer
    return right


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
        reason = getattr(error, "strerror", None) or first_line(error)
        raise ValueError(f"--questions: {question.id!r}: image {path} cannot be read ({reason})") from None
