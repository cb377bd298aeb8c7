"""Training on several parts a step: which objective sees which, exact resume, processes, one tower alone."""

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor

from mmtrain.cli import main
from mmtrain.models.run_folder import read_checkpoint
from tests.mmtrain.conftest import WORDS
from tests.mmtrain.runs import column
from tests.mmtrain.small import ENVIRONMENT, SMALL, TINY, arguments, fit

NOT_OF_PARTS = ("--data.train", "--data.batch_size")
OBJECTIVES = (
    "{clip: {class_path: losses.OneToKLoss},"
    " pairs: {class_path: losses.InfoNceLoss, init_args: {negatives: negatives}}}"
)


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 pairs of colour words, English queries and Latvian positives, each with two wrong words."""
    folder = tmp_path_factory.mktemp("pairs")
    with tarfile.open(folder / "pairs.tar", "w") as tar:
        for n in range(24):
            wrong = [word for i, word in enumerate(WORDS["lv"]) if i != n % 4][:2]
            record = {
                "id": f"p{n}",
                "query": {"en": f"{WORDS['en'][n % 4]} {n}"},
                "positive": {"lv": f"{WORDS['lv'][n % 4]} {n}"},
                "negatives": {"lv": wrong},
            }
            content = json.dumps(record, ensure_ascii=False).encode()
            member = tarfile.TarInfo(f"{n:04d}.json")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return folder


def parts(shards: Path, pairs: Path, pictures: int = 4, texts: int = 6, **more: object) -> str:
    return json.dumps(
        {
            "pictures": {"train": str(shards), "batch_size": pictures, "captions_per_image": 2},
            "pairs": {"train": str(pairs), "batch_size": texts, "negatives": 2, **more},
        }
    )


def fit_parts(shards: Path, run: Path, of_parts: str, *options: str, objectives: str = OBJECTIVES) -> int:
    own = [each for each in arguments(shards, run) if not each.startswith(NOT_OF_PARTS)]
    return main([*own, f"--data.parts={of_parts}", f"--model.objectives={objectives}", *options])


def weights(run: Path) -> dict[str, Tensor]:
    return read_checkpoint(run / "checkpoints" / "last.ckpt")["state_dict"]


def same(ones: dict[str, Tensor], others: dict[str, Tensor]) -> bool:
    return ones.keys() == others.keys() and all(torch.equal(ones[name], others[name]) for name in ones)


def test_each_objective_sees_what_it_reads(shards: Path, pairs: Path, tmp_path: Path, capsys) -> None:
    of_parts = parts(shards, pairs, val=str(pairs))
    assert fit_parts(shards, tmp_path, of_parts, "--trainer.max_steps=4", "--trainer.log_every_n_steps=1") == 0
    assert len(column(tmp_path, "train/clip")) == len(column(tmp_path, "train/pairs")) == 4
    state = weights(tmp_path)
    scales = [state[f"objectives.{name}.log_scale"] for name in ("clip", "pairs")]
    assert not torch.equal(*scales)  # each its own temperature
    assert column(tmp_path, "samples_seen")[-1] == 40  # of all parts
    assert column(tmp_path, "val/mean_recall") and column(tmp_path, "val/pairs/text_to_image/R@1/mean")
    assert read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["samples_seen"] == 40
    capsys.readouterr()
    assert main(["inspect", str(tmp_path / "checkpoints" / "last.ckpt")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "pairs: samples an epoch" in said and "40" in said


def test_an_objective_may_see_several_parts(shards: Path, pairs: Path, tmp_path: Path) -> None:
    both = json.dumps({name: {"train": str(shards), "batch_size": 4} for name in ("one", "two")})
    objectives = "{clip: {class_path: losses.OneToKLoss}, one: {class_path: losses.OneToKLoss}}"
    options = ["--trainer.max_steps=2", "--trainer.log_every_n_steps=1", "--model.on={one: [one]}"]
    assert fit_parts(shards, tmp_path, both, *options, objectives=objectives) == 0
    figures = [column(tmp_path, f"train/{name}") for name in ("clip/one", "clip/two", "one", "loss")]
    for first, second, own, total in zip(*figures, strict=True):
        assert first == pytest.approx(own) and first + second + own == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("steps", [3, 8])
def test_a_resumed_run_has_the_same_weights(shards: Path, pairs: Path, tmp_path: Path, steps: int) -> None:
    of_parts = parts(shards, pairs)
    assert fit_parts(shards, tmp_path / "whole", of_parts, "--trainer.max_steps=10") == 0
    begun = ["--trainer.max_steps=10", f"--checkpoint.every_n_steps={steps}"]
    assert fit_parts(shards, tmp_path / "two", of_parts, *begun, f"--trainer.callbacks+={STOP % steps}") in (0, 1)
    assert read_checkpoint(tmp_path / "two" / "checkpoints" / "last.ckpt")["global_step"] == steps
    assert fit_parts(shards, tmp_path / "two", of_parts, *begun, "--ckpt_path", "last") == 0
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "two"))


def test_selection_draws_from_the_part_with_pictures_and_captions(
    shards: Path, pairs: Path, tmp_path: Path, capsys
) -> None:
    assert fit(shards, tmp_path / "reference", "--trainer.max_steps=2") == 0
    chosen = {"reference": str(tmp_path / "reference"), "chunks": 2}
    selection = {"class_path": "mmtrain.training.ActiveSelection", "init_args": chosen}
    options = [f"--model.selection={json.dumps(selection)}", "--trainer.max_steps=4", "--trainer.log_every_n_steps=1"]
    of_parts = parts(shards, pairs)
    assert fit_parts(shards, tmp_path / "whole", of_parts, *options) == 0
    assert fit_parts(shards, tmp_path / "two", of_parts, *options, f"--trainer.callbacks+={STOP % 2}") in (0, 1)
    assert fit_parts(shards, tmp_path / "two", of_parts, *options, "--ckpt_path", "last") == 0
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "two"))
    assert column(tmp_path / "whole", "selection/pictures/forward_passes") == [4.0] * 4  # half is trained, two read all
    assert not column(tmp_path / "whole", "selection/pairs/gain")
    assert column(tmp_path / "whole", "samples_seen")[-1] == 40
    without = json.dumps({"pairs": {"train": str(pairs), "batch_size": 6}})
    alone = "{pairs: {class_path: losses.InfoNceLoss}}"
    assert fit_parts(shards, tmp_path / "none", without, options[0], objectives=alone) == 1
    assert "it judges pictures by their captions" in capsys.readouterr().err


STOP = "{class_path: tests.mmtrain.stopping.StopAfter, init_args: {steps: %d}}"


def test_a_part_may_use_one_tower_alone(shards: Path, pairs: Path, tmp_path: Path, caplog) -> None:
    alone = json.dumps({"pairs": {"train": str(pairs), "batch_size": 6}})
    objectives = "{pairs: {class_path: losses.InfoNceLoss}}"
    assert fit_parts(shards, tmp_path / "1", alone, "--trainer.max_steps=1", objectives=objectives) == 0
    assert fit_parts(shards, tmp_path / "4", alone, "--trainer.max_steps=4", objectives=objectives) == 0
    assert "model.image: no part of the step reads it; its weights stay as they are" in caplog.text
    before, after = weights(tmp_path / "1"), weights(tmp_path / "4")
    moved = {name.split(".")[1] for name in after if not torch.equal(before[name], after[name])}
    assert {"text", "text_projection"} <= moved and not moved & {"image", "image_projection"}


@pytest.mark.parametrize(
    ("options", "objectives", "says"),
    [
        (["--model.on={it: [pairs]}"], OBJECTIVES, "model.on.it: no such objective; model.objectives has clip, pairs"),
        (["--model.on={clip: [more]}"], OBJECTIVES, "model.on.clip: no such part more; data.parts has pictures, pairs"),
        (["--model.on={clip: []}"], OBJECTIVES, "model.on.clip: no such part []; data.parts has pictures, pairs"),
        (
            ["--model.on={clip: [pairs]}"],
            OBJECTIVES,
            "model.on.clip: it needs image, texts; part pairs brings labels, negatives, positive, query",
        ),
        ([], "{clip: {class_path: losses.OneToKLoss}}", "data.parts.pairs: no objective sees it"),
        (
            [],
            OBJECTIVES.replace("negatives: negatives", "negatives: wrong"),
            "model.objectives.pairs: no part has what it needs (positive, query, wrong)",
        ),
    ],
)
def test_parts_and_objectives_that_do_not_meet_are_one_line(
    shards: Path, pairs: Path, tmp_path: Path, capsys, options: list[str], objectives: str, says: str
) -> None:
    capsys.readouterr()
    assert fit_parts(shards, tmp_path, parts(shards, pairs), *options, objectives=objectives) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert says in line


def test_without_parts_there_is_nothing_to_see(shards: Path, tmp_path: Path, capsys) -> None:
    assert fit(shards, tmp_path, "--model.on={one_to_k: [pairs]}") == 1
    assert "there are no data.parts" in capsys.readouterr().err


@pytest.mark.system
@pytest.mark.parametrize("mixing", ["samples", "batches"])
def test_two_processes_train_what_one_does(shards: Path, pairs: Path, tmp_path: Path, mixing: str) -> None:
    """The towers of one part are used, by turns, by the other: plain DDP takes both."""
    options = ["--trainer.max_steps=3", f"--data.mixing={mixing}", "--model.warmup_steps=1"]
    two = [*options, "--trainer.devices=2", "--trainer.strategy=ddp"]
    for run, sizes, more in (("one", (8, 12), options), ("two", (4, 6), two)):
        own = [each for each in arguments(shards, tmp_path / run) if not each.startswith(NOT_OF_PARTS)]
        own += [f"--data.parts={parts(shards, pairs, *sizes)}", f"--model.objectives={OBJECTIVES}", *more]
        subprocess.run([sys.executable, "-m", "mmtrain.cli", *own], check=True, env=ENVIRONMENT, timeout=300)
    one, two_processes = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name, tensor in one.items():
        torch.testing.assert_close(two_processes[name], tensor, rtol=1e-4, atol=2e-5)


@pytest.mark.system
def test_one_tower_alone_under_two_processes(shards: Path, pairs: Path, tmp_path: Path) -> None:
    alone = json.dumps({"pairs": {"train": str(pairs), "batch_size": 6}})
    own = [each for each in arguments(shards, tmp_path) if not each.startswith(NOT_OF_PARTS)]
    own += [f"--data.parts={alone}", "--model.objectives={pairs: {class_path: losses.InfoNceLoss}}"]
    own += ["--trainer.max_steps=2", "--trainer.devices=2", "--trainer.strategy=ddp"]
    subprocess.run([sys.executable, "-m", "mmtrain.cli", *own], check=True, env=ENVIRONMENT, timeout=300)
    assert read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["global_step"] == 2


def stages_of_parts(folder: Path, shards: Path, pairs: Path, stopped: int | None) -> list[str]:
    """The command of a page of two stages: pairs alone, then pairs beside pictures."""
    page = yaml.safe_load(Path(TINY).read_text(encoding="utf-8"))
    page["trainer"]["max_steps"] = 4
    objectives, both = yaml.safe_load(OBJECTIVES), json.loads(parts(shards, pairs))
    page["model"]["init_args"]["objectives"] = {"pairs": objectives["pairs"]}
    page["data"]["init_args"] |= {"parts": {"pairs": both["pairs"]}, "val": str(shards)}
    second: dict = {"data": {"init_args": {"parts": both}}, "trainer": {"max_steps": 7}}
    second["model"] = {"init_args": {"objectives": objectives}}
    if stopped is not None:
        callback = {"class_path": "tests.mmtrain.stopping.StopAfter", "init_args": {"steps": stopped}}
        second["trainer"]["callbacks"] = [callback]
    path = folder / f"{stopped}.yaml"
    path.write_text(yaml.safe_dump({**page, "stages": [{}, second]}), encoding="utf-8")
    own = [each for each in SMALL if not each.startswith(NOT_OF_PARTS)]
    return ["fit", "--config", str(path), *own, "--checkpoint.every_n_steps=1"]


@pytest.mark.system
def test_two_stages_of_two_parts_go_on_where_they_were(shards: Path, pairs: Path, tmp_path: Path) -> None:
    """Disturbed within the second stage: weights bit for bit."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    command = stages_of_parts(tmp_path, shards, pairs, None)
    assert main([*command, f"--trainer.default_root_dir={whole}"]) == 0
    assert main([*stages_of_parts(tmp_path, shards, pairs, 3), f"--trainer.default_root_dir={broken}"]) in (0, 1)
    assert read_checkpoint(broken / "2" / "checkpoints" / "last.ckpt")["global_step"] == 3
    assert main([*command, f"--trainer.default_root_dir={broken}", "--ckpt_path=last"]) == 0
    assert same(weights(whole / "2"), weights(broken / "2"))


def test_a_part_of_pictures_that_the_tower_cannot_read_is_one_line(
    shards: Path, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    of_parts = json.loads(parts(shards, pairs))
    of_parts["pictures"]["images"] = {"class_path": "datamodules.ImagePipeline", "init_args": {"size": 48}}
    assert fit_parts(shards, tmp_path, json.dumps(of_parts)) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "48" in last and "model.image.image_size" in last
