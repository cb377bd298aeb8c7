"""`mmtrain compare --metrics`: do two benchmarks agree over languages and over models?"""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr

from mmtrain.cli import main
from mmtrain.evaluation.metrics.correlation import correlation

LANGUAGES = ("ar", "de", "en", "lv", "sw", "zh")
OPTIONS = ["--figure", "questions.mean.nDCG@10", "--with", "text_to_image.mean.R@1"]


@pytest.fixture
def files(tmp_path: Path) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Four models in six languages; the last one's figures lie in two files."""
    random = np.random.default_rng(0)
    first = random.uniform(0, 100, (4, 6))
    second = first + random.normal(0, 20, (4, 6))
    paths = []
    for model in range(4):
        questions = {language: {"nDCG@10": first[model, i], "queries": 7} for i, language in enumerate(LANGUAGES)}
        captions = {language: {"R@1": second[model, i], "queries": 9} for i, language in enumerate(LANGUAGES)}
        questions |= {"mean": {"nDCG@10": 0}, "groups": {"table": {"nDCG@10": 50}}}
        parts = [{"questions": questions, "text_to_image": captions | {"mean": {"R@1": 0}}}]
        if model == 3:
            parts = [{"questions": questions}, {"text_to_image": captions}]
        for part in parts:
            paths.append(tmp_path / f"{len(paths)}.json")
            paths[-1].write_text(json.dumps(part | {"protocol": {"model": f"runs/{model}" if model else "runs/1"}}))
    return [str(path) for path in paths], first, second


def test_correlations_are_scipys_over_languages_and_over_models(files, tmp_path: Path, capsys) -> None:
    paths, first, second = files
    assert main(["compare", "--metrics", *paths, *OPTIONS, "--out", str(tmp_path / "out")]) == 0
    result = json.loads((tmp_path / "out" / "correlation.json").read_text())
    assert result["models"] == [*paths[:3], "runs/3"]
    for over, one, two, n in (("over_languages", first, second, 6), ("over_models", first.T, second.T, 4)):
        *rows, mean = result[over].values()
        assert len(rows) == len(one)
        for row, a, b in zip(rows, one, two, strict=True):
            theirs = pearsonr(a, b)
            assert row["n"] == n and row["pearson"] == pytest.approx(theirs.statistic)
            assert row["pearson_ci95"] == pytest.approx(list(theirs.confidence_interval(0.95)), abs=1e-5)
            assert row["spearman"] == pytest.approx(spearmanr(a, b).statistic)
        for name in ("pearson", "spearman"):
            assert mean[name] == pytest.approx(np.mean([row[name] for row in rows]))
            assert mean[f"{name}_ci95"][0] <= mean[name] <= mean[f"{name}_ci95"][1]
    assert result["languages"]["lv"]["figure"] == {
        "counts": {"queries": 7},
        "values": pytest.approx(first[:, 3].tolist()),
    }
    assert "9 queries" in capsys.readouterr().out


def test_what_lacks_a_figure_is_named_and_a_figure_given_twice_is_refused(files, tmp_path: Path, capsys) -> None:
    paths, *_ = files
    for name, text in (("neither", "{}"), ("half", '{"questions": {"en": {"nDCG@10": 1}}, "protocol": null}')):
        (tmp_path / f"{name}.json").write_text(text)
    more = [str(tmp_path / "neither.json"), str(tmp_path / "half.json")]
    assert main(["compare", "--metrics", *paths, *more, *OPTIONS]) == 0
    assert f"left out, without {OPTIONS[1]} or {OPTIONS[3]}: {', '.join(more)}" in " ".join(
        capsys.readouterr().out.split()
    )
    again = tmp_path / "again.json"
    again.write_text(Path(paths[3]).read_text())
    for twice in (paths[0], str(again)):
        assert main(["compare", "--metrics", *paths, twice, *OPTIONS]) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and f"{twice} has {OPTIONS[1]} of" in error


def test_the_interval_of_a_correlation_covers_it() -> None:
    """95 of 100 intervals hold the true correlation, 0.6 (0.58 of ranks)."""
    random = np.random.default_rng(0)
    hits = {"pearson": 0, "spearman": 0}
    for _ in range(400):
        first = random.standard_normal(16)
        entry = correlation(first, 0.6 * first + 0.8 * random.standard_normal(16))
        for name, true in (("pearson", 0.6), ("spearman", 0.582)):
            low, high = entry[f"{name}_ci95"]
            hits[name] += low < true < high
    assert all(0.92 * 400 < count < 0.98 * 400 for count in hits.values())


def test_what_tells_nothing_is_null() -> None:
    assert correlation(np.ones(5), np.arange(5.0))["pearson"] is None
    assert correlation(np.array([1.0, 2, np.nan]), np.arange(3.0)) == {
        "n": 2, "pearson": None, "pearson_ci95": None, "spearman": None, "spearman_ci95": None
    }  # fmt: skip
    three = correlation(np.array([1.0, 2, 4]), np.arange(3.0))
    assert three["spearman"] == pytest.approx(1) and three["spearman_ci95"] is None


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([*OPTIONS[:3], "text_to_image.R@1"], "--with: got 'text_to_image.R@1', expected a figure by language"),
        ([*OPTIONS[:3], "image_to_text.mean.R@1"], "none of"),
        (["BROKEN", *OPTIONS], "broken.json cannot be read (no JSON)"),
        (["NOWHERE", *OPTIONS], "nowhere.json cannot be read"),
    ],
)
def test_bad_input_gets_one_line(arguments, says, files, tmp_path: Path, capsys) -> None:
    (tmp_path / "broken.json").write_text("{")
    places = {"BROKEN": str(tmp_path / "broken.json"), "NOWHERE": str(tmp_path / "nowhere.json")}
    arguments = [places.get(argument, argument) for argument in arguments]
    assert main(["compare", "--metrics", *files[0], *arguments]) == 1
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1


def test_models_and_benchmarks_are_compared_one_at_a_time(files, capsys) -> None:
    assert main(["compare", "--metrics", *files[0], "--figure", OPTIONS[1]]) == 2
    assert "needs --figure and --with" in capsys.readouterr().err
    assert main(["compare", "a", "b"]) == 2
    assert "--data: needed" in capsys.readouterr().err
    assert main(["compare", "a", "b", "--data", "shards", *OPTIONS]) == 2
    assert "it needs --metrics" in capsys.readouterr().err
