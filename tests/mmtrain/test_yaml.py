"""Names of languages, classes and columns that YAML 1.1 takes for something else."""

from pathlib import Path

import pytest
import yaml

from mmtrain.cli import main
from mmtrain.export.hub import prepare
from mmtrain.export.marker import write_marker
from mmtrain.models.yaml12 import read_yaml, yaml_text
from tests.mmtrain.small import TINY

WORDS = ["no", "on", "y", "yes", "off", "007", "1_000", "12:30", "2024-01-01"]


@pytest.mark.parametrize("reader", [read_yaml, yaml.safe_load])
def test_text_reads_back_as_text(reader) -> None:
    names = [*WORDS, "No", "n", "1", "1e5", "true", "null", "~", "", "=", "<<", "0x10", "- a", "a: b", "#", "\x1b"]
    content = {"languages": names, "caps": dict.fromkeys(names, 1), "others": [1, 1.5, 1e-5, True, None, "a", 1e22]}
    assert reader(yaml_text(content)) == content


def test_words_and_keys_are_text_but_for_true_null_and_numbers() -> None:
    assert read_yaml(f"[{', '.join(WORDS)}]") == WORDS
    assert read_yaml("{no: 1, 2: yes, true: ~}") == {"no": 1, "2": "yes", "true": None}
    plain = [True, False, None, None, 12, -1, 1.5, 0.001, float("inf")]
    assert read_yaml("[true, False, null, ~, 12, -1, 1.5, 1e-3, .inf]") == plain
    assert read_yaml("{a: &a {no: 1}, b: {<<: *a, c: 2}}")["b"] == {"no": 1, "c": 2}


NAMED = {
    "languages": ["no", "on", "1"],
    "language_caps": {"no": 5, "1": 7},
    "label_names": {"on": ["no", "yes", "1", "1.5", "true"]},
    "text_language": "y",
    "drawing": {"class_path": "datamodules.Weighted", "init_args": {"weights": {"no": 1.0, "2": 2.0}}},
    "manifest": {"captions": {"no": "2"}, "labels": {"on": "off"}, "image": "7"},
}


def as_written(content) -> str:
    """Flow style without a quotation mark, as people type it."""
    if isinstance(content, dict):
        return f"{{{', '.join(f'{name}: {as_written(value)}' for name, value in content.items())}}}"
    return f"[{', '.join(map(as_written, content))}]" if isinstance(content, list) else str(content)


@pytest.mark.parametrize("by", ["option", "page"])
def test_names_in_options_and_pages_of_fit(by: str, tmp_path: Path, capsys) -> None:
    page = tmp_path / "page.yaml"
    page.write_text(f"data: {{init_args: {as_written(NAMED)}}}", encoding="utf-8")
    options = [f"--data.{name}={as_written(value)}" for name, value in NAMED.items()]
    given = options if by == "option" else [f"--config={page}"]
    others = ["--data.images.flip=yes", "--model.compile=true", "--model.micro_batch=null", "--trainer.max_steps=7"]
    assert main(["fit", "--config", TINY, "--data=RelationDataModule", *given, *others, "--print_config"]) == 0
    printed = capsys.readouterr().out
    config = read_yaml(printed)
    assert config == yaml.safe_load(printed)
    data = config["data"]["init_args"]
    for name in NAMED.keys() - {"manifest"}:
        assert data[name] == NAMED[name], name
    manifest = data["manifest"]
    assert {name: manifest.get("init_args", manifest)[name] for name in NAMED["manifest"]} == NAMED["manifest"]
    assert data["images"]["init_args"]["flip"] is True and config["model"]["init_args"]["compile"] is True
    assert config["model"]["init_args"]["micro_batch"] is None and config["trainer"]["max_steps"] == 7


def test_names_in_a_source(capsys) -> None:
    train = "[{shards: a, languages: [no], objectives: [off], name: 1}]"
    assert main(["fit", "--config", TINY, f"--data.train={train}", "--print_config"]) == 0
    (source,) = read_yaml(capsys.readouterr().out)["data"]["init_args"]["train"]
    named = {"shards": "a", "languages": ["no"], "objectives": ["off"], "name": "1"}
    assert named.items() <= source.get("init_args", source).items()


def test_a_card_keeps_norwegian(tmp_path: Path) -> None:
    for language in ("no", "'no'"):
        card = tmp_path / "README.md"
        card.write_text(f"---\nlibrary_name: mmtrain\nlanguage:\n- {language}\n- lv\n---\nA model\n---\n")
        write_marker(tmp_path, "safetensors")
        prepare(tmp_path, "someone/a-model", "mit")
        _, header, text = card.read_text(encoding="utf-8").split("---\n", 2)
        expected = {"library_name": "mmtrain", "language": ["no", "lv"], "license": "mit"}
        assert yaml.safe_load(header) == expected and text == "A model\n---\n"
