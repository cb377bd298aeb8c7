"""`mmtrain embed`: rows as shards, of samples of every shape, the same from any number of processes."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import mmtrain
from mmtrain.cli import main
from mmtrain.embedding.processes import Processes
from tests.mmtrain.indexes import model
from tests.mmtrain.mixed import members, mixed, picture, rows_in, whole
from tests.mmtrain.small import ENVIRONMENT, ROOT, fit, in_two_processes

__all__ = ["mixed", "model"]

SIZES = ["--batch_size", "4", "--samples_per_shard", "4", "--workers", "0", "--device", "cpu"]


def embed(model: Path, data: Path, out: Path, *options: str) -> dict[str, bytes]:
    assert main(["embed", str(model), "--data", str(data), "--out", str(out), *SIZES, *options]) == 0
    return members(out)


@pytest.fixture(scope="module")
def written(model: Path, mixed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("embedded") / "rows"
    embed(model, mixed, out)
    return out


def test_rows_stand_in_the_place_of_pictures_and_beside_texts(written: Path, model: Path, mixed: Path) -> None:
    encoder, found, given = mmtrain.load(model), members(written), members(mixed)
    assert not [path.name for path in written.parent.iterdir() if path != written]
    both = {name.partition(".")[2]: content for name, content in found.items() if name.startswith("shard-000000/both.")}
    assert set(both) == {"json", "npy", "texts.npy", "sound.npy", "note.md"}
    assert both["json"] == given["0/both.json"] and both["sound.npy"] == b"unread" and both["note.md"] == b"as it is"
    assert encoder.images is not None
    image = encoder.encode_image([encoder.images.open(picture(0))])[0]
    np.testing.assert_allclose(rows_in(both["npy"]), image, atol=1e-6)
    texts = rows_in(both["texts.npy"])
    assert texts.dtype == np.float32
    np.testing.assert_allclose(texts[:2], encoder.encode_text(["viens", "divi"], "lv"), atol=1e-6)
    np.testing.assert_allclose(texts[2:], encoder.encode_text(["one"], "en"), atol=1e-6)


def test_samples_without_a_picture_or_captions_have_the_rows_they_can_have(written: Path, model: Path) -> None:
    encoder, found = mmtrain.load(model), members(written)
    names = [name for name in found if not name.endswith("json")]
    assert [name for name in names if "page" in name] == ["shard-000000/page.npy", "shard-000002/page.npy"]
    assert [name for name in names if "text." in name] == ["shard-000000/text.texts.npy", "shard-000002/text.texts.npy"]
    np.testing.assert_allclose(
        rows_in(found["shard-000000/text.texts.npy"]), encoder.encode_text(["three", "drei"], "en"), atol=1e-6
    )
    pair = {name: rows_in(found[f"shard-000000/pair.{name}.npy"]) for name in ("query", "positive", "negatives")}
    np.testing.assert_allclose(pair["query"], encoder.encode_text(["four?"], "en"), atol=1e-6)
    np.testing.assert_allclose(pair["positive"], encoder.encode_text(["četri"], "lv"), atol=1e-6)
    np.testing.assert_allclose(pair["negatives"], encoder.encode_text(["five", "six"], "en"), atol=1e-6)


def test_the_listing_counts_what_is_there_and_what_is_broken(written: Path) -> None:
    listing = json.loads((written / "shards.json").read_text())
    assert listing["samples"] == 10 and [each["samples"] for each in listing["shards"]] == [4, 1, 4, 1]
    assert listing["captions"] == {"en": 8, "lv": 4}
    assert listing["skipped"] == {"broken image": 2}
    assert [each["skipped_rows"] for each in listing["shards"]][1] == ["broken: broken image"]
    description = json.loads((written / "embedding.json").read_text())
    assert (description["width"], description["dtype"], description["tokens"]) == (16, "float32", False)


def test_a_picture_has_the_same_row_wherever_it_stands(written: Path) -> None:
    """Alone in its shard and beside others: equal bytes, by which training knows equal pictures."""
    found = members(written)
    assert found["shard-000000/both.npy"] == found["shard-000001/twin.npy"]
    assert found["shard-000000/both.npy"] != found["shard-000002/both.npy"]


def test_half_precision_and_tokens(model: Path, mixed: Path, written: Path, tmp_path: Path) -> None:
    half, tokens = (
        embed(model, mixed, tmp_path / "half", "--dtype", "float16"),
        embed(model, mixed, tmp_path / "t", "--tokens"),
    )
    name = "shard-000000/both.npy"
    assert rows_in(half[name]).dtype == np.float16
    np.testing.assert_allclose(rows_in(half[name]), rows_in(members(written)[name]), atol=1e-3)
    assert rows_in(tokens[name]).shape == (5, 32)  # four patches and the class token
    assert tokens["shard-000000/both.texts.npy"] == members(written)["shard-000000/both.texts.npy"]


@pytest.mark.parametrize(("options", "width"), [((), 16), (("--tokens", "--dtype", "float16"), 32)])
def test_a_feature_tower_trains_on_what_was_written(
    options: tuple[str, ...], width: int, model: Path, shards: Path, tmp_path: Path
) -> None:
    embed(model, shards, tmp_path / "rows", *options)
    tower = {"class_path": "mmtrain.towers.FeatureTower", "init_args": {"width": width, "pooling": "attention"}}
    assert fit(tmp_path / "rows", tmp_path / "run", "--model.image", json.dumps(tower), "--trainer.max_steps=2") == 0
    assert mmtrain.load(tmp_path / "run").encode_text(["red"]).shape == (1, 16)
    again = embed(tmp_path / "run", tmp_path / "rows", tmp_path / "again")  # features in, rows out
    assert rows_in(again["shard-000000/000000000-c0.npy"]).shape == (16,)


def test_what_is_there_already_is_not_made_again(
    model: Path, mixed: Path, written: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in written.iterdir()}
    embed(model, mixed, written)
    assert "is there already" in capsys.readouterr().out
    assert {path.name: path.stat().st_mtime_ns for path in written.iterdir()} == before


@pytest.mark.system
def test_two_processes_write_what_one_writes(
    model: Path, mixed: Path, written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["embed", str(model), "--data", str(mixed), "--out", str(tmp_path / "shared"), *SIZES]
    said = in_two_processes(arguments, monkeypatch)
    assert "2 left out (2 broken image)" in said, said
    assert whole(tmp_path / "shared") == whole(written)
    assert [path.name for path in tmp_path.iterdir()] == ["shared"]


KILLED = """
import os, signal, sys
from mmtrain import cli
from mmtrain.embedding import rewriting

