"""The command line as a user meets it: exit codes, one-line errors, the whole way from pictures to an export."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmtrain.cli import main
from tests.mmtrain.small import SMALL, TINY, fit


@pytest.fixture(scope="module")
def run(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    assert fit(shards, folder, "--trainer.max_steps=8", "--checkpoint.every_n_steps=4") == 0
    return folder


def test_a_run_folder_holds_what_the_readme_says(run: Path) -> None:
    for name in ("config.yaml", "metrics.csv", "skipped.json", "checkpoints/last.ckpt", "checkpoints/best.ckpt"):
        assert (run / name).is_file(), name
    header = (run / "metrics.csv").read_text(encoding="utf-8").splitlines()[0].split(",")
    expected = {"train/loss", "train/one_to_k", "gradient_norm/image", "gradient_norm/text", "space/margin"}
    expected |= {"space/alignment", "space/uniformity_image", "space/modality_gap", "samples_seen", "learning_rate"}
    expected |= {"val/mean_recall", "val/text_to_image/R@1/lv", "one_to_k/scale"}
    assert expected <= set(header), expected - set(header)


def test_a_fresh_run_in_an_old_folder_replaces_it(shards: Path, tmp_path: Path) -> None:
    import torch

    for steps in (4, 6):
        assert fit(shards, tmp_path, f"--trainer.max_steps={steps}") == 0
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 6


def test_last_without_a_checkpoint_starts_anew_and_says_so(shards: Path, tmp_path: Path, caplog) -> None:
    caplog.set_level("INFO")
    assert fit(shards, tmp_path, "--trainer.max_steps=1", "--ckpt_path=last") == 0
    assert "starting anew" in caplog.text


def test_evaluate_writes_metrics_and_a_report(run: Path, shards: Path, tmp_path: Path, capsys) -> None:
    assert main(["evaluate", str(run), "--data", str(shards), "--out", str(tmp_path), "--workers", "0"]) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["protocol"]["images"] == 32 and metrics["protocol"]["texts"] == 80
    assert metrics["text_to_image"]["ar"]["queries"] == 16
    assert set(metrics["text_to_image"]) == {"en", "lv", "ar", "mean"}
    assert "<html" in (tmp_path / "report.html").read_text(encoding="utf-8").lower()
    assert str(tmp_path / "report.html") in re.sub(r"\s", "", capsys.readouterr().out)


def test_a_run_folder_gets_its_own_report(run: Path, shards: Path) -> None:
    assert main(["evaluate", str(run), "--data", str(shards), "--workers", "0"]) == 0
    assert (run / "report" / "metrics.json").is_file() and (run / "report" / "report.html").is_file()


def test_evaluate_says_what_could_not_be_read(run: Path, shards: Path, tmp_path: Path, capsys) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(shards, broken)
    path = broken / "shard-000001.tar"
    path.write_bytes(path.read_bytes().replace(b"\x89PNG", b"\x89GNP", 3))
    assert main(["evaluate", str(run), "--data", str(broken), "--out", str(tmp_path / "out"), "--workers", "0"]) == 0
    protocol = json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))["protocol"]
    assert protocol["images"] == 29
    assert {name: protocol["skipped"][name] for name in ("tried", "skipped", "rate")} == {
        "tried": 32,
        "skipped": 3,
        "rate": 3 / 32,
    }
    assert "3 of 32 samples could not be read" in capsys.readouterr().out


def test_an_export_gives_the_runs_embeddings(run: Path, tmp_path: Path) -> None:
    import mmtrain

    assert main(["export", str(run), "--out", str(tmp_path / "export"), "--format", "safetensors"]) == 0
    assert not list((tmp_path / "export").rglob("*.ckpt")) and not list(tmp_path.glob("*.tmp"))
    before, after = mmtrain.load(str(run)), mmtrain.load(str(tmp_path / "export"))
    captions = ["sarkans", "أزرق", ""]
    pictures = [Image.new("RGBA", (20, 30), (255, 0, 0, 0)), Image.new("L", (64, 64), 7)]
    np.testing.assert_array_equal(before.encode_text(captions), after.encode_text(captions))
    np.testing.assert_array_equal(before.encode_image(pictures), after.encode_image(pictures))
    np.testing.assert_allclose(np.linalg.norm(after.encode_image(pictures), axis=1), 1, atol=1e-6)


def test_inspect_reads_shards_and_checkpoints(run: Path, shards: Path, capsys) -> None:
    assert main(["inspect", str(shards)]) == 0
    assert "32" in capsys.readouterr().out
    assert main(["inspect", str(run / "checkpoints" / "last.ckpt")]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    for fact in ("TimmTower", "one_to_k.scale", "position", "wandb run none", "average of weights no", "torch 2"):
        assert fact in printed


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ([], 2, "VERB"),
        (["nonsense"], 2, "nonsense"),
        (["evaluate"], 2, "MODEL"),
        (["evaluate", "EMPTY", "--data", "SHARDS"], 2, "--out: needed"),
        (["fit"], 2, "required: --data, --model; --config FILE"),
        (["fit", "--config", "no/such/file.yaml"], 2, "no/such/file.yaml"),
        (["fit", "--config", "TINY", "--trainer.max_stepz=3"], 2, "max_stepz"),
        (["fit", "--config", "TINY", "--model.dimension=wide"], 2, "dimension"),
        (["fit", "--config", "TINY", "--model.dimensions=3"], 2, "dimensions"),
        (["fit", "--config", "TINY", "--data.train=EMPTY"], 1, "EMPTY"),
        (["fit", "--config", "TINY", "--data.train=SHARDS", "--data.languages=[xx]"], 1, "xx"),
        (["fit", "--config", "TINY", "--data.train=SHARDS", "--data.batch_size=64"], 1, "64"),
        (["fit", "--config", "TINY", "--data.train=SHARDS", "--trainer.accumulate_grad_batches=2"], 1, "micro_batch"),
        (["fit", "--config", "TINY", "--data.train=SHARDS", "--ckpt_path=none.ckpt"], 1, "none.ckpt"),
        (["evaluate", "EMPTY", "--data", "SHARDS", "--out", "EMPTY/report"], 1, "EMPTY"),
        (["evaluate", "RUN", "--data", "EMPTY", "--out", "EMPTY/report"], 1, "EMPTY"),
        (["evaluate", "RUN", "--data", "SHARDS", "--out", "EMPTY/report", "--languages", "[xx]"], 1, "xx"),
        (["export", "EMPTY", "--out", "EMPTY/export"], 1, "EMPTY"),
        (["inspect", "EMPTY"], 1, "EMPTY"),
        (["pack", "jsonl", "EMPTY/none.jsonl", "--out", "EMPTY/shards"], 1, "none.jsonl"),
    ],
)
def test_bad_usage_and_bad_input_get_one_line(
    arguments: list[str], code: int, says: str, run: Path, shards: Path, tmp_path: Path, capfd
) -> None:
    places = {"TINY": TINY, "SHARDS": str(shards), "RUN": str(run)}
    places["EMPTY"] = str(tmp_path)
    for name, place in places.items():
        arguments = [argument.replace(name, place) for argument in arguments]
        says = says.replace(name, place)
    if arguments[:1] == ["fit"] and code == 1:
        arguments += [*SMALL[:6], "--data.workers=0", f"--trainer.default_root_dir={tmp_path}/run"]
        arguments += [] if any("batch_size" in argument for argument in arguments) else ["--data.batch_size=8"]
    assert main(arguments) == code
    error = [line for line in capfd.readouterr().err.splitlines() if "error:" in line]
    assert len(error) == 1 and says in error[0], error
    assert "Traceback" not in error[0]


VERBS = "fit evaluate export average push index embed mine search pack inspect compare submit".split()


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    assert "usage" in capsys.readouterr().out.lower()
