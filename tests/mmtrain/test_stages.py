"""Stages of one page: each from the weights of the one before, in a folder of its own, through signals and kills."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import mmtrain
from mmtrain.cli import main
from mmtrain.models.run_folder import read_checkpoint
from tests.mmtrain.runs import column, log, step, weights
from tests.mmtrain.small import ENVIRONMENT, SMALL, TINY

RELATION = {"class_path": "mmtrain.RelationModule", "init_args": {"itm": 0, "itc": 0.1}}
Override = dict[str, Any]


@pytest.fixture(scope="module")
def stages(shards: Path, posts: Path) -> tuple[Override, Override]:
    """Four steps of pretraining on colours, then six with a relation head on posts."""
    data = {"train": str(posts), "val": str(posts), "captions_per_image": 1, "workers": 3}
    second = {"trainer": {"max_steps": 6}, "model": RELATION, "checkpoint.monitor": "val/macro_f1"}
    second["data"] = {"class_path": "datamodules.RelationDataModule", "init_args": data}
    return {"data": {"init_args": {"train": str(shards), "val": str(shards)}}}, second


def write(folder: Path, *stages: Override) -> Path:
    page = yaml.safe_load(Path(TINY).read_text(encoding="utf-8"))
    page["trainer"]["max_steps"] = 4
    page["data"]["init_args"]["languages"] = ["en", "lv"]
    page["checkpoint"] = {"every_n_steps": 2}
    path = folder / "page.yaml"
    path.write_text(yaml.safe_dump(page | {"stages": list(stages)}, allow_unicode=True), encoding="utf-8")
    return path


def fitting(page: Path, run: Path, *options: str) -> list[str]:
    return ["fit", "--config", str(page), f"--trainer.default_root_dir={run}", *SMALL, *options]


def fit(page: Path, run: Path, *options: str) -> int:
    return main(fitting(page, run, *options))


def disturbed(stage: Override, which: str, **options: object) -> Override:
    """The stage with a callback."""
    callback = {"class_path": f"tests.mmtrain.stopping.{which}", "init_args": options}
    return stage | {"trainer": stage.get("trainer", {}) | {"callbacks": [callback]}}


def assert_same(one: Path, other: Path) -> None:
    for stage in ("1", "2"):
        expected, found = weights(one / stage), weights(other / stage)
        assert expected.keys() == found.keys()
        assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())
        assert column(one / stage, "train/loss") == column(other / stage, "train/loss")


@pytest.fixture(scope="module")
def whole(stages: tuple[Override, Override], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing disturbs."""
    folder = tmp_path_factory.mktemp("stages")
    assert fit(write(folder, *stages), folder / "run") == 0
    return folder / "run"


def test_each_stage_has_a_run_folder_and_a_clock_of_its_own(whole: Path) -> None:
    assert {path.name for path in whole.iterdir()} == {"config.yaml", "1", "2"}
    for stage, steps in (("1", 4), ("2", 6)):
        checkpoint = read_checkpoint(whole / stage / "checkpoints" / "last.ckpt")
        assert checkpoint["global_step"] == steps and checkpoint["samples_seen"] == 8 * steps
        assert {"config.yaml", "metrics.csv", "skipped.json"} <= {path.name for path in (whole / stage).iterdir()}
        assert [int(row["step"]) for row in log(whole / stage) if row["train/loss"]] == list(range(1, steps, 2))


@pytest.mark.system
@pytest.mark.parametrize("resumes", [[], ["--ckpt_path=last"]], ids=["anew", "last"])
def test_the_pages_that_a_run_keeps_give_the_same_run(resumes: list[str], whole: Path, tmp_path: Path) -> None:
    at = f"--trainer.default_root_dir={tmp_path / 'again'}"
    assert main(["fit", "--config", str(whole / "config.yaml"), at, *resumes]) == 0
    assert_same(whole, tmp_path / "again")
    alone = tmp_path / "alone" / "2"
    at = f"--trainer.default_root_dir={alone}"
    assert main(["fit", "--config", str(whole / "2" / "config.yaml"), at, *resumes]) == 0
    expected, found = weights(whole / "2"), weights(alone)
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())