write, written = rewriting.write_shard, []

def write_two_shards(*arguments):
    if len(written) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    written.append(arguments)
    return write(*arguments)

rewriting.write_shard = write_two_shards
cli.main(sys.argv[1:])
"""


@pytest.mark.system
def test_a_killed_run_goes_on_with_its_shards(model: Path, mixed: Path, written: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "killed"
    arguments = ["embed", str(model), "--data", str(mixed), "--out", str(out), *SIZES]
    done = subprocess.run([sys.executable, "-c", KILLED, *arguments], env=ENVIRONMENT, cwd=ROOT, capture_output=True)
    assert done.returncode == -signal.SIGKILL
    assert os.listdir(tmp_path) == ["killed.parts"]
    assert main(arguments) == 0
    assert "2 of 4 parts are there" in capsys.readouterr().out
    assert whole(out) == whole(written)
    assert os.listdir(tmp_path) == ["killed"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--out", "OTHER"], "OTHER holds other files, thesis.txt among them"),
        (["--out", "NEW", "--batch_size", "0"], "--batch_size: got 0"),
        (["--out", "NEW", "--data", "NEW"], "does not exist"),
    ],
)
def test_bad_input_gets_one_line_and_leaves_nothing(options, says, model, mixed, tmp_path: Path, capfd) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    places = {"OTHER": "other", "NEW": "new"}
    options = [str(tmp_path / places[option]) if option in places else option for option in options]
    assert main(["embed", str(model), "--data", str(mixed), *SIZES, *options]) == 1
    errors = [line for line in capfd.readouterr().err.splitlines() if "error:" in line]
    assert len(errors) == 1 and says.replace("OTHER", str(tmp_path / "other")) in errors[0]
    assert os.listdir(tmp_path) == ["other"]


def test_features_are_nothing_for_a_model_of_pictures(model: Path, written: Path, tmp_path: Path, capsys) -> None:
    arguments = ["embed", str(model), "--data", str(written / "shard-000001.tar"), "--out", str(tmp_path / "rows")]
    assert main([*arguments, *SIZES]) == 1
    assert "no sample could be read (features, not a picture)" in capsys.readouterr().err


SRUN = {
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "3",
    "SLURM_NTASKS": "3",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "1",
}
ARRAY = {f"SLURM_ARRAY_TASK_{name}": value for name, value in zip(("COUNT", "ID", "MIN", "STEP"), "4313", strict=True)}
TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ({}, Processes(0, 1, 0)),
        (SRUN, Processes(2, 3, 1)),
        # a batch script that calls no srun is one process, whatever the job has room for
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "3", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}, Processes(0, 1, 0)),
        (ARRAY, Processes(0, 4, 0)),
        (ARRAY | {"SLURM_ARRAY_TASK_ID": "7"} | SRUN, Processes(8, 12, 1)),
        (SRUN | TORCHRUN, Processes(5, 8, 1)),  # which srun started
    ],
    ids=["alone", "srun", "batch script", "array", "array of srun", "torchrun"],
)
def test_each_process_knows_which_it_is(variables, found, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("SLURM_", "TORCHELASTIC_")):
            monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert Processes.launched() == found
