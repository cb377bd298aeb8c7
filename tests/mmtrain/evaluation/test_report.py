import html
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

from mmtrain.evaluation import rank_retrieval, report_parts, summarise, write_metrics, write_report
from mmtrain.evaluation.report.figures import read_curves, training_curves
from mmtrain.evaluation.report.report import shade
from mmtrain.evaluation.report.tables import print_retrieval
from tests.chromium import CHROMIUM, looked_at, opened


@pytest.fixture(scope="module")
def report(shown, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    curves = folder / "metrics.csv"
    curves.write_text("epoch,step,train/loss,val/R@1\n0,1,4.5,\n0,2,3.5,\n0,2,,10\n1,3,nan,\n1,4,2.0,\n1,4,,30\n")
    write_report(
        folder / "report.html",
        summarise(shown.ranks),
        title="Numbers & <script>alert(1)</script>",
        run={"model": "runs/quickstart", "data": "shards/test"},
        curves=curves,
        **report_parts(shown.ranks, shown.image, shown.text, shown.captions, shown.thumbnail),
    )
    return folder / "report.html"


def test_the_report_says_what_was_measured_and_how(report):
    words = re.sub(r"<[^>]+>", " ", report.read_text())
    for phrase in (
        "40 images and",
        "any-positive",
        "Search is exact (flat index), by cosine",
        "bootstrap",
        "runs/quickstart",
    ):
        assert phrase in words
    for heading in ("Text to image", "Image to text", "Text to text", "Do the languages agree?"):
        assert len(re.findall(rf">{re.escape(heading)}</(?:h2|a)>", report.read_text())) == 2  # in the contents, too
    assert "Hebrew he" in re.sub(" +", " ", words) and "Training loss; less is better" in words


def test_nothing_in_the_report_can_leave_it(report):
    page = report.read_text()
    assert "<script" not in page
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert sources and all(source.startswith(("data:", "#part-")) for source in sources)
    assert "url(" not in page and "@import" not in page
    assert len(page) < 5_000_000


def test_captions_carry_their_language_and_direction_and_are_escaped(report, shown):
    page = report.read_text()
    captions = re.findall(r'<bdi dir="auto" lang="(\w+)">([^<]*)</bdi>', page)
    assert {language for language, _ in captions} == set(shown.ranks.languages)
    assert {html.unescape(text) for _, text in captions} <= set(shown.captions)
    assert "<b>" not in re.sub(r"<b>[\d.]+</b>", "", page)  # the headline numbers are the only bold text


def test_right_and_wrong_are_marked_by_a_sign_as_well_as_a_colour(report):
    page = report.read_text()
    assert page.count("✓") > 20 and page.count("✗") > 20


def test_a_report_needs_no_more_than_the_metrics(shown, tmp_path):
    write_report(tmp_path / "new" / "report.html", summarise(shown.ranks, bootstrap=0), title="Plain", run={})
    assert "Recall by language" in (tmp_path / "new" / "report.html").read_text()


def test_metrics_json_is_written_whole_and_without_nan(tmp_path, monkeypatch):
    path = tmp_path / "metrics.json"
    write_metrics(path, {"a": float("nan"), "b": np.float32(1.5), "c": [np.int64(3), None], "lv": "ā"})
    assert json.loads(path.read_text()) == {"a": None, "b": 1.5, "c": [3, None], "lv": "ā"}
    with pytest.raises(TypeError):
        write_metrics(path, {"a": object()})
    assert json.loads(path.read_text())["b"] == 1.5 and os.listdir(tmp_path) == ["metrics.json"]


def test_languages_that_are_no_unicode_no_text_or_mathematics(tmp_path, capsys):
    random = np.random.default_rng(0)
    names = ["d\udce9", "$\\frac$", "\x1b[2J", "[/en]"]
    image = random.standard_normal((8, 4))
    text = np.repeat(image, 4, axis=0) + 0.1 * random.standard_normal((32, 4))
    metrics = summarise(rank_retrieval(image, text, np.repeat(np.arange(8), 4), names * 8), bootstrap=0)
    write_metrics(tmp_path / "metrics.json", metrics)
    assert set(json.loads((tmp_path / "metrics.json").read_text())["text_to_image"]) == {*names, "mean"}
    curves = {name: ([1, 2], [3, 4]) for name in names}
    write_report(tmp_path / "report.html", metrics, title=names[0], run={"data": names[0]}, curves=curves)
    assert "[/en]" in (tmp_path / "report.html").read_text()
    print_retrieval(metrics, (1, 5, 10))
    assert "\x1b" not in capsys.readouterr().out


def test_curves_come_from_the_logger_s_csv(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("samples_seen,step,train/loss,once\n64,1,2.0,\n128,2,1.0,5\n")
    assert read_curves(path) == ("samples seen", {"train/loss": ([64.0, 128.0], [2.0, 1.0])})
    path.write_text("loss\n1\n")
    with pytest.raises(ValueError, match="hold no clock"):
        read_curves(path)


def test_curves_are_chosen():
    def curve(last):
        return [1, 2], [0, last]

    names = {"train/loss": 3, "train/itc": 1, "train/itm": 2, "learning_rate": 1, "speed/samples_per_second": 9, "x": 1}
    for k in (1, 5):
        names |= {f"val/text_to_image/R@{k}/{name}": at for name, at in {"mean": 6, "lv": 4, "no": 3, "en": 9}.items()}
    names |= {"val/macro_f1": 1, "val/relation/macro_f1/mean": 2, "val/relation/macro_f1/en": 2}
    figures = training_curves({name: curve(last) for name, last in names.items()}, "samples seen")
    lines = {
        caption: {line.get_label(): line.get_ydata()[-1] for line in figure.axes[0].lines}
        for caption, figure in figures.items()
    }
    assert lines["Training loss; less is better"] == {"loss": 3, "itc": 1, "itm": 2}
    assert lines["Validation, text to image, R@1 in percent; more is better"] == {"mean": 6, "worst: Norwegian": 3}
    assert [caption.split(",")[0] for caption in figures] == [
        "Training loss; less is better", "Validation", "Validation", "Learning rate", "Speed of the training"
    ]  # fmt: skip
    assert {figure.axes[0].get_xlabel() for figure in figures.values()} == {"samples seen"}


def test_letters_on_the_colours_of_ranks_can_be_read():
    def light(colour):
        parts = [int(part) / 255 for part in colour]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05

    for rank in range(1, 1001):
        ground, letters = shade(rank, 1000).split(";color:")
        ground = light(re.findall(r"\d+", ground))
        assert max(ground / 0.05 if letters == "#000" else 1.05 / ground, 0) >= 4.5


@pytest.mark.system
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: the report is not opened in a browser")
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_the_report_without_a_request_or_an_error(report, tmp_path, width):
    assert opened(report, tmp_path) == ([], [])
    page = report.read_text()
    seen, _ = looked_at(page, tmp_path, width)
    pictures = page.count("<img ")
    assert pictures > 50
    assert seen == {"pictures": pictures, "shown": pictures}


@pytest.mark.system
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: the test of the browser test is left out")
@pytest.mark.parametrize(
    "style", ["font-size: 10.9px", "color: #777; background: #ffe", "display: block; width: 391px", "opacity: .5"]
)
def test_the_browser_test_notices_what_cannot_be_read(style, tmp_path):
    body = "<body style='margin: 0'><p>text <span style='{}'>more</span></body>"
    assert looked_at(body.format("font-size: 11px"), tmp_path, 390)[0] == {"pictures": 0, "shown": 0}
    with pytest.raises(AssertionError):
        looked_at(body.format(style), tmp_path, 390)


@pytest.mark.system
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: the test of the browser test is left out")
def test_the_browser_test_notices_requests_and_errors(tmp_path):
    page = tmp_path / "bad.html"
    page.write_text("<img src='http://example.com/picture.png'><script>missing()</script>")
    console, requests = opened(page, tmp_path)
    assert "http://example.com/picture.png" in requests and "missing is not defined" in console[0]