@pytest.mark.system
def test_weights_temperatures_and_heads_go_on(stages: tuple[Override, Override], tmp_path: Path) -> None:
    """Where nothing is learnt, stages 2 and 4 end as 1 and 3; a head of other tasks keeps its fusion alone."""
    first, relation = stages
    rest = {"learning_rate": 0.0, "weight_decay": 0.0}
    still = {"trainer": {"max_steps": 1}, "model": {"init_args": rest}}
    resting = relation | {"model": RELATION | {"init_args": RELATION["init_args"] | rest}}
    mood = resting | {"model": RELATION | {"init_args": RELATION["init_args"] | rest | {"tasks": ["mood"]}}}
    page = write(tmp_path, first, first | still, relation, resting, mood)
    assert fit(page, tmp_path / "run") == 0
    one, two, three, four, five = (weights(tmp_path / "run" / str(number)) for number in range(1, 6))
    assert one["objectives.one_to_k.log_scale"] != torch.tensor(1 / 0.07).log()
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items() if "num_batches" not in name)
    assert any(name.startswith("head.out") for name in three) and "objectives.itc.log_scale" in three
    assert all(torch.equal(tensor, four[name]) for name, tensor in three.items())
    assert torch.equal(five["head.out.0.weight"], three["head.out.1.weight"])
    # the third began where the second ended: its one_to_k's temperature is that of ITC, as with model.pretrained
    assert three["objectives.itc.log_scale"] != torch.tensor(1 / 0.07).log()


