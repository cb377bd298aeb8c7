"""Sources with objectives of their own, from the command line to the weights."""

import csv
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from datamodules import ImagePipeline, ShardDataModule, Source
from mmtrain.cli import main
from tests.mmtrain.small import arguments, fit

OBJECTIVES = "{clip: {class_path: losses.ClipLoss}, k: {class_path: losses.OneToKLoss}}"


@pytest.fixture
def dictionary(tmp_path: Path) -> Path:
    (tmp_path / "words.tsv").write_text("en\tlv\nred\tsarkans\nblue\tzils\n", encoding="utf-8")
    return tmp_path / "words.tsv"


def column(run: Path, name: str) -> list[float]:
    with (run / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


def test_everything_about_a_mixture_is_an_option(shards: Path, tmp_path: Path, dictionary: Path, capsys) -> None:
    sources = (
        f"[{{shards: {shards}, weight: 3, languages: [en, lv], text: {{class_path: datamodules.CodeSwitch,"
        f" init_args: {{dictionaries: [{dictionary}]}}}}}},"
        f" {{shards: {shards}, name: arabic, languages: [ar], objectives: [clip],"
        " images: {class_path: datamodules.ImagePipeline, init_args: {size: 32, augment: false}},"
        " filters: [{class_path: datamodules.curation.Length, init_args: {shortest: 2}}]}]"
    )
    options = [f"--data.train={sources}", f"--model.objectives={OBJECTIVES}", "--data.captions_per_image=2"]
    options += ["--data.drawing=datamodules.Pivot", "--data.drawing.language=lv", "--data.language_alpha=0.5"]
    options += ["--data.language_caps={en: 20}", "--trainer.max_steps=4"]
    assert fit(shards, tmp_path / "run", *options) == 0
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text(encoding="utf-8"))["data"]["init_args"]
    assert config["drawing"]["init_args"]["language"] == "lv" and config["language_caps"] == {"en": 20}
    assert [source["weight"] for source in config["train"]] == [3.0, None]
    assert config["train"][1]["filters"][0]["init_args"] == {"shortest": 2, "longest": None}
    drawn = json.loads((tmp_path / "run" / "skipped.json").read_text(encoding="utf-8"))["drawn"]
    assert {name: entry["samples"] for name, entry in drawn.items()} == {"shards": 24, "arabic": 8}
    assert drawn["arabic"]["captions"] == {"ar": 8}
    assert column(tmp_path / "run", "drawn/samples/arabic")[-1] == pytest.approx(0.25)
    assert column(tmp_path / "run", "drawn/captions/ar")[-1] == pytest.approx(0.25)
    # the folder's own config is the same run; a list grows and its last entry changes by dots
    again = ["fit", "--config", str(tmp_path / "run" / "config.yaml"), "--print_config"]
    assert main([*again, f"--data.train+={{shards: {shards}}}", "--data.train.weight=0.5"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)["data"]["init_args"]["train"]
    assert [source["weight"] for source in printed] == [3.0, None, 0.5]


def test_text_and_rules_change_by_dots(shards: Path, tmp_path: Path, dictionary: Path) -> None:
    options = ["--data.text=datamodules.CodeSwitch", f"--data.text.dictionaries=[{dictionary}]"]
    options += ["--data.text.word_ratio=0.5", "--data.drawing=datamodules.Weighted", "--data.drawing.weights={en: 4}"]
    assert fit(shards, tmp_path / "run", *options, "--trainer.max_steps=2", "--data.captions_per_image=all") == 0


def test_captions_of_other_sources_are_absent_from_an_objective(shards: Path, tmp_path: Path) -> None:
    """The logged loss of step 1 is that of the same embeddings with the other source's captions taken away."""
    import pytorch_lightning as pl

    from losses import ClipLoss, OneToKLoss
    from mmtrain import ContrastiveModule
    from mmtrain.towers import ByteGRU, TimmTower

    vit = {"patch_size": 16, "embed_dim": 32, "depth": 1, "num_heads": 2}
    tower = TimmTower("vit_tiny_patch16_224", image_size=32, options=vit)
    module = ContrastiveModule(tower, ByteGRU(32), {"clip": ClipLoss(), "k": OneToKLoss()}, dimension=16)
    sources = [Source(str(shards), objectives=["k"]), Source(str(shards), name="other")]
    data = ShardDataModule(train=sources, batch_size=8, workers=0, captions_per_image=2, images=ImagePipeline(size=32))
    seen = []

    class Look(pl.Callback):
        def on_before_zero_grad(self, trainer, pl_module, optimizer):  # the weights are still those of the loss
            embeddings = pl_module.embed(pl_module._batch)
            mine = (pl_module._batch.sources == 1)[:, None]
            assert 0 < int(mine.sum()) < 8
            without = replace(embeddings, present=embeddings.present & mine)
            seen.append((pl_module.objectives["clip"](without).item(), pl_module.objectives["k"](embeddings).item()))

    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        callbacks=[Look()],
    )
    trainer.fit(module, datamodule=data)
    logged = trainer.callback_metrics
    assert seen[0] == pytest.approx((logged["train/clip"].item(), logged["train/k"].item()), rel=1e-5)


@pytest.mark.system
def test_two_processes_train_and_count_what_one_does(shards: Path, tmp_path: Path) -> None:
    """The same global batch on one process and on two; a batch of one process may hold no caption that counts."""
    sources = f"[{{shards: {shards}, objectives: [clip]}}, {{shards: {shards}, weight: 0.1, name: few}}]"
    options = [f"--data.train={sources}", f"--model.objectives={OBJECTIVES}", "--data.language_alpha=0"]
    options += ["--trainer.max_steps=10", "--model.learning_rate=0.0001", "--data.captions_per_image=2"]
    assert fit(shards, tmp_path / "one", *options) == 0
    options += ["--data.batch_size=4", "--trainer.devices=2", "--trainer.strategy=ddp"]
    command = [sys.executable, "-m", "mmtrain.cli", *arguments(shards, tmp_path / "two", *options)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr.count("an epoch of 64 samples is 8 steps of 4 x 2 processes") == 1
    for name in ("train/clip", "train/k", "drawn/captions/ar", "drawn/samples/few"):
        assert column(tmp_path / "two", name) == pytest.approx(column(tmp_path / "one", name), rel=1e-3), name
    one, two = (json.loads((tmp_path / run / "skipped.json").read_text(encoding="utf-8")) for run in ("one", "two"))
    assert one["drawn"] == two["drawn"]
    assert one["drawn"]["few"]["samples"] == 6  # 80 / 11, of which each of three languages has had 2 of its 2.4


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            ["--data.train=[{shards: SHARDS, objectives: [clop]}]"],
            "no objective is called 'clop'; the model has one_to",
        ),
        (["--data.language_alpha=2"], "data.language_alpha: 2.0; 0 (all languages alike) to 1"),
        (["--data.text=datamodules.CodeSwitch", "--data.text.dictionaries=[none.tsv]"], "none.tsv: cannot be read"),
        (["--data.drawing=datamodules.Pivot", "--data.drawing.language=xx"], "the pivot 'xx' is not among the lang"),
    ],
    ids=["objective", "alpha", "dictionary", "pivot"],
)
def test_bad_options_are_one_line(options: list[str], says: str, shards: Path, tmp_path: Path, capsys) -> None:
    options = [option.replace("SHARDS", str(shards)) for option in options]
    assert fit(shards, tmp_path / "run", *options, "--trainer.max_steps=1") == 1
    errors = capsys.readouterr().err.strip().splitlines()
    assert says in errors[-1] and sum("error:" in line for line in errors) == 1
