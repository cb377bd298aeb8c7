"""Queries of several inputs, and models of further modalities that a sample may lack."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import losses
import mmtrain
from datamodules import ByteTokenizer, Field, ImagePipeline
from mmtrain.cli import main
from mmtrain.models.batches import embed_batch
from mmtrain.models.encoder import Encoder
from mmtrain.models.image_text import ImageTextModel
from mmtrain.models.run_folder import read_checkpoint
from mmtrain.towers import ByteGRU, FeatureTower, TimmTower
from mmtrain.training.parts import rest_unread
from tests.mmtrain.batches import made_batch
from tests.mmtrain.runs import column
from tests.mmtrain.small import TINY


def encoder(composition: str = "sum", missing: tuple[str, ...] = ()) -> Encoder:
    torch.manual_seed(0)
    tower = {"patch_size": 16, "embed_dim": 32, "depth": 1, "num_heads": 2}
    image = TimmTower("vit_tiny_patch16_224", image_size=32, options=tower)
    modalities = {"audio": FeatureTower(3)}
    model = ImageTextModel(
        image, ByteGRU(width=16), 12, modalities=modalities, composition=composition, missing=missing
    )
    return Encoder(model, ByteTokenizer(32), ImagePipeline(size=32), ["en", "lv"], "cosine", "a test")


def picture(level: int) -> Image.Image:
    return Image.new("RGB", (40, 40), (level, 2 * level, 90))


AUDIO = np.array([0.1, -2.0, 1.0], np.float32)


def test_a_query_is_the_normalised_sum_of_its_inputs() -> None:
    ours = encoder()
    text, image = ours.encode_text(["seven"], "en")[0], ours.encode_image([picture(9)])[0]
    audio = ours.model.encode_modality("audio", torch.from_numpy(AUDIO)[None])[0].numpy()
    row = ours.encode_query("seven", [picture(9)], features={"audio": AUDIO}, language="en")
    total = text + image + audio
    np.testing.assert_allclose(row, total / np.linalg.norm(total), atol=1e-6)
    np.testing.assert_allclose(ours.encode_query("seven"), ours.encode_text(["seven"])[0], atol=1e-6)
    assert row.dtype == np.float32 and row.shape == (12,)


def test_a_symile_model_multiplies_and_does_not_normalise() -> None:
    ours = encoder("product")
    text, image = ours.encode_text(["seven"], "en")[0], ours.encode_image([picture(9)])[0]
    row = ours.encode_query("seven", [picture(9)], language="en")
    np.testing.assert_allclose(row, text * image, atol=1e-7)
    assert np.linalg.norm(row) < 0.9


def test_queries_do_not_depend_on_one_another() -> None:
    ours = encoder()
    queries = [{"text": "seven", "language": "en"}, {"images": [picture(9), picture(70)]}, {"text": "septiņi"}]
    queries += [{"text": "x" * 30, "images": [picture(5)], "features": {"audio": AUDIO}, "language": "lv"}]
    together = ours.encode_queries(queries)
    alone = np.stack([ours.encode_query(**query) for query in queries])
    np.testing.assert_allclose(together, alone, atol=1e-6)
    assert ours.encode_queries([]).shape == (0, 12)


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ({}, "query 0: nothing to encode; a text, images or features"),
        ({"text": "a", "sound": 1}, "query 0: sound is no input; expected text, images, features"),
        ({"features": {"video": AUDIO}}, "features.video: a test has no such modality; it has audio"),
        ({"text": "a", "adapter": "retrieval"}, "query 0: adapter 'retrieval', but a test has no adapters"),
        ({"text": "a", "role": "title"}, "role: got 'title', expected query or passage"),
    ],
)
def test_a_query_that_cannot_be_read_is_one_line(query: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        encoder().encode_queries([query])


# ---- inputs that may be missing


def test_a_learned_row_stands_for_what_is_missing() -> None:
    model = encoder("product", ("image", "audio")).model
    rows = torch.nn.functional.normalize(torch.randn(3, 12), dim=1)
    filled = model.with_absent("audio", rows, torch.tensor([True, False, True]))
    assert torch.equal(filled[[0, 2]], rows[[0, 2]])
    torch.testing.assert_close(filled[1], model.absent["audio"] / model.absent["audio"].norm())
    values = torch.randn(1, 3)
    before = model.encode_modality("audio", values)
    model.observed["audio"].data += 1.0  # what says that it is there
    assert not torch.allclose(model.encode_modality("audio", values), before)


def test_what_may_be_missing_is_an_input() -> None:
    with pytest.raises(ValueError, match="model.missing: got video, expected some of audio, image, text"):
        encoder(missing=("video",))


def test_layer_normed_rows_have_mean_zero_and_unit_length() -> None:
    torch.manual_seed(0)
    model = ImageTextModel(FeatureTower(6), ByteGRU(width=8), 16, layer_norm=True)
    rows = model.encode_image(torch.randn(5, 6))
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(5))
    torch.testing.assert_close(rows.mean(1), torch.zeros(5), atol=1e-6, rtol=0)


@pytest.fixture(scope="module")
def heard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """32 samples of features, a word and a one-hot sound; each fourth lacks one of the three."""
    folder = tmp_path_factory.mktemp("heard")
    random = np.random.default_rng(0)
    with tarfile.open(folder / "heard.tar", "w") as tar:
        for n in range(32):
            files = {"npy": npy(random.normal(size=6)), "audio.npy": npy(np.eye(3)[n % 3])}
            record = {"id": f"s{n}", "captions": {"en": f"word {n % 5}"}}
            if n % 4 == 1:
                del files["npy"]
            if n % 4 == 2:
                del files["audio.npy"]
            if n % 4 == 3:
                record["captions"] = {}
            files["json"] = json.dumps(record).encode()
            for suffix, content in files.items():
                member = tarfile.TarInfo(f"{n:04d}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return folder


def npy(values: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.save(content, values.astype(np.float32))
    return content.getvalue()


def fit_heard(data: Path, run: Path, *options: str) -> int:
    model = [
        "--model.image={class_path: mmtrain.towers.FeatureTower, init_args: {width: 6}}",
        "--model.text={class_path: mmtrain.towers.ByteGRU, init_args: {width: 16}}",
        "--model.modalities={audio: {class_path: mmtrain.towers.FeatureTower, init_args: {width: 3}}}",
        "--model.objectives={symile: {class_path: losses.SymileLoss, init_args: {scale: 30}}}",
        "--model.dimension=16",
        "--data.batch_size=8",
        "--data.workers=0",
        "--trainer.accelerator=cpu",
        "--trainer.enable_progress_bar=false",
        "--trainer.log_every_n_steps=1",
        "--trainer.val_check_interval=3",
        "--trainer.max_steps=3",
    ]
    fields = [f"--data.fields={options[0]}", *options[1:]]
    places = [f"--data.train={data}", f"--data.val={data}", f"--trainer.default_root_dir={run}"]
    return main(["fit", "--config", TINY, *places, *model, *fields])


def test_a_run_of_three_modalities_some_missing(heard: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lax = "{audio: {class_path: datamodules.Features, init_args: {required: false}}}"
    missing = ["--model.missing=[image,text,audio]", "--model.layer_norm=true"]
    assert fit_heard(heard, tmp_path, lax, *missing) == 0
    assert "32 samples in 1 shards" in caplog.text
    assert "8 samples without 'audio': left out" in caplog.text  # measured on whole samples
    losses_seen = column(tmp_path, "train/symile")
    assert len(losses_seen) == 3 and all(np.isfinite(losses_seen)) and column(tmp_path, "val/mean_recall")
    state = read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["state_dict"]
    assert state["model.absent.audio"].shape == (16,) and state["model.observed.text"].abs().sum() > 0
    ours = mmtrain.load(str(tmp_path))
    row = ours.encode_query("word 1", features={"audio": np.eye(3)[1]})
    assert np.linalg.norm(row) < 0.9  # a product
    assert (
        main(["evaluate", str(tmp_path), "--data", str(heard), "--out", str(tmp_path / "report"), "--workers=0"]) == 0
    )


def test_a_run_that_needs_all_three_leaves_the_others_out(
    heard: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert fit_heard(heard, tmp_path, "{audio: {class_path: datamodules.Features}}") == 0
    assert "train: 8 samples in 1 shards" in caplog.text
    assert "8 samples without a caption" in caplog.text and "8 samples without a picture" in caplog.text


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ("{}", "model.modalities.audio: data.fields has no audio; the data bring image, texts"),
        (
            "{audio: {class_path: datamodules.Features, init_args: {key: video}}}",
            "data.train: no sample holds all that is needed",
        ),
    ],
)
def test_a_modality_that_nobody_has_is_one_line(
    heard: Path, tmp_path: Path, capsys: pytest.CaptureFixture, fields: str, says: str
) -> None:
    assert fit_heard(heard, tmp_path, fields) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert says in line


def test_a_batch_of_padding_alone_is_encoded() -> None:
    ours = encoder().model
    tokens, mask = ByteTokenizer(32)(["", ""], ["en", "en"])
    texts = Field("text", 0 * tokens[:, None], torch.zeros(2, 1, dtype=torch.bool), mask[:, None])
    pictures = torch.randint(0, 255, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        embeddings = embed_batch(ours, made_batch(pictures, fields={"query": texts}))
    assert not embeddings.fields["query"].rows.any()


@pytest.mark.parametrize(
    ("kinds", "trained"),
    [({"text"}, {"image", "text_projection"}), ({"image"}, {"image", "image_projection"})],
)
def test_a_shared_tower_is_trained_by_either_side(kinds: set[str], trained: set[str]) -> None:
    options = {"patch_size": 16, "embed_dim": 32, "depth": 1, "num_heads": 2}
    model = ImageTextModel(TimmTower("vit_tiny_patch16_224", image_size=32, options=options), "shared", 8)
    rest_unread(model, frozenset(kinds))
    assert {name.split(".")[0] for name, each in model.named_parameters() if each.requires_grad} == trained


def test_symile_says_that_it_multiplies() -> None:
    assert losses.SymileLoss().composition == "product" and losses.ClipLoss().composition == "sum"