@pytest.mark.parametrize("name", ["SIGTERM", pytest.param("SIGUSR2", marks=pytest.mark.system)])
def test_a_signal_stops_the_stage_at_hand(
    name: str, stages: tuple[Override, Override], whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    first, second = stages
    assert fit(write(tmp_path, first, disturbed(second, "SignalAt", step=3, name=name)), tmp_path / "run") == 75
    assert step(tmp_path / "run" / "2" / "checkpoints" / "last.ckpt") == 3
    assert "--ckpt_path last goes on" in capsys.readouterr().err
    before = (tmp_path / "run" / "1" / "checkpoints" / "last.ckpt").stat().st_mtime_ns
    assert fit(write(tmp_path, first, second), tmp_path / "run", "--ckpt_path=last") == 0
    assert (tmp_path / "run" / "1" / "checkpoints" / "last.ckpt").stat().st_mtime_ns == before
    assert_same(whole, tmp_path / "run")


def test_the_first_unfinished_stage_goes_on(stages: tuple[Override, Override], whole: Path, tmp_path: Path) -> None:
    first, second = stages
    run, page = tmp_path / "run", write(tmp_path, disturbed(first, "StopAfter", steps=2), second)
    assert fit(page, run) == 0
    assert step(run / "1" / "checkpoints" / "last.ckpt") == 2 and not (run / "2").exists()
    page = write(tmp_path, first, second)
    assert fit(page, run, "--ckpt_path=last") == 0
    assert_same(whole, run)
    written = {path: path.stat().st_mtime_ns for path in run.rglob("*.ckpt")}
    assert fit(page, run, "--ckpt_path=last") == 0  # nothing is left to train
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*.ckpt")} == written
    # begun anew, or trained further, the first leaves nothing of the second
    stops = write(tmp_path, disturbed(first, "StopAfter", steps=2), second)
    assert fit(stops, run) == 0
    assert not list((run / "2" / "checkpoints").iterdir())
    assert mmtrain.load(run).model.dimension == 16  # the first stage's


@pytest.mark.system
def test_early_stopping_ends_a_stage(stages: tuple[Override, Override], tmp_path: Path) -> None:
    first, second = stages
    stopping = {"class_path": "EarlyStopping", "init_args": {"monitor": "val/mean_recall", "stopping_threshold": 0.0}}
    first = first | {"trainer": {"callbacks": [stopping | {"init_args": stopping["init_args"] | {"mode": "max"}}]}}
    page = write(tmp_path, first | {"trainer.max_steps": 90}, second)
    assert fit(page, tmp_path / "run", "--trainer.val_check_interval=2") == 0
    assert step(tmp_path / "run" / "1" / "checkpoints" / "last.ckpt") < 90
    assert step(tmp_path / "run" / "2" / "checkpoints" / "last.ckpt") == 6


@pytest.mark.system
def test_a_signal_between_two_stages_is_kept(stages: tuple[Override, Override], whole: Path, tmp_path: Path) -> None:
    first, second = stages
    assert fit(write(tmp_path, first, disturbed(second, "SignalAtStart", name="SIGUSR2")), tmp_path / "run") == 75
    assert step(tmp_path / "run" / "2" / "checkpoints" / "last.ckpt") == 1
    assert fit(write(tmp_path, first, second), tmp_path / "run", "--ckpt_path=last") == 0
    assert_same(whole, tmp_path / "run")


def test_a_run_of_stages_is_a_model(whole: Path, posts: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    data = ["--data", str(posts), "--workers", "0"]
    assert main(["evaluate", str(whole), *data]) == 0
    chosen = whole / "2" / "checkpoints" / "best.ckpt"
    assert f"{whole}: using {chosen}\n" in capsys.readouterr().err
    metrics = json.loads((whole / "2" / "report" / "metrics.json").read_text(encoding="utf-8"))
    assert set(metrics["relation"]["en"]["per_class"]) == {"0", "1"}
    assert main(["export", str(whole), "--out", str(tmp_path / "out")]) == 0
    assert main(["average", str(whole), str(whole / "1"), "--out", str(tmp_path / "mean")]) == 0
    assert main(["compare", str(whole), str(whole / "1"), *data]) == 0
    capsys.readouterr()
    assert main(["inspect", str(whole)]) == 0
    assert f"{whole}: using {chosen}\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "code", "says"),
    [
        ({"trainer": {"max_stepz": 3}}, 2, "stages[2].trainer.max_stepz: Trainer has no such option; nearest: "),
        ({"trainer.max_steps": "many"}, 2, "stages[2].trainer.max_steps: got 'many', expected a whole number"),
        ({"model": {"init_args": {"dimensions": 3}}}, 2, "stages[2].model.dimensions: "),
        ({"model.class_path": "mmtrain.Relations"}, 2, "stages[2].model: mmtrain.Relations: "),
        ({"modle": {"class_path": "x"}}, 2, "stages[2].modle.class_path: "),
        ({"trainer": {"default_root_dir": "x"}}, 1, "stages[2].trainer.default_root_dir: got 'x'"),
        ({"model": {"init_args": {"pretrained": "x"}}}, 1, "stages[2].model.pretrained: got 'x'"),
        (None, 1, "stages: got [{}, None], expected a list of overrides, one a stage"),
    ],
)
def test_a_mistake_is_found_before_the_first_step_and_names_its_stage(
    override: Override | None, code: int, says: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    command = fitting(write(tmp_path, {}, override), tmp_path / "run", "--data.train=nowhere")
    assert main(["submit", "--dry-run", "--", *command]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line


@pytest.mark.system
@pytest.mark.parametrize(
    ("override", "code", "says"),
    [
        ({"model.weights": {"two": 1}}, 1, "stages[2].model.weights: ['two'] not among the objectives ['one_to_k']"),
        ({"model.projection": None}, 2, "stages[2].model.projection: got null, expected linear, mlp or none"),
        ({"data.captions_per_image": 0}, 1, "stages[2].data.captions_per_image: "),
        ({"model.class_path": "mmtrain.RelationModule"}, 1, "stages[2]: data: ShardDataModule counts no labels"),
    ],
)
def test_what_a_class_refuses_names_its_stage(
    override: Override, code: int, says: str, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    page = write(tmp_path, {}, override)
    assert fit(page, tmp_path / "run", f"--data.train={shards}", "--trainer.max_steps=1") == code
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert says in line


@pytest.mark.system
def test_what_stages_cannot_have(
    stages: tuple[Override, Override], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    page = write(tmp_path, *stages)
    assert fit(page, tmp_path / "run", "--ckpt_path=other.ckpt") == 1
    assert "--ckpt_path: got other.ckpt, expected last" in capsys.readouterr().err
    assert fit(page, tmp_path / "run", "--trainer.enable_checkpointing=false") == 1
    assert "stages start from checkpoints" in capsys.readouterr().err
    assert fit(page, tmp_path / "run", "--trainer.fast_dev_run=true") == 0  # a step of each, and nothing written
    assert not (tmp_path / "run").exists()


def test_the_whole_config_of_every_stage_is_printed(
    stages: tuple[Override, Override], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert fit(write(tmp_path, *stages), tmp_path / "run", "--print_config") == 0
    printed = capsys.readouterr().out
    assert [printed.count(f"class_path: mmtrain.{name}\n") for name in ("ContrastiveModule", "RelationModule")] == [
        1,
        1,
    ]


def test_a_job_has_the_workers_of_its_largest_stage(
    stages: tuple[Override, Override], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    command = ["fit", "--config", str(write(tmp_path, *stages)), f"--trainer.default_root_dir={tmp_path / 'run'}"]
    assert main(["submit", "--dry-run", "--", *command]) == 0
    script = capsys.readouterr().out
    assert "#SBATCH --cpus-per-task=4" in script and "--ckpt_path=last" in script
    assert f"--output={tmp_path / 'run'}/slurm-%j.out" in script


@pytest.mark.system
@pytest.mark.parametrize("processes", [1, 2])
def test_a_kill_in_the_second_stage_changes_nothing(
    processes: int, stages: tuple[Override, Override], tmp_path: Path
) -> None:
    first, second = stages
    several = ["--trainer.devices=2", "--trainer.strategy=ddp", "--data.batch_size=4"] if processes == 2 else []

    def trained(run: str, *stages: Override) -> int:
        command = fitting(write(tmp_path, *stages), tmp_path / run, *several, "--ckpt_path=last")
        command = [sys.executable, "-m", "mmtrain.cli", *command]
        return subprocess.run(command, env=ENVIRONMENT, capture_output=True, timeout=600).returncode

    assert trained("whole", first, second) == 0
    assert trained("halves", first, disturbed(second, "SignalAt", step=4, name="SIGKILL")) != 0
    assert step(tmp_path / "halves" / "2" / "checkpoints" / "last.ckpt") == 2
    assert trained("halves", first, second) == 0
    assert_same(tmp_path / "whole", tmp_path / "halves")
    assert read_checkpoint(tmp_path / "halves/2/checkpoints/last.ckpt")["mmtrain"]["world_size"] == processes


@pytest.mark.system
def test_wandb_has_a_run_a_stage_in_one_group(stages: tuple[Override, Override], tmp_path: Path) -> None:
    run = fitting(write(tmp_path, *stages), tmp_path / "grouped", "--trainer.logger=mmtrain.loggers.Wandb")
    environment = ENVIRONMENT | {"WANDB_MODE": "offline"}
    done = subprocess.run(
        [sys.executable, "-m", "mmtrain.cli", *run], env=environment, capture_output=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]
    identities = set()
    for stage in ("1", "2"):
        folder = tmp_path / "grouped" / stage / "wandb"
        identities.add(json.loads((folder / "run.json").read_text())["id"])
        (written,) = folder.glob("offline-run-*/*.wandb")
        content = written.read_bytes()
        assert f"grouped/{stage}".encode() in content and b"train/loss" in content
        assert content.count(b"grouped") > content.count(b"grouped/")
    assert len(identities) == 2
