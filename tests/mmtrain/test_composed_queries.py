"""Queries of several pictures and a text: one row of them, what is trained beside, and what looks for what."""

import io
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import mmtrain
from datamodules import ByteTokenizer, Field, ImagePipeline
from mmtrain.cli import main
from mmtrain.fusion import ComposedQuery
from mmtrain.models.batches import compose
from mmtrain.models.encoder import Encoder
from mmtrain.models.image_text import ImageTextModel
from mmtrain.models.run_folder import read_checkpoint
from mmtrain.models.spec import build, spec_of
from mmtrain.objectives import Reconstruction
from mmtrain.towers import ByteGRU, FeatureTower, TimmTower
from tests.mmtrain.small import ROOT

DATA = SimpleNamespace(tokenizer=ByteTokenizer(), languages=["en"])
TEXT = "the number of <image>, the ink of <image>"


def encoder(trained: bool = True) -> Encoder:
    """A model whose composition adds something where it is `trained`."""
    torch.manual_seed(0)
    tower = {"patch_size": 16, "embed_dim": 32, "depth": 1, "num_heads": 2}
    image = TimmTower("vit_tiny_patch16_224", image_size=32, options=tower)
    model = ImageTextModel(image, ByteGRU(width=16), 12, composition=ComposedQuery(heads=2))
    if trained:
        torch.nn.init.normal_(model.composer.out[1].weight)
    return Encoder(model, ByteTokenizer(32), ImagePipeline(size=32), ["en"], "cosine", "a test")


def picture(level: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(level).integers(0, 255, (32, 32, 3), dtype=np.uint8))


def test_what_is_not_trained_is_the_normalised_sum() -> None:
    ours = encoder(trained=False)
    rows = [*ours.encode_text(["a", "b"]), *ours.encode_image([picture(1), picture(2)])]
    row = ours.encode_query("a <image> b <image>", [picture(1), picture(2)])
    total = np.sum(rows, axis=0)
    np.testing.assert_allclose(row, total / np.linalg.norm(total), atol=1e-6)


def test_pictures_keep_their_places_between_the_words() -> None:
    ours, one, two = encoder(), picture(1), picture(2)
    row = ours.encode_query(TEXT, [one, two])
    assert np.abs(row - ours.encode_query(TEXT, [two, one])).max() > 1e-3
    moved = ours.encode_query("<image> the number of, the ink of <image>", [one, two])
    assert np.abs(row - moved).max() > 1e-3
    assert abs(np.linalg.norm(row) - 1) < 1e-6


def test_one_input_keeps_its_row_and_queries_do_not_depend_on_one_another() -> None:
    ours = encoder()
    queries = [{"text": TEXT, "images": [picture(1), picture(2)]}, {"text": "one"}, {"images": [picture(3)]}]
    queries += [{"images": [picture(n) for n in range(3)]}, {"text": "long " * 5, "images": [picture(4)]}]
    together = ours.encode_queries(queries)
    np.testing.assert_allclose(together, np.stack([ours.encode_query(**each) for each in queries]), atol=1e-6)
    np.testing.assert_allclose(together[1], ours.encode_text(["one"])[0], atol=1e-6)
    np.testing.assert_allclose(together[2], ours.encode_image([picture(3)])[0], atol=1e-6)


def test_features_are_composed_too() -> None:
    ours = Encoder(small(), ByteTokenizer(), None, ["en"], "cosine", "a test")
    features = np.random.default_rng(0).standard_normal((2, 8)).astype(np.float32)
    row = ours.encode_query("a <image> b", list(features))
    assert np.abs(row - ours.encode_query("a <image> b", features[::-1])).max() > 1e-3


def test_a_model_that_adds_rows_reads_no_marks() -> None:
    ours = encoder()
    ours.model.composer = None
    plain = ours.encode_query("the number of , the ink of", [picture(1)])
    np.testing.assert_allclose(ours.encode_query(TEXT, [picture(1)]), plain, atol=1e-6)


def test_a_composition_is_described_with_its_model() -> None:
    ours = encoder().model
    again = build(spec_of(ours), ImageTextModel)
    again.load_state_dict(ours.state_dict())
    assert again.composer is not None and again.composer.layers == 2
    assert "composer" in again.trained()


