"""What a person reads: wrong usage of fit, errors of readers, and text from data on a terminal."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image
from torch.utils.data._utils.worker import ExceptionWrapper

from datamodules import ShardDataModule, TextTransform
from mmtrain.cli import main
from mmtrain.display.messages import line_of, printable, say
from mmtrain.display.tables import print_facts, print_table
from tests.mmtrain.small import TINY


def refusal(capfd: pytest.CaptureFixture[str], *options: str) -> str:
    assert main(["fit", "--config", TINY, *options]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    return line.removeprefix("mmtrain fit: error: ")


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("--data.epoch_samples=many", "--data.epoch_samples: got 'many', expected a whole number or null"),
        ("--data.languages=en,de", "--data.languages: got 'en,de', expected a list like [en, lv] or null"),
        ("--data.captions_per_image=some", "--data.captions_per_image: got 'some', expected a whole number or all"),
        ("--data.language_caps={en: many}", "--data.language_caps: got 'many', expected whole numbers by name"),
        ("--data.batch_size=null", "--data.batch_size: got null, expected a whole number"),
        (
            "--model.image.image_size=null",
            "--model.image.image_size: got null, which a class below another takes from a config file alone",
        ),
        ("--data.allow_pipe=maybe", "--data.allow_pipe: got 'maybe', expected true or false"),
        ("--data.drawing=Pivot", "--data.drawing: datamodules.Pivot needs language"),
        ("--data.images.interpolation=x", "--data.images.interpolation: got 'x', expected nearest, bilinear"),
        ("--data.images.sizes=4", "ImagePipeline has no such option; nearest: --data.images.size"),
        ("--data.tokenizer=Foo", "--data.tokenizer: got 'Foo', expected a kind of Tokenizer, such as datamodules.Byte"),
        ("--data.train=[{shard: a}]", "--data.train.shard: datamodules.Source has no such option; nearest: --data.tr"),
        ("--model.betas=[0.9]", "--model.betas: got '[0.9]', expected a list of 2 items"),
        ("--model.image=mmtrain.towers.ByteGRU", "expected a kind of ImageTower, such as mmtrain.towers.FeatureTower"),
        ("--model.objectives={one: losses.Foo}", "--model.objectives: losses.Foo: module 'losses' has no attribute"),
        ("--model.optimizer=Adamm", "--model.optimizer: got 'Adamm', expected a kind of Optimizer, such as torch.opt"),
        (
            "--model=RelationModul",
            "--model: got 'RelationModul', expected a kind of LightningModule, such as mm",
        ),
        ("--trainer.precision=fp16", "--trainer.precision: got 'fp16', expected 64, 32, 16, transformer-engine"),
        ("--trainer.callbacks+=EarlyStoping", "such as pytorch_lightning.callbacks.EarlyStopping"),
        ("--trainer.max_stepz=3", "--trainer.max_stepz: Trainer has no such option; nearest: --trainer.max_steps"),
        ("--checkpoint.everi=3", "--checkpoint.everi: Checkpoint has no such option; there are --checkpoint.every_n"),
        ("--float32_matmul_precision=low", "--float32_matmul_precision: got 'low', expected highest, high"),
        ("--guard=x", "--guard: got 'x', expected its options: nonfinite_steps"),
        ("--nonsense=3", "--nonsense: fit has no such option; there are --trainer"),
    ],
)
def test_a_wrong_value_names_the_option_the_value_and_what_would_do(option: str, says: str, capfd) -> None:
    assert says in refusal(capfd, option)


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("--model.micro_batch=3", "mmtrain.RelationModule has no such option"),
        ("--data.langauges=[en]", "nearest: --data.languages"),  # of the parent, which gets what the class hands on
        ("--data.manifest={captions: x}", "--data.manifest.captions: got 'x', expected a mapping"),
    ],
)
def test_suggestions_are_of_the_class_in_use(option: str, says: str, capfd) -> None:
    line = refusal(capfd, "--model=RelationModule", "--data=RelationDataModule", option)
    assert says in line and "micro_batch" not in line.replace("--model.micro_batch:", "")


@pytest.mark.parametrize(
    ("page", "says"),
    [
        ("data: {init_args: {batch_size: x}}", "data.batch_size: got 'x', expected a whole number"),
        (
            "data: {init_args: {batchsize: 3}}",
            "data.batchsize: datamodules.ShardDataModule has no such option",
        ),
        ("trainer: {max_steps: x}", "trainer.max_steps: got 'x', expected a whole number"),
        ("trainer: 5", "trainer: got '5', expected its options: accelerator"),
        ("checkpoint: {x: 1}", "checkpoint.x: Checkpoint has no such option"),
        ("foo: 3", "foo: fit has no such option"),
        ("{[", "Problems parsing config"),
        ("- a", "got '- a', expected options by name"),
    ],
)
def test_a_mistake_in_a_page_names_the_page_and_the_key(page: str, says: str, tmp_path: Path, capfd) -> None:
    path = tmp_path / "page.yaml"
    path.write_text(page, encoding="utf-8")
    assert refusal(capfd, f"--config={path}").startswith(f"--config {path}: {says}")


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("--model.image.options={features_only: true}", "--model.image: mmtrain.towers.TimmTower: 'FeatureListNet'"),
        ("--trainer.max_time=x", "--trainer.max_time: got 'x'; "),
        ("--trainer.accelerator=5", "--trainer.accelerator: got '5'; "),
    ],
)
def test_what_is_refused_when_it_is_made_names_its_option(option: str, says: str, shards: Path, tmp_path: Path, capfd):
    places = [f"--data.train={shards}", f"--trainer.default_root_dir={tmp_path}"]
    assert main(["fit", "--config", TINY, *places, "--model.image.name=resnet10t", option]) == 1
    assert f"mmtrain fit: error: {says}" in capfd.readouterr().err


def test_classes_are_known_by_their_short_names(capsys) -> None:
    short = ["--model=RelationModule", "--data=RelationDataModule", "--trainer.callbacks+=RichProgressBar"]
    assert main(["fit", "--config", TINY, *short, "--print_config"]) == 0
    printed = capsys.readouterr().out
    assert "class_path: mmtrain.RelationModule" in printed and "datamodules.RelationDataModule" in printed


def test_the_help_of_fit_begins_with_our_options(capsys) -> None:
    assert main(["fit", "--help"]) == 0
    first = capsys.readouterr().out.splitlines()[:16]
    assert any("--data.train" in line for line in first) and any("--model.help CLASS" in line for line in first)


class Stumbling(TextTransform):
    def __call__(self, text, language, rng):
        raise KeyError(text)


def test_an_error_in_a_reader_process_is_one_line_that_names_the_sample(shards: Path) -> None:
    data = ShardDataModule(str(shards), batch_size=2, workers=0, text=Stumbling())
    data.setup("fit")
    with pytest.raises(KeyError) as raised:
        next(iter(data.train_dataloader()))
    here = line_of(raised.value)
    assert re.match(r"KeyError: .* in sample \S+ of .*\.tar$", here)
    wrapped = ExceptionWrapper((KeyError, raised.value, raised.tb), "in DataLoader worker process 0")
    with pytest.raises(KeyError) as again:
        wrapped.reraise()
    assert line_of(again.value) == here


HOSTILE = "\x1b]0;title\x07 \x1b[2J \x9b31m \x7f\b [/en] [red] \ud800 \t end"


def harmless(text: str) -> bool:
    return not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]", text)


def test_text_from_data_commands_no_terminal_and_is_no_markup(capsys) -> None:
    say(HOSTILE)
    print_table(HOSTILE, ("language", HOSTILE), [[HOSTILE, "1"]])
    print_facts({HOSTILE: {HOSTILE: HOSTILE}, "list": [HOSTILE], "class": {"class_path": HOSTILE, "init_args": {}}})
    shown = capsys.readouterr().out
    assert harmless(shown) and shown.count("[/en]") >= 7 and "end" in shown
    assert printable("two\nlines\té") == "two\nlines é"


def test_shards_with_hostile_text_are_inspected(tmp_path: Path, capsys) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    text = HOSTILE.replace("\ud800", "")
    row = {"id": text, "image": "a.png", "captions": {text: text}, "labels": {text: text}}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row), encoding="utf-8")
    out = tmp_path / "out [/x]\x9b2J"
    assert main(["pack", "jsonl", str(tmp_path / "rows.jsonl"), "--out", str(out), "--workers", "1"]) == 0
    assert main(["inspect", str(out)]) == 0
    assert main(["inspect", str(out / "no\x1b[31m")]) == 1
    shown = capsys.readouterr()
    assert harmless(shown.out) and harmless(shown.err) and "[/en]" in shown.out


@pytest.mark.parametrize("verb", [["evaluate", "MODEL"], ["compare", "MODEL", "MODEL"], ["inspect", "MODEL"]])
@pytest.mark.parametrize("place", ["/proc/none/out", "FILE/out"])
def test_where_to_write_is_tried_before_the_work(verb: list[str], place: str, tmp_path: Path, capfd) -> None:
    (tmp_path / "file").touch()
    out = place.replace("FILE", str(tmp_path / "file"))
    option = ["--html", f"{out}/page.html"] if verb[0] == "inspect" else ["--data", "none", "--out", out]
    assert main([*verb, *option]) == 1  # not for MODEL, which is nowhere either
    assert f"{option[-2]}: {out} cannot be written" in capfd.readouterr().err
