"""What an export may replace, what it tells of the machine that wrote it, and what push sends."""

import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

import mmtrain
from datamodules import ByteTokenizer, ImagePipeline, TransformersTokenizer
from mmtrain.cli import main
from mmtrain.export import hub
from mmtrain.export.parity import largest_difference
from mmtrain.export.writing import write
from mmtrain.models.encoder import Encoder
from mmtrain.models.image_text import ImageTextModel
from mmtrain.towers import ByteGRU, FeatureTower, TimmTower, TransformersTower
from tests.mmtrain.encoders import XLMR, saved, write_words
from tests.mmtrain.small import ENVIRONMENT, ROOT

FORMATS = ["safetensors", "onnx", "open_clip", "transformers"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved(tmp_path_factory.mktemp("model") / "bytes", ByteGRU(width=32), ByteTokenizer(), image=FeatureTower(12))


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_words(tmp_path_factory.mktemp("words"))


def siglip(words: str, projection: str = "linear") -> Encoder:
    """A model that every format holds, of a SigLIP loss, trained on Norwegian too."""
    torch.manual_seed(0)
    tokenizer = TransformersTokenizer(words, max_length=32)
    config = XLMR | {"vocab_size": tokenizer.vocabulary_size}
    config |= {"hidden_size": 64} if projection == "none" else {}
    network = ImageTextModel(
        TimmTower("test_vit"),
        TransformersTower(config=config, pooling="cls"),
        dimension=64 if projection == "none" else 24,
        projection=projection,
    )
    pipeline = ImagePipeline(size=160)
    return Encoder(network, tokenizer, pipeline, ["en", "no"], "cosine", "a test", scale=20.0, bias=-2.5)


def holding(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_only_an_export_as_it_was_written_is_replaced(model: str, tmp_path: Path, capsys) -> None:
    assert main(["export", model, "--out", str(tmp_path / "first")]) == 0
    card = "---\nlibrary_name: transformers\n---\n# somebody's CLIP"
    hubs = {"README.md": card, "model.safetensors": "downloaded for a day", "mmtrain.json": "{}"}
    holding(tmp_path / "hub", hubs)
    holding(tmp_path / "site", {"export.json": '{"files": {}}', "precious.txt": "mine"})
    holding(shutil.copytree(tmp_path / "first", tmp_path / "more"), {"tokenizer/precious.txt": "mine"})
    holding(shutil.copytree(tmp_path / "first", tmp_path / "edited"), {"README.md": "what I wrote about it"})
    (shutil.copytree(tmp_path / "first", tmp_path / "linked") / "data").symlink_to(tmp_path)
    for name in ("hub", "site", "more", "edited", "linked"):
        before = sorted(tmp_path.rglob("*"))
        capsys.readouterr()
        assert main(["export", model, "--out", str(tmp_path / name)]) == 1, name
        assert f"{name} holds other files" in capsys.readouterr().err
        assert sorted(tmp_path.rglob("*")) == before
    for beside in ("first.tmp", "first.part", ".first.0123abcd.part"):
        holding(tmp_path / beside, {"precious.txt": "mine"})
    assert main(["export", model, "--out", str(tmp_path / "first")]) == 0
    assert sum(1 for _ in tmp_path.rglob("precious.txt")) == 5


def test_two_exports_at_once_leave_one_whole(model: str, tmp_path: Path) -> None:
    encoder = mmtrain.load(model)
    exports = [threading.Thread(target=write, args=(encoder, model, tmp_path / "out")) for _ in range(2)]
    for export in exports:
        export.start()
    for export in exports:
        export.join()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert largest_difference(encoder, mmtrain.load(tmp_path / "out")) == 0


FULL = "import resource, sys; from mmtrain import cli; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000,) * 2);"


@pytest.mark.system
@pytest.mark.parametrize("format", ["safetensors", "onnx"])
def test_a_full_disk_is_one_line_and_leaves_nothing(format: str, model: str, tmp_path: Path) -> None:
    arguments = ["export", model, "--out", str(tmp_path / "out"), "--format", format]
    program = [sys.executable, "-c", f"{FULL} sys.exit(cli.main(sys.argv[1:]))", *arguments]
    done = subprocess.run(program, env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True)
    errors = [line for line in done.stderr.splitlines() if "error:" in line]
    assert done.returncode == 1 and len(errors) == 1 and "Traceback" not in done.stderr, done.stderr
    assert f"--out: {tmp_path / 'out'} cannot be written" in errors[0] and "MiB" in errors[0]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("format", FORMATS)
def test_scale_bias_and_languages_travel_and_paths_do_not(format: str, words: str, tmp_path: Path, capsys) -> None:
    out = write(siglip(words), "a test", tmp_path / "out", format)
    loaded = mmtrain.load(out)
    assert (loaded.scale, loaded.bias) == pytest.approx((20, -2.5), rel=1e-5)
    if format == "open_clip":
        config = json.loads((out / "open_clip_config.json").read_text())
        assert config["model_cfg"]["init_logit_bias"] == -2.5
    hub.prepare(out, "someone/a-model", "mit")
    card = (out / "README.md").read_text()
    assert "- 'no'" in card and "added -2.5" in card
    here = (str(tmp_path), str(Path(words).parent), str(ROOT), sys.prefix)
    for path in out.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        assert not [place for place in here if place.encode() in content], path


def test_a_model_without_projections_is_open_clips(words: str, tmp_path: Path) -> None:
    write(siglip(words, projection="none"), "x", tmp_path / "out", "open_clip")  # compares the rows


@pytest.mark.parametrize("format", ["safetensors", "onnx"])
def test_no_file_is_called_what_it_is_not(format: str, model: str, tmp_path: Path) -> None:
    out = write(mmtrain.load(model), model, tmp_path / "out", format)
    assert not list(out.rglob("tokenizer.json"))
    if format == "onnx":
        told = json.loads((out / "preprocessing.json").read_text())["inputs"]
        assert "features float32 [N, F]" in told["image.onnx"] and "each byte + 3" in told["captions"]
        import onnxruntime

        assert [each.name for each in onnxruntime.InferenceSession(out / "image.onnx").get_inputs()] == ["features"]


POOLINGS = [
    (pooling, padding, attend)
    for pooling in ("cls", "mean", "max", "last", "attention")
    for padding, attend in (("longest", False), ("max_length", False), ("max_length", True))
]


@pytest.mark.system
@pytest.mark.parametrize(("pooling", "padding", "attend"), POOLINGS)
def test_every_pooling_with_every_padding_is_one_graph(pooling, padding, attend, words: str, tmp_path: Path) -> None:
    tokenizer = TransformersTokenizer(words, max_length=32, padding=padding, attend_padding=attend)
    text = TransformersTower(config=XLMR | {"vocab_size": tokenizer.vocabulary_size}, pooling=pooling)
    assert_one_graph(Encoder(ImageTextModel(FeatureTower(12), text, 24), tokenizer, None, [], "cosine", "x"), tmp_path)


@pytest.mark.parametrize("pooling", ["last", "attention"])
def test_pooling_in_both_towers_is_one_graph(pooling, tmp_path: Path) -> None:
    network = ImageTextModel(TimmTower("test_vit", pooling=pooling), ByteGRU(32, pooling=pooling), 24)
    assert_one_graph(Encoder(network, ByteTokenizer(64), ImagePipeline(size=160), [], "cosine", "x"), tmp_path)


def assert_one_graph(encoder: Encoder, folder: Path) -> None:
    graphs = mmtrain.load(write(encoder, "x", folder / "out", "onnx"))  # 104 captions, 100 pictures are equal
    for count in (1, 3):
        rows = graphs.encode_text(["two words"] * count)
        np.testing.assert_allclose(rows, encoder.encode_text(["two words"] * count), atol=1e-5)


# -- push


def test_push_sends_what_export_wrote_and_nothing_else(model: str, tmp_path: Path, capsys) -> None:
    out = write(mmtrain.load(model), model, tmp_path / "out")
    written = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()} - {"export.json"}
    holding(out, {".env": "TOKEN=1", ".git/config": "x", "run.py": "x", "notes.md": "x"})
    (out / "link.json").symlink_to(tmp_path)
    assert set(hub.prepare(out, "someone/a-model", "mit")) == written
    assert "not sent, for export did not write them: .env, .git/config" in capsys.readouterr().out
    assert (out / "notes.md").read_text() == "x"


def test_push_of_what_is_no_export_changes_nothing(model: str, tmp_path: Path, capsys) -> None:
    folder = holding(tmp_path / "mine", {"README.md": "# my project\n", "mmtrain.json": "{}"})
    assert main(["push", str(folder), "a/b", "--licence", "mit"]) == 1
    assert "is no export" in capsys.readouterr().err
    assert (folder / "README.md").read_text() == "# my project\n"


@pytest.mark.parametrize("evil", ["evil.PT", "data.joblib", "notes/weights.Pkl"])
def test_push_refuses_pickles_of_any_spelling(evil: str, model: str, tmp_path: Path, capsys) -> None:
    out = write(mmtrain.load(model), model, tmp_path / "out")
    holding(out, {evil: "x"})
    assert main(["push", str(out), "a/b", "--licence", "mit"]) == 1
    assert f"{evil} can carry code" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (
            "mmtrain.json",
            lambda text: text.replace('"init_args": {', '"init_args": {"words": "/home/me/words.json",', 1),
        ),
        ("README.md", lambda text: f"{text}\nTrained on /tmp/me/data.\n"),
    ],
)
def test_push_refuses_a_place_of_this_machine(name: str, change, model: str, tmp_path: Path, capsys) -> None:
    out = write(mmtrain.load(model), model, tmp_path / "out")
    (out / name).write_text(change((out / name).read_text()))
    assert main(["push", str(out), "a/b", "--licence", "mit"]) == 1
    assert f"{name} names a place of this machine" in capsys.readouterr().err


def test_an_export_is_still_one_after_push(words: str, tmp_path: Path, capsys) -> None:
    out = write(siglip(words), "a test", tmp_path / "out", "open_clip")
    hub.prepare(out, "someone/a-model", "mit")
    config = json.loads((out / "open_clip_config.json").read_text())["model_cfg"]["text_cfg"]
    assert config["hf_model_name"] == config["hf_tokenizer_name"] == "someone/a-model"
    assert write(siglip(words), "a test", tmp_path / "out", "safetensors") == out
