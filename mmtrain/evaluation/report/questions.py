"""What the report shows of questions: some of them with their best pages, right and wrong."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from datamodules.shards.samples import FEATURE_SUFFIX
from mmtrain.display.html import picture_uri
from mmtrain.evaluation.measuring.items import Items, page_text
from mmtrain.evaluation.measuring.questions import QuestionResults
from mmtrain.evaluation.metrics.questions import ACCURACY, figure_names
from mmtrain.evaluation.questions import Question
from mmtrain.evaluation.ranking.tiles import score_steps

PAGE_SIDE = 1000  # pixels of a page's longer side, so that what it says can be read
PAGES = 48  # in one report: at some 80 kB each they stay under 5 MB
TOP = 3  # answers shown


@dataclass(frozen=True)
class Page:
    """An item as an answer; its picture is a data URI, None where it has features or a text only."""

    id: str
    grade: float
    place: int
    score: float
    picture: str | None
    text: tuple[str, str]  # language and text; ("", "") of what has a picture

    @property
    def right(self) -> bool:
        return self.grade > 0


@dataclass(frozen=True)
class QuestionExample:
    """A question, its own pictures, the best answers, and its best right answer where that is none of them."""

    question: Question
    rank: int
    pictures: list[str]
    answers: list[Page]
    wanted: Page | None


def question_examples(results: QuestionResults, items: Items, *, seed: int = 0) -> dict[str, list[QuestionExample]]:
    """By language some questions with a right first answer and as many without, drawn at random.

    Where every language would take more than `PAGES` pages, fewer languages are drawn, evenly from the best to the
    worst.
    """
    if not results.ranks:
        return {}
    ranks, random = results.ranks[max(results.ranks)], np.random.default_rng(seed)
    of_question = np.array(results.languages, dtype=object)[ranks.query]
    languages = sorted(set(of_question), key=lambda language: -np.mean(ranks.rank[of_question == language] == 0))
    most = PAGES // (2 * TOP + 1)
    if len(languages) > most:
        languages = [languages[place] for place in np.linspace(0, len(languages) - 1, most).round().astype(int)]
    each = min(2, most // len(languages))
    examples: dict[str, list[QuestionExample]] = {}
    for language in languages:
        for right in (True, False):
            places = np.flatnonzero((of_question == language) & ((ranks.rank == 0) == right))
            for place in random.permutation(places)[:each]:
                example = _example(results, items, int(ranks.query[place]), int(ranks.rank[place]) + 1)
                examples.setdefault(language, []).append(example)
    return examples


def _example(results: QuestionResults, items: Items, query: int, rank: int) -> QuestionExample:
    asked = results.asked
    pool, question = asked.pool(query), asked.questions[query]
    scores = results.scores.of_pairs(pool, np.full(len(pool), query))
    grades = asked.grades[[query]].toarray()[0, pool]
    order = np.lexsort((grades, -score_steps(scores)))  # of equal ones the less relevant first, as ranks count

    def page(place: int) -> Page:
        item, score = int(pool[order[place]]), float(scores[order[place]])
        sample = items.sample(item)
        shown, text = None, ("", "")
        if sample.image is None:
            text = page_text(sample)
        elif sample.suffix != FEATURE_SUFFIX:
            shown = picture_uri(sample.image, PAGE_SIDE)
        return Page(sample.id, float(grades[order[place]]), place + 1, score, shown, text)

    first = int(np.flatnonzero(grades[order] > 0)[0])
    pictures = [picture_uri(path.read_bytes(), PAGE_SIDE // 2) for path in question.images if path.suffix != ".npy"]
    answers = [page(place) for place in range(min(TOP, len(pool)))]
    return QuestionExample(question, rank, pictures, answers, page(first) if first >= TOP else None)


def questions_in_words(facts: dict[str, Any]) -> list[str]:
    """What "protocol" says of questions, as sentences."""
    sentences = [f"{facts['questions']:,} questions to {facts['items']:,} items."]
    if "pools" in facts:
        least, most = facts["pools"]
        sizes = f"{most:,}" if least == most else f"{least:,} to {most:,}"
        shares = ", ".join(f"{name} {share:.1f}" for name, share in facts["chance"].items())
        sentences.append(f"A question looks among {sizes} items; in random order that gives {shares} %.")
    if facts["excluded"]:
        sentences.append(f"{facts['excluded']:,} questions have no answer among them and are left out.")
    if facts["unknown_items"]:
        sentences.append(f"{facts['unknown_items']:,} ids that questions name are no item.")
    if facts["text_items"]:
        sentences.append(f"{facts['text_items']:,} items have no picture; their text is compared.")
    if facts["repeated_items"]:
        sentences.append(f"{facts['repeated_items']:,} samples have the id of another; the first is the item.")
    sentences.append(
        "nDCG has the grade as gain and log2(1 + rank) as discount; recall and MRR take any grade above 0 as right. "
        "A tie goes against the model. Groups are over the questions of all languages."
    )
    return sentences


def shown_questions(results: QuestionResults, items: Items, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """What the report shows of questions, by the names that its template has for it."""
    names = figure_names(metrics["questions"])
    systems: list[tuple[str, Any, Any]] = [("the model", metrics["questions"]["mean"], {})]
    systems += [
        (name, each["questions"]["mean"], each["gain"].get("mean", {}))
        for name, each in metrics.get("text_baselines", {}).items()
    ]
    return {
        "protocol": questions_in_words(results.facts),
        "names": names,
        "with_interval": [name for name in ("nDCG@10", "R@1", ACCURACY) if name in names],
        "systems": systems,
        "examples": question_examples(results, items),
    }