def fields(same_text: bool = False) -> tuple[Field, Field]:
    """Three texts of one piece, each with two pictures of features; the last has no second one."""
    torch.manual_seed(1)
    tokens = torch.randint(3, 200, (3, 1, 6))
    mask = torch.ones(3, 1, 6, dtype=torch.bool)
    present = torch.tensor([[True, True], [True, True], [True, False]])
    ids = torch.tensor([[5], [5 if same_text else 6], [7]])
    texts = Field("text", tokens, mask[:, :, 0], mask, torch.zeros(3, 1, dtype=torch.int64), ids)
    return texts, Field("features", torch.randn(3, 2, 4, 8), present, ids=torch.tensor([[1, 2], [1, 2], [1, -1]]))


def small(composition: ComposedQuery | None = None) -> ImageTextModel:
    torch.manual_seed(0)
    model = ImageTextModel(FeatureTower(8), ByteGRU(width=8), 12, composition=composition or ComposedQuery(heads=2))
    if model.composer is not None and model.composer.layers:
        torch.nn.init.normal_(model.composer.out[1].weight)
    return model


def test_a_query_is_a_negative_of_its_copies_by_all_of_its_inputs() -> None:
    texts, pictures = fields(same_text=True)
    ids = compose(small(), texts, pictures)[0].ids
    assert ids.shape == (3, 1) and ids[0] == ids[1] != ids[2] and (ids >= 0).all()
    pictures.ids[1] = torch.tensor([2, 1])
    assert compose(small(), texts, pictures)[0].ids[0] != compose(small(), texts, pictures)[0].ids[1]


def test_absent_pictures_change_nothing() -> None:
    texts, pictures = fields()
    before = compose(small(), texts, pictures)[0].rows
    pictures.values[2, 1] = 100.0
    torch.testing.assert_close(compose(small(), texts, pictures)[0].rows, before)


def restoring(**options: float) -> tuple[Reconstruction, ImageTextModel]:
    torch.manual_seed(0)
    model, objective = small(), Reconstruction(heads=2, **options)
    objective.connect(model)
    objective.prepare(DATA)
    return objective, model


def embedded(model: ImageTextModel) -> SimpleNamespace:
    """What of embeddings the objective reads."""
    (query, shown), (target, seen) = compose(model, *fields()), compose(model, *fields()[::1])
    made = {"query": query, "query_pictures": shown, "positive": target, "positive_pictures": seen}
    return SimpleNamespace(fields=made)


def loss_of(objective: Reconstruction, model: ImageTextModel, embeddings: SimpleNamespace) -> Tensor:
    torch.manual_seed(3)
    return objective.loss(None, embeddings, model)


def test_each_side_is_restored_with_its_own_row_and_with_the_others() -> None:
    for weights, reads in (({"l1": 0.0}, "own"), ({"l2": 0.0}, "other")):
        objective, model = restoring(**weights)
        embeddings = embedded(model)
        query, target = (embeddings.fields[name].rows.detach().requires_grad_() for name in ("query", "positive"))
        embeddings.fields["query"].rows, embeddings.fields["positive"].rows = query, target
        side = objective._side(None, embeddings, "query")
        torch.manual_seed(3)
        objective.restore(side, query[:, 0]).sum().backward()
        assert query.grad.abs().sum() > 0 and target.grad is None
        query.grad = None
        calls = []
        objective.restore = lambda side, row, calls=calls: calls.append(row) or torch.zeros(2)
        loss_of(objective, model, embeddings)
        rows = [query, target] if reads == "own" else [target, query]
        assert all(torch.equal(row, wanted[:, 0]) for row, wanted in zip(calls, rows, strict=True)), reads


def test_masked_patches_and_words_are_hidden_from_the_layer() -> None:
    objective, model = restoring(mask_rate=1.0)
    embeddings = embedded(model)
    row = embeddings.fields["query"].rows[:, 0]
    side = objective._side(None, embeddings, "query")
    read = []
    objective.layer.register_forward_hook(lambda layer, inputs, output: read.append((inputs[0], output)))
    found = objective.restore(side, row)
    objective.restore(side._replace(words=side.words.roll(1, 0), patches=side.patches + 1), row)
    torch.testing.assert_close(read[0][0], read[1][0])  # all of it is masked: what it was cannot be seen
    restored = objective.patch_out(objective.norm(read[0][1]))[:, 1 + side.words.shape[1] :]
    error = (restored - side.patches).square().mean(-1)[side.seen].mean()
    torch.testing.assert_close(found[0], error)


