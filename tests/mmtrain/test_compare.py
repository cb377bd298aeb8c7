"""`mmtrain compare`: models side by side on the languages they share."""

import json

import pytest

from mmtrain.cli import main
from mmtrain.commands.compare import compare
from mmtrain.evaluation.report.tables import shown_p
from tests.chromium import CHROMIUM, looked_at
from tests.mmtrain.conftest import WORDS
from tests.mmtrain.small import fit


@pytest.fixture(scope="module")
def runs(shards, tmp_path_factory):
    """A model trained on three languages, and one trained longer on two, by words instead of bytes."""
    folder = tmp_path_factory.mktemp("runs")
    assert fit(shards, folder / "three", "--trainer.max_steps=2") == 0
    words = folder / "words.json"
    words.write_text(json.dumps({"words": {language: WORDS[language] for language in ("lv", "en")}}), encoding="utf-8")
    options = [
        "--data.languages=[lv,en]",
        f"--data.tokenizer={{class_path: datamodules.WordTokenizer, init_args: {{vocabulary: {words}}}}}",
        "--model.text={class_path: mmtrain.towers.WordGRU, init_args: {languages: 2, vocabulary_size: 32, width: 16}}",
        "--model.dimension=24",
        "--model.warmup_steps=2",
        "--trainer.max_steps=20",
    ]
    assert fit(shards, folder / "two", *options) == 0
    return folder / "three", folder / "two"


def test_on_the_languages_that_both_know(runs, shards, tmp_path, capsys):
    models = [str(run) for run in runs]
    arguments = ["--data", str(shards), "--out", str(tmp_path), "--workers", "0", "--device", "cpu"]
    assert main(["compare", *models, *arguments]) == 0
    result = json.loads((tmp_path / "compare.json").read_text(encoding="utf-8"))
    assert result["models"] == models and result["left_out"] == ["ar"]
    assert sorted(result["languages"]) == ["en", "lv"]
    for direction in ("text_to_image", "image_to_text"):
        for language in ("en", "lv", "mean"):
            of_first, of_second = (metrics[direction][language] for metrics in result["metrics"])
            gain = result["against_first"][0][direction][language]
            assert gain["difference"] == pytest.approx(of_second["R@1"] - of_first["R@1"])
            low, high = gain["ci95"]
            assert low <= gain["difference"] <= high and 0 < gain["p"] <= 1
            low, high = of_second["R@1_ci95"]
            assert low <= of_second["R@1"] <= high
    shown = capsys.readouterr().out
    assert "left out, because not every model was trained on it: ar" in shown and "A = " in shown and "B - A" in shown
    page = (tmp_path / "compare.html").read_text(encoding="utf-8")
    assert "English" in page and "Every caption of an image counts" in page
    assert "<html" in page and "://" not in page and "src=" not in page and page.count("<svg") == 6


@pytest.mark.system
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: the page is not opened in a browser")
def test_a_phone_shows_the_page(runs, shards, tmp_path):
    compare(*map(str, runs), data=str(shards), out=str(tmp_path), workers=0, device="cpu")
    looked_at((tmp_path / "compare.html").read_text(encoding="utf-8"), tmp_path, 390)


def test_the_least_p_is_a_bound():
    assert [shown_p(p) for p in (2 / 1001, 4 / 1001, 1.0)] == ["< 0.002", "0.004", "1.000"]


def test_a_model_does_not_differ_from_itself(runs, shards):
    three = compare(*[runs[0]] * 3, data=str(shards), recall_at=(5, 10), workers=0, device="cpu")
    assert three["left_out"] == [] and len(three["against_first"]) == 2
    for against in three["against_first"]:
        for direction in ("text_to_image", "image_to_text"):
            for gain in against[direction].values():
                assert gain["difference"] == 0 and gain["ci95"] == [0, 0] and gain["p"] == 1


def test_languages_may_be_named(runs, shards):
    three = runs[0]
    result = compare(three, three, data=str(shards), languages=["ar", "en"], workers=0, device="cpu")
    assert sorted(result["languages"]) == ["ar", "en"] and result["left_out"] == []


def test_one_model_is_wrong_usage(runs, shards, capfd):
    assert main(["compare", str(runs[0]), "--data", str(shards)]) == 2
    assert "MODEL" in capfd.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("models", "arguments", "says"),
    [
        (2, ["--languages", "[xx]"], "xx"),
        (2, ["--protocol", "xm3601"], "--protocol: 'xm3601' is unknown"),
        (2, ["--data", "NONE"], "NONE"),
    ],
)
def test_bad_input_is_one_line(models, arguments, says, runs, shards, tmp_path, capfd):
    data = [] if "--data" in arguments else ["--data", str(shards)]
    assert main(["compare", *map(str, runs[:models]), *data, "--workers", "0", *arguments]) == 1
    error = [line for line in capfd.readouterr().err.splitlines() if "error:" in line]
    assert len(error) == 1 and says in error[0], error
