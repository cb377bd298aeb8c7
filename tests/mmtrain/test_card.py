"""Model cards: read again by the hub's own library, with figures, odd names and what only the owner knows."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard, ModelCardData, parse_eval_result_entries

from datamodules import ByteTokenizer
from mmtrain.cli import main
from mmtrain.export.hub import prepare
from mmtrain.export.writing import write
from mmtrain.models.encoder import Encoder
from mmtrain.models.image_text import ImageTextModel
from mmtrain.models.leaderboard import META, base_models
from mmtrain.models.yaml12 import yaml_text
from mmtrain.towers import ByteGRU, FeatureTower

LANGUAGES = ["no", "zh-Hant", "pt_BR", "fil", "y", "'q'", 'Latvian: "latviešu"', "on"]
ODD = 'it\'s a "model": no. #1 - 名---'


def encoder(languages: list[str] = LANGUAGES) -> Encoder:
    network = ImageTextModel(FeatureTower(12), ByteGRU(32), dimension=8)
    return Encoder(network, ByteTokenizer(), None, languages, "cosine", "x")


def figures(languages: list[str], recall_at: tuple[int, ...]) -> dict[str, Any]:
    by_language = {name: {f"R@{k}": 10.0 * k + 0.126 for k in recall_at} for name in (*languages, "mean")}
    return {"text_to_image": by_language, "image_to_text": by_language, "mean_recall": 50.0}


def run(folder: Path, *, recall_at: tuple[int, ...] = (1, 5, 10), shorter: bool = True, **protocol: Any) -> Path:
    """A run folder with a report, as far as a card reads it."""
    (folder / "report").mkdir(parents=True)
    metrics = figures(LANGUAGES, recall_at)
    metrics["protocol"] = {"images": 7, "texts": 56, "captions": "all", "recall_at": list(recall_at)} | protocol
    if shorter:
        metrics["shorter"] = [{"width": 4, "precision": "int8", "bytes": 4, **figures(LANGUAGES, recall_at)}]
    (folder / "report" / "metrics.json").write_text(json.dumps(metrics))
    return folder


def card(folder: Path) -> ModelCardData:
    return ModelCard.load(folder / "README.md").data


def test_odd_names_and_languages_are_read_again(tmp_path: Path) -> None:
    out = write(encoder(), str(run(tmp_path / ODD, data="/data/odd 'name': é/")), tmp_path / "out")
    data = card(out)
    assert data.language == ["no", "zh", "pt", "fil", "on"] and data.language_bcp47 == LANGUAGES
    assert data.model_name == ODD and data.library_name == "mmtrain" and data.pipeline_tag == "feature-extraction"
    assert data.license is data.datasets is data.base_model is None
    results = data.eval_results
    assert len(results) == 2 * (len(LANGUAGES) + 1) * 2
    assert {each.dataset_config for each in results} == {*LANGUAGES, "mean"}
    assert {each.dataset_name for each in results} >= {"odd 'name': é, no", "odd 'name': é, mean of the languages"}
    assert {(each.metric_type, each.metric_value) for each in results} == {
        ("recall_at_1", 10.13),
        ("recall_at_10", 100.13),
    }
    assert {each.task_type for each in results} == {"text-to-image-retrieval", "image-to-text-retrieval"}
    text = ModelCard.load(out / "README.md").text
    assert (
        "| width | precision | bytes a row | text to image R@1 |" in text and "| 4 | int8 | 4 | 10.1 | 100.1 |" in text
    )
    assert "/data/" not in (out / "README.md").read_text()


def test_a_card_without_figures_or_languages(tmp_path: Path) -> None:
    data = card(write(encoder([]), str(tmp_path / "no run"), tmp_path / "out"))
    assert data.language == ["multilingual"] and data.eval_results is None and "model_name" not in data.to_dict()


def test_a_card_of_a_run_that_answered_questions_alone_has_no_figures(tmp_path: Path) -> None:
    (tmp_path / "run" / "report").mkdir(parents=True)
    metrics = {"protocol": {"images": 7, "texts": 0, "recall_at": [1]}, "questions": {"mean": {"R@1": 50}}}
    (tmp_path / "run" / "report" / "metrics.json").write_text(json.dumps(metrics))
    assert card(write(encoder(["en"]), str(tmp_path / "run"), tmp_path / "out")).eval_results is None


def test_a_part_of_a_test_set_is_not_called_by_its_name(tmp_path: Path) -> None:
    protocol = {"name": "xm3600", "variant": "first", "complete": False, "data": "/shards/forty"}
    out = write(encoder(), str(run(tmp_path / "run", **protocol)), tmp_path / "out")
    assert card(out).eval_results[0].dataset_name == "forty, no" and "xm3600" not in (out / "README.md").read_text()


@pytest.mark.parametrize("recall_at", [(3,), (2, 20)])
def test_other_recalls_than_usual_are_shown(recall_at: tuple[int, ...], tmp_path: Path) -> None:
    out = write(encoder(), str(run(tmp_path / "run", recall_at=recall_at, shorter=False)), tmp_path / "out")
    assert {each.metric_type for each in card(out).eval_results} == {f"recall_at_{k}" for k in recall_at}
    assert "Shorter" not in (out / "README.md").read_text()


def test_push_adds_what_its_owner_says(tmp_path: Path, capsys) -> None:
    protocol = {"name": "xm3600", "variant": "first", "complete": True}
    out = write(encoder(), str(run(tmp_path / "run", **protocol)), tmp_path / "out")
    tasks = {"xm_text_no": "text_to_image/no/R@1", "xm_image": "image_to_text/mean/R@10"}  # as their eval.yaml has them
    for _ in range(2):  # a second push changes nothing
        sent = prepare(out, "me/model", "mit", datasets=["me/a", "you/b.c"], measured_on="us/xm-3600", tasks=tasks)
        data = card(out)
        assert (data.license, data.datasets, data.model_name) == ("mit", ["me/a", "you/b.c"], "model")
        assert {each.dataset_type for each in data.eval_results} == {"us/xm-3600"}
        assert data.eval_results[0].dataset_name == "xm3600/first, no" and data.language_bcp47 == LANGUAGES
        assert {"README.md", META, ".eval_results/retrieval.yaml"} <= set(sent)
        entries = parse_eval_result_entries(yaml.safe_load((out / ".eval_results" / "retrieval.yaml").read_text()))
        assert [(each.dataset_id, each.task_id, each.value, each.notes) for each in entries] == [
            ("us/xm-3600", "xm_text_no", 10.13, "text to image, no: R@1 in percent"),
            ("us/xm-3600", "xm_image", 100.13, "image to text, mean: R@10 in percent"),
        ]
        meta = json.loads((out / META).read_text())
        assert (meta["name"], meta["license"]) == ("me/model", "mit")
    assert write(encoder(), "x", tmp_path / "out") == out  # it is still an export


def test_without_the_names_of_a_benchmarks_tasks_nothing_is_written_for_its_leaderboard(tmp_path: Path) -> None:
    out = write(encoder(), str(run(tmp_path / "run")), tmp_path / "out")
    assert ".eval_results/retrieval.yaml" not in prepare(out, "me/model", "mit", measured_on="us/xm-3600")
    assert {each.dataset_type for each in card(out).eval_results} == {"us/xm-3600"}


def test_results_are_read_by_the_other_library_that_writes_them(tmp_path: Path) -> None:
    model = pytest.importorskip("mteb._hf_integration.eval_result_model").HFEvalResults
    out = write(encoder(), str(run(tmp_path / "run")), tmp_path / "out")
    prepare(out, "me/model", "mit", measured_on="us/data", tasks={"a task": "text_to_image/mean/R@1"})
    (entry,) = yaml.safe_load((out / ".eval_results" / "retrieval.yaml").read_text())
    entry["dataset"].setdefault("revision", None)  # which it leaves out when it writes
    assert model.model_validate([entry])[0].dataset.task_id == "a task"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--datasets", "mine"], "push: mine names no repository; OWNER/NAME"),
        (["--datasets", "me/a,a b/c"], "push: a b/c names no repository"),
        (["--measured_on", "mine"], "push: mine names no repository"),
        (["--measured_on", "me/data"], "has no figures; mmtrain evaluate, then export again"),
        (["--tasks", "[a=text_to_image/no/R@1]"], "tasks a of no dataset; --measured_on OWNER/NAME"),
    ],
)
def test_push_refuses_in_one_line(options: list[str], said: str, tmp_path: Path, capsys) -> None:
    out = write(encoder(), "x", tmp_path / "out")
    before = (out / "README.md").read_text()
    assert main(["push", str(out), "me/model", "--licence", "mit", *options]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert said in line and (out / "README.md").read_text() == before


def test_push_keeps_results_and_headers_that_a_person_wrote(tmp_path: Path, capsys) -> None:
    out = write(encoder(), str(run(tmp_path / "run")), tmp_path / "out")
    (out / ".eval_results").mkdir()
    (out / ".eval_results" / "retrieval.yaml").write_text("mine")
    command = ["push", str(out), "me/model", "--licence", "mit", "--measured_on", "me/data", "--tasks"]
    assert main([*command, "[a=text_to_image/xx/R@1]"]) == 1
    assert "a: 'text_to_image/xx/R@1' is no figure of the card; text_to_image/no/R@1, " in capsys.readouterr().err
    command.append("[a=text_to_image/no/R@1]")
    assert main(command) == 1 and "was not written by mmtrain" in capsys.readouterr().err
    for text in ("---\n- a\n---\n", "---\na: [\n---\n", "---\nmodel-index: 3\n---\n"):
        (out / "README.md").write_text(text)
        assert main(command) == 1
        error = capsys.readouterr().err
        assert "cannot be read" in error and "Traceback" not in error and (out / "README.md").read_text() == text


def test_base_models_are_the_hubs_names_of_a_runs_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine" / "bert").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "last.ckpt").touch()
    assert base_models("run") == []
    timm, text = "mmtrain.towers.TimmTower", "mmtrain.towers.TransformersTower"
    towers = [
        {"class_path": timm, "init_args": {"pretrained": "vit_base_patch16_224.augreg2_in21k_ft_in1k"}},
        {"class_path": text, "init_args": {"pretrained": "FacebookAI/xlm-roberta-base@0123abc"}},
        {"class_path": text, "init_args": {"pretrained": "FacebookAI/xlm-roberta-base"}},
        {"class_path": text, "init_args": {"pretrained": "mine/bert"}},
        {"class_path": text, "init_args": {"pretrained": None}},
        {"class_path": timm, "init_args": {"pretrained": "/models/vit"}},
    ]
    model = {"init_args": {"pretrained": "open_clip:hf-hub:laion/CLIP-x", "towers": towers}}
    for each, found in (({}, []), ({"model": None}, []), ({"model": {"init_args": {"pretrained": "runs/one"}}}, [])):
        (tmp_path / "run" / "config.yaml").write_text(yaml_text(each))
        assert base_models("run") == found
    (tmp_path / "run" / "config.yaml").write_text(yaml_text({"model": model}))
    names = ["laion/CLIP-x", "timm/vit_base_patch16_224.augreg2_in21k_ft_in1k", "FacebookAI/xlm-roberta-base"]
    assert base_models("run") == base_models("run/checkpoints/last.ckpt") == names
    out = write(encoder(), "run", tmp_path / "out")
    assert card(out).base_model == names and json.loads((out / META).read_text())["adapted_from"] == names[0]
    assert base_models(str(out)) == names[:1]
    assert base_models("hf:OWNER/NAME@0123") == ["OWNER/NAME"] and base_models("open_clip:ViT-B-32/openai") == []