def test_the_rows_learn_from_what_is_restored_and_the_patches_do_not() -> None:
    objective, model = restoring()
    loss_of(objective, model, embedded(model)).backward()
    assert all(parameter.grad is not None for parameter in objective.parameters())
    assert model.composer.out[1].weight.grad.abs().sum() > 0
    assert set(objective.logged()) == {"reg_pictures", "reg_words", "rec_pictures", "rec_words"}


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: ComposedQuery(layers=-1), "composition.layers: got -1"),
        (lambda: small(ComposedQuery(width=10, heads=4)), "composition.heads: got 4, expected a divisor"),
        (lambda: Reconstruction(mask_rate=0.0), "mask_rate: got 0.0"),
        (lambda: Reconstruction(l2=-1.0), "l1, l2: got 1.0 and -1.0"),
        (lambda: Reconstruction().connect(ImageTextModel(FeatureTower(8), ByteGRU(width=8), 12)), "composes nothing"),
        (lambda: ImageTextModel(None, ByteGRU(width=8), 12, composition=ComposedQuery()), "no image tower"),
        (lambda: ImageTextModel(FeatureTower(8), ByteGRU(width=8), 12, composition="both"), "got 'both'"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(make, says) -> None:
    with pytest.raises(ValueError, match=says) as error:
        make()
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with shards of products and a run of two steps of the tiny page, smaller still."""
    folder = tmp_path_factory.mktemp("products")
    for split, count in (("train", 16), ("val", 8), ("test", 4)):
        assert main(["pack", "products", "--out", str(folder / split), "--split", split, f"--queries={count}"]) == 0
    image = "{class_path: mmtrain.towers.TimmTower, init_args: {name: vit_tiny_patch16_224, image_size: 32,"
    image += " options: {patch_size: 16, embed_dim: 32, depth: 1, num_heads: 2}}}"
    options = [f"--data.train={folder / 'train'}", f"--data.val={folder / 'val'}", "--model.image", image]
    options += ["--model.text", "{class_path: mmtrain.towers.ByteGRU, init_args: {width: 16}}", "--data.batch_size=8"]
    options += ["--model.composition", "{class_path: mmtrain.fusion.ComposedQuery, init_args: {layers: 1, heads: 2}}"]
    options += ["--model.dimension=16", "--data.workers=0", "--trainer.accelerator=cpu", "--trainer.max_steps=2"]
    options += ["--trainer.val_check_interval=2", "--trainer.enable_progress_bar=false"]
    options += ["--trainer.enable_model_summary=false", f"--trainer.default_root_dir={folder / 'run'}"]
    options += ["--checkpoint.every_n_steps=2"]
    assert main(["fit", "--config", str(ROOT / "configs" / "pretrain" / "coral_tiny.yaml"), *options]) == 0
    return folder


def test_a_run_composes_again_and_its_export_holds_no_reconstruction(trained: Path, capsys) -> None:
    names = read_checkpoint(trained / "run" / "checkpoints" / "last.ckpt")["state_dict"]
    assert any(name.startswith("objectives.reconstruction.") for name in names)
    ours = mmtrain.load(trained / "run")
    row = ours.encode_query(text=TEXT, images=[picture(1), picture(2)])
    for format in ("safetensors", "onnx"):
        assert main(["export", str(trained / "run"), "--out", str(trained / format), "--format", format]) == 0
    assert "onnx holds single pictures and texts" in capsys.readouterr().out
    again = mmtrain.load(trained / "safetensors")
    np.testing.assert_allclose(again.encode_query(text=TEXT, images=[picture(1), picture(2)]), row, atol=1e-6)
    from safetensors import safe_open

    with safe_open(trained / "safetensors" / "model.safetensors", "pt") as file:
        assert any(name.startswith("composer.") for name in file.keys())  # noqa: SIM118  # no mapping
        assert not any("reconstruction" in name or "patch_mask" in name for name in file.keys())  # noqa: SIM118
    text = mmtrain.load(trained / "run", text_only=True).encode_text(["a"])
    np.testing.assert_allclose(text, ours.encode_text(["a"]), atol=1e-6)


def test_a_composition_without_pictures_beside_texts_is_refused(trained: Path, capsys) -> None:
    options = [f"--data.train={trained / 'train'}", "--data.val=null", "--data.fields={}", "--trainer.accelerator=cpu"]
    options += [f"--trainer.default_root_dir={trained / 'none'}", "--trainer.max_steps=1", "--data.workers=0"]
    options += ["--data.batch_size=8"]
    assert main(["fit", "--config", str(ROOT / "configs" / "pretrain" / "coral_tiny.yaml"), *options]) == 1
    assert "model.composition: no texts have pictures" in capsys.readouterr().err.strip().splitlines()[-1]


def test_questions_of_two_pictures_and_a_text_look_for_pictures_with_titles(trained: Path) -> None:
    test, out = trained / "test", trained / "report"
    options = ["--questions", str(test / "questions.jsonl"), "--workers=0", "--out", str(out)]
    assert main(["evaluate", str(trained / "run"), "--data", str(test), *options]) == 0
    figures = json.loads((out / "metrics.json").read_text())["questions"]
    groups = figures["groups"]
    assert sum(each["queries"] for each in groups.values()) == 4
    assert set(groups) <= {"number and ink", "number and paper"}


def test_questions_mine_no_pool_of_pictures_that_are_composed_with_titles(trained: Path, capsys) -> None:
    """Their rows by the picture alone are not those that `evaluate` ranks."""
    test, run = trained / "test", str(trained / "run")
    options = ["--data", str(test), "--questions", str(test / "questions.jsonl"), "--pool", "2", "--workers=0"]
    assert main(["mine", run, *options, "--device=cpu", "--out", str(trained / "pool")]) == 1
    assert "composes pictures with captions; a MODEL that does not" in capsys.readouterr().err
    assert not (trained / "pool").exists()


def test_an_index_is_searched_by_a_text_and_two_pictures(trained: Path, capsys) -> None:
    assert main(["index", str(trained / "run"), "--data", str(trained / "test"), "--out", str(trained / "index")]) == 0
    questions = [json.loads(line) for line in (trained / "test" / "questions.jsonl").read_text().splitlines()]
    ours, asked = mmtrain.load(trained / "run"), questions[0]
    images = [trained / "test" / each for each in asked["images"]]
    named = [each for image in images for each in ("--image", str(image))]
    capsys.readouterr()
    language = ["--language", asked["language"]]
    assert main(["search", str(trained / "index"), asked["text"], *named, *language, "-k", "3", "--json"]) == 0
    best = json.loads(capsys.readouterr().out)["results"][0]
    row = ours.encode_query(asked["text"], [Image.open(each) for each in images], language=asked["language"])
    rows = np.load(trained / "index" / "rows.npy")
    assert best["score"] == pytest.approx(float((rows @ row).max()), abs=1e-5)
    assert best["id"].count("-") == 2


def test_a_page_searches_by_several_pictures(trained: Path) -> None:
    from fastapi.testclient import TestClient

    from mmtrain.serving.app import make_app
    from mmtrain.serving.service import open_service

    if not (trained / "index").is_dir():
        assert (
            main(["index", str(trained / "run"), "--data", str(trained / "test"), "--out", str(trained / "index")]) == 0
        )
    client = TestClient(make_app(open_service(str(trained / "index"), model=None, device="cpu", trust=None)))
    contents = []
    for level in (1, 2):
        file = io.BytesIO()
        picture(level).save(file, "PNG")
        contents.append(file.getvalue())
    files = [("image", (f"{n}.png", content, "image/png")) for n, content in enumerate(contents)]
    found = client.post("/search", data={"text": TEXT, "k": "2"}, files=files).json()["results"]
    row = mmtrain.load(trained / "run").encode_query(TEXT, [picture(1), picture(2)], role="query")
    assert found[0]["score"] == pytest.approx(float((np.load(trained / "index" / "rows.npy") @ row).max()), abs=1e-5)
    page = client.post("/", data={"text": TEXT}, files=files).text
    assert page.count('alt="the query picture"') == 2 and "multiple" in page
    assert client.post("/search", files=files * 5).status_code == 400
