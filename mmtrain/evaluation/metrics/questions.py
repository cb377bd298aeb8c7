"""Figures of questions: nDCG by grades, recall, MRR and the accuracy of choices, by language and by group."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import gammaln

from mmtrain.evaluation.metrics.bootstrap import DRAWS, interval95, mean_over_languages, resampled_means, two_sided
from mmtrain.evaluation.ranking.queries import QueryRanks

DEPTHS = (5, 10)  # of nDCG
RECALL_AT = (1, 5, 10)
RETRIEVAL = (*(f"nDCG@{k}" for k in DEPTHS), *(f"R@{k}" for k in RECALL_AT), "MRR@10")
ACCURACY = "accuracy"
UNKNOWN = "und"  # the language of questions that do not say theirs
Values = dict[str, np.ndarray]


def question_values(ranks: Mapping[int, QueryRanks], count: int) -> Values:
    """The figures of each of `count` questions by name, float64 [Q] in 0 to 1; NaN for those without a rank.

    Args:
        ranks: By the depths of nDCG; {} where no question has a rank.
    """
    values = {name: np.full(count, np.nan) for name in RETRIEVAL}
    for depth, each in ranks.items():
        values[f"nDCG@{depth}"][each.query] = each.ndcg
    for each in list(ranks.values())[-1:]:
        place = each.rank + 1
        for k in RECALL_AT:
            values[f"R@{k}"][each.query] = place <= k
        values["MRR@10"][each.query] = np.where(place <= 10, 1 / place, 0)
    return values


def question_figures(
    values: Mapping[str, np.ndarray],
    languages: Sequence[str],
    groups: Sequence[str | None],
    *,
    bootstrap: int = DRAWS,
    seed: int = 0,
) -> dict[str, Any]:
    """{language: figures, ..., "mean": over languages, "groups": {group: figures of its questions of all languages}}.

    Figures are in percent, with "queries" and a 95 % interval under "<name>_ci95" that resamples questions. A figure
    that no question of an entry has is left out of it; the mean is over the languages that have it.

    Args:
        values: float64 [Q] in 0 to 1 by name, NaN where a question has none.
        languages: Of the Q questions.
        groups: Of the Q questions.
    """
    names, table, asked = _measured(values)
    by_language, by_group = _members(languages, asked), _members(groups, asked)
    entries = [_entry(names, table[member]) for member in (*by_language.values(), *by_group.values())]
    if bootstrap:
        members = np.stack([*by_language.values(), *by_group.values()])
        draws = resampled_means(table, members, bootstrap, seed)
        for number, entry in enumerate(entries):
            _add_intervals(entry, names, 100 * draws[:, number])
    figures = dict(zip(by_language, entries, strict=False))
    mean: dict[str, Any] = {
        name: float(np.mean([each[name] for each in figures.values() if name in each])) for name in names
    }
    mean["queries"] = float(np.mean([each["queries"] for each in figures.values()]))
    if bootstrap:
        for column, name in enumerate(names):
            mean[f"{name}_ci95"] = interval95(mean_over_languages(100 * draws[:, : len(by_language), column]))
    return {**figures, "mean": mean, "groups": dict(zip(by_group, entries[len(by_language) :], strict=True))}


def figure_names(figures: Mapping[str, Any]) -> list[str]:
    """The figures that some language of `question_figures` has."""
    return [name for name in (*RETRIEVAL, ACCURACY) if name in figures["mean"]]


def paired_questions(
    first: Mapping[str, np.ndarray],
    second: Mapping[str, np.ndarray],
    languages: Sequence[str],
    *,
    samples: int = DRAWS,
    seed: int = 0,
) -> dict[str, dict[str, dict[str, Any]]]:
    """The gain of `second` over `first` on the questions that both answer, as `paired_bootstrap` gives it.

    Returns {language or "mean": {name: {"first", "second", "difference", "ci95", "p", "queries"}}}, in percent and
    percentage points; {} where they share no question.
    """
    names = [name for name in RETRIEVAL if name in first and name in second]
    one, two = (100 * np.stack([values[name] for name in names], 1) for values in (first, second))
    both = ~np.isnan(one + two).any(1)
    members = _members(languages, both)
    if not members:
        return {}
    draws = resampled_means(np.where(both[:, None], two - one, np.nan), np.stack(list(members.values())), samples, seed)
    result: dict[str, dict[str, dict[str, Any]]] = {}
    means = {language: (one[own].mean(0), two[own].mean(0), own.sum()) for language, own in members.items()}
    a, b, count = (np.mean(np.stack(column), 0) for column in zip(*means.values(), strict=True))
    means["mean"] = (a, b, count)
    for number, (language, (before, after, queries)) in enumerate(means.items()):
        result[language] = {}
        for column, name in enumerate(names):
            gains = mean_over_languages(draws[:, :, column]) if language == "mean" else draws[:, number, column]
            gains = gains[~np.isnan(gains)]
            result[language][name] = {
                "first": float(before[column]),
                "second": float(after[column]),
                "difference": float(after[column] - before[column]),
                "ci95": interval95(gains),
                "p": two_sided(gains),
                "queries": float(queries),
            }
    return result


def chance(right: np.ndarray, pool: np.ndarray) -> dict[str, float]:
    """R@K in percent of answers in random order, mean over questions with `right` [Q] of `pool` [Q] items."""
    return {f"R@{k}": float(np.mean(100 * (1 - _all_wrong(right, pool, k)))) for k in RECALL_AT}


def _all_wrong(right: np.ndarray, pool: np.ndarray, k: int) -> np.ndarray:
    """How likely none of the first k is right: C(wrong, k) / C(pool, k)."""
    wrong = pool - right
    enough = wrong >= k
    wrong, pool = np.where(enough, wrong, k), np.where(enough, pool, k)
    logarithm = gammaln(wrong + 1) - gammaln(wrong - k + 1) - gammaln(pool + 1) + gammaln(pool - k + 1)
    return np.where(enough, np.exp(logarithm), 0.0)


def _measured(values: Mapping[str, np.ndarray]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """The names of figures that some question has, their table [Q, F], and which questions have any, bool [Q]."""
    names = [name for name, each in values.items() if not np.isnan(each).all()]
    table = np.stack([values[name] for name in names], 1)
    return names, table, ~np.isnan(table).all(1)


def _members(kinds: Sequence[str | None], asked: np.ndarray) -> dict[str, np.ndarray]:
    """bool [Q] by language or group: the questions of it that were measured."""
    of_question = np.array(kinds, dtype=object)
    names = sorted({kind for kind, measured in zip(kinds, asked, strict=True) if measured and kind is not None})
    return {name: (of_question == name) & asked for name in names}


def _entry(names: Sequence[str], table: np.ndarray) -> dict[str, Any]:
    has = ~np.isnan(table).all(0)
    entry: dict[str, Any] = {
        name: 100 * float(np.nanmean(table[:, column])) for column, name in enumerate(names) if has[column]
    }
    return entry | {"queries": len(table)}


def _add_intervals(entry: dict[str, Any], names: Sequence[str], draws: np.ndarray) -> None:
    for column, name in enumerate(names):
        if name in entry:
            entry[f"{name}_ci95"] = interval95(draws[:, column])
