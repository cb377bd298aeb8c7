"""Token rows of a model: which tokens count, alone and in a batch, few of them, trained, saved, loaded, refused."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mmtrain
from datamodules import ByteTokenizer, ImagePipeline
from losses import late_interaction
from mmtrain.cli import main
from mmtrain.export.parity import images
from mmtrain.models.encoder import Encoder
from mmtrain.models.image_text import ImageTextModel
from mmtrain.models.token_rows import TokenPooling, pooled
from mmtrain.towers import ByteGRU, FeatureTower, TimmTower
from tests.mmtrain.small import fit

VIT = {"patch_size": 16, "embed_dim": 32, "depth": 1, "num_heads": 2}
TEXTS = ["two", "a far longer caption", "", "zaļš"]
LATE = [
    "--model.multi={dimension: 8}",
    "--model.objectives.late={class_path: losses.LateInteractionLoss, init_args: {queries: texts, targets: image}}",
]


def encoder(**options: object) -> Encoder:
    torch.manual_seed(0)
    image = TimmTower("vit_tiny_patch16_224", image_size=64, options=VIT)
    network = ImageTextModel(image, ByteGRU(width=16), 12, multi={"dimension": 8}, **options)
    return Encoder(network, ByteTokenizer(), ImagePipeline(size=64), ["en", "lv"], "cosine", "a test")


def test_patches_and_bytes_have_a_row_each() -> None:
    model = encoder()
    pictures, texts = model.encode_image(images(model)[:3], multi=True), model.encode_text(TEXTS, multi=True)
    assert [rows.shape for rows in pictures] == [(16, 8)] * 3  # without the class token
    assert [len(rows) for rows in texts] == [5, 22, 2, 8]  # start, bytes, end
    for rows in (*pictures, *texts):
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"buckets": 1}])
def test_rows_do_not_depend_on_their_batch(options: dict[str, object]) -> None:
    model = encoder(**options)
    pictures = images(model)[:4]
    for together, alone in (
        (model.encode_image(pictures, multi=True), [model.encode_image([each], multi=True)[0] for each in pictures]),
        (model.encode_text(TEXTS, multi=True), [model.encode_text([each], multi=True)[0] for each in TEXTS]),
        (model.encode_text(TEXTS * 4, multi=True)[:4], model.encode_text(TEXTS, multi=True)),
    ):
        for one, other in zip(together, alone, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-6)


def test_dense_rows_of_the_same_pass_are_those_of_the_model() -> None:
    network = encoder().model
    pixels = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)
    tokens, mask = ByteTokenizer()(TEXTS, [""] * 4)
    with torch.no_grad():
        torch.testing.assert_close(network.encode_image_multi(pixels)[0], network.encode_image(pixels))
        rows, multi, there = network.encode_text_multi(tokens, mask)
        torch.testing.assert_close(rows, network.encode_text(tokens, mask))
    assert multi.shape[:2] == there.shape and torch.equal(there, mask)


def test_a_model_of_micro_batches_gives_the_same() -> None:
    model = encoder()
    pictures, whole = images(model)[:5], model.encode_image(images(model)[:5], multi=True)
    model.model.micro_batch = 2
    np.testing.assert_allclose(np.stack(model.encode_image(pictures, multi=True)), np.stack(whole), atol=1e-6)


def test_features_have_a_row_a_token() -> None:
    network = ImageTextModel(FeatureTower(6), ByteGRU(width=16), 12, multi={"dimension": 8})
    model = Encoder(network, ByteTokenizer(), None, [], "cosine", "a test")
    assert [len(rows) for rows in model.encode_image(np.ones((2, 5, 6)), multi=True)] == [5, 5]


def test_a_budget_keeps_the_means_of_clusters() -> None:
    directions = torch.eye(8)[:3].repeat_interleave(torch.tensor([5, 2, 3]), 0)
    rows = torch.nn.functional.normalize(directions + 0.01 * torch.randn(10, 8, generator=torch.manual_seed(0)), dim=1)
    centres, cluster = pooled(rows, 3)
    assert [cluster[start:end].unique().tolist() for start, end in ((0, 5), (5, 7), (7, 10))] in (
        [[0], [a], [b]] for a, b in ((1, 2), (2, 1))
    )
    for number, centre in enumerate(centres):
        mean = torch.nn.functional.normalize(rows[cluster == number].mean(0), dim=0)
        torch.testing.assert_close(centre, mean)
    same = torch.nn.functional.normalize(torch.ones(4, 8), dim=1)
    assert pooled(same, 2)[0].norm(dim=1).allclose(torch.ones(2))  # an empty cluster
    assert pooled(rows, 10)[0] is rows


def test_attention_reads_all_rows_of_the_item_and_no_others() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(9, 4, generator=generator), dim=1)
    few, nearest = pooled(rows, 3, "attention")
    seeds = [0]
    while len(seeds) < 3:
        seeds.append(min(range(9), key=lambda i: max(float(rows[i] @ rows[seed]) for seed in seeds)))
    for row, seed in zip(few, seeds, strict=True):
        weights = np.exp([20 * float(each @ rows[seed]) for each in rows])
        read = (weights[:, None] * rows.numpy()).sum(0)
        np.testing.assert_allclose(row, read / np.linalg.norm(read), atol=1e-5)
    assert torch.equal(nearest, (rows @ few.T).argmax(1))
    another: Any = "max"
    with pytest.raises(ValueError, match=r"^pooling: got 'max', expected kmeans or attention"):
        encoder().encode_text(["two"], multi=True, budget=1, pooling=another)


def test_a_budget_holds_at_encoding() -> None:
    model = encoder()
    assert [len(rows) for rows in model.encode_image(images(model)[:2], multi=True, budget=5)] == [5, 5]
    assert [len(rows) for rows in model.encode_text(TEXTS, multi=True, budget=5)] == [5, 5, 2, 5]
    assert [rows.shape for rows in model.encode_text(["two"], multi=True, dim=3)] == [(5, 3)]
    ways: tuple[TokenPooling, ...] = ("kmeans", "attention")
    means, read = (model.encode_text(TEXTS[:1], multi=True, budget=2, pooling=way)[0] for way in ways)
    assert means.shape == read.shape == (2, 8) and not np.allclose(means, read)


@pytest.mark.parametrize("micro_batch", [[], ["--model.micro_batch=3"]])
def test_training_saving_and_loading(shards: Path, tmp_path: Path, micro_batch: list[str]) -> None:
    assert fit(shards, tmp_path / "run", "--trainer.max_steps=2", *LATE, *micro_batch) == 0
    assert main(["export", str(tmp_path / "run"), "--out", str(tmp_path / "export")]) == 0
    run, export = mmtrain.load(tmp_path / "run"), mmtrain.load(tmp_path / "export")
    for one, other in zip(run.encode_text(TEXTS, multi=True), export.encode_text(TEXTS, multi=True), strict=True):
        np.testing.assert_array_equal(one, other)
    texts_alone = mmtrain.load(tmp_path / "export", text_only=True)
    np.testing.assert_array_equal(
        texts_alone.encode_text(["two"], multi=True)[0], run.encode_text(["two"], multi=True)[0]
    )
    fresh = torch.nn.Linear(32, 8, bias=False).weight
    assert run.model.get_submodule("multi.image").weight.shape == fresh.shape
    if micro_batch:
        return
    command = ["embed", str(tmp_path / "export"), "--data", str(shards), "--out", str(tmp_path / "rows"), "--multi"]
    assert main([*command, "--workers", "0", "--device", "cpu"]) == 0
    with tarfile.open(tmp_path / "rows" / "shard-000000.tar") as tar:
        files = {name.partition(".")[2]: io.BytesIO(tar.extractfile(name).read()) for name in tar.getnames()[:3]}
        record, picture, texts = json.load(files["json"]), np.load(files["npy"]), np.load(files["texts.npy"])
    assert picture.shape == (4, 8)
    for rows, (language, text) in zip(texts, record["captions"].items(), strict=True):
        (exact,) = export.encode_text([text], language, multi=True)
        np.testing.assert_allclose(rows[: len(exact)], exact, atol=1e-6)
        assert not rows[len(exact) :].any()


def test_an_objective_of_tokens_may_stand_beside(shards: Path, tmp_path: Path) -> None:
    fusion = "{class_path: mmtrain.fusion.CrossAttentionFusion, init_args: {width: 16, layers: 1, heads: 2}}"
    head = f"{{class_path: mmtrain.fusion.MatchingHead, init_args: {{fusion: {fusion}}}}}"
    itm = f"--model.objectives.itm={{class_path: losses.ItmLoss, init_args: {{fusion: {head}}}}}"
    assert fit(shards, tmp_path / "run", "--trainer.max_steps=1", *LATE, itm) == 0


def test_both_ways_of_scoring_agree_with_a_loop() -> None:
    model = encoder()
    queries, items = model.encode_text(TEXTS, multi=True), model.encode_image(images(model)[:3], multi=True)
    slow = [[(query @ item.T).max(1).sum() for item in items] for query in queries]
    rows = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(query) for query in queries], batch_first=True)
    there = torch.arange(rows.shape[1]) < torch.tensor([[len(query)] for query in queries])
    pictures = torch.from_numpy(np.stack(items))
    scores = late_interaction(rows, there, pictures, torch.ones(3, 16, dtype=torch.bool))
    np.testing.assert_allclose(scores, slow, atol=1e-5)


def test_what_cannot_be_is_one_line(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = Encoder(ImageTextModel(FeatureTower(6), ByteGRU(16), 12), ByteTokenizer(), None, [], "cosine", "a test")
    model = encoder()
    for call, message in (
        (lambda: plain.encode_text(["two"], multi=True), r"^multi: the model gives no token rows; train one"),
        (lambda: plain.encode_image(np.ones((1, 6)), multi=True), r"^multi: the model gives no token rows"),
        (lambda: model.encode_text(["two"], budget=3), r"^budget: got 3, expected a number from 1, of token rows"),
        (lambda: model.encode_text(["two"], multi=True, budget=0), r"^budget: got 0"),
        (lambda: model.encode_text(["two"], multi=True, dim=9), r"^dim: got 9, the rows of a test have 8"),
        (lambda: ImageTextModel(None, ByteGRU(16), 12, multi={"width": 3}), r"^model.multi: got \{'width': 3\}, expec"),
        (lambda: ImageTextModel(None, ByteGRU(16), 12, multi={"dimension": 0}), r"^model.multi: got \{'dimension': 0"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    assert fit(shards, tmp_path / "run", "--trainer.max_steps=1", LATE[1]) == 1
    assert "model.objectives.late: reads token rows; set model.multi" in capsys.readouterr().err
