"""Prompts before texts that search and texts that are found: in training, and with the model ever after."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import mmtrain
from datamodules import Batch, Batches, ByteTokenizer, ImagePipeline, Part, ShardDataModule, Source, Texts
from mmtrain.cli import main
from mmtrain.models.image_text import ImageTextModel
from mmtrain.towers import ByteGRU, FeatureTower
from tests.mmtrain.small import fit

PROMPTS = {"query": "query: ", "passage": "passage: "}
TEXTS = ["red", "zaļš"]


@pytest.fixture(scope="module")
def run(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prompts")
    options = [f"--model.prompts={json.dumps(PROMPTS)}", "--trainer.max_steps=1"]
    assert fit(shards, folder, *options) == 0
    return folder


def test_roles_have_their_prompts(run: Path) -> None:
    model = mmtrain.load(run)
    assert model.model.prompts == PROMPTS
    plain = model.encode_text(TEXTS)
    for role, prompt in PROMPTS.items():
        rows = model.encode_text(TEXTS, role=role)
        np.testing.assert_allclose(rows, model.encode_text([prompt + text for text in TEXTS]), atol=1e-6)
        assert not np.allclose(rows, plain, atol=1e-4)
    with pytest.raises(ValueError, match="role: got 'answer', expected query or passage"):
        model.encode_text(TEXTS, role="answer")


def test_a_model_without_prompts_has_roles_that_change_nothing() -> None:
    model = ImageTextModel(FeatureTower(4), ByteGRU(width=8), 8)
    assert model.arguments()["prompts"] == {}
    with pytest.raises(ValueError, match="model.prompts: got answer: 'a', expected a text for query and passage"):
        ImageTextModel(FeatureTower(4), ByteGRU(width=8), 8, prompts={"answer": "a"})


def ids(*texts: str) -> torch.Tensor:
    return ByteTokenizer()(list(texts), ["en"] * len(texts))[0]


def read(module: object, **options: object) -> Batch | Batches:
    data = ShardDataModule(workers=0, images=ImagePipeline(size=8), **options)
    data.trainer = SimpleNamespace(
        lightning_module=module,
        global_rank=0,
        world_size=1,
        limit_train_batches=1.0,
        overfit_batches=0,
        fit_loop=SimpleNamespace(restarting=False),
    )
    data.setup("fit")
    return next(iter(data.train_dataloader()))


class Reading:
    """A training module with prompts."""

    prompts, lacking = PROMPTS, frozenset[str]()

    def reads(self, part: str, brings: frozenset[str] | None) -> frozenset[str]:
        return frozenset({"image", "texts"} if brings is None else brings & {"image", "texts", "query", "positive"})


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    rows = [{"query": "one", "positive": "eins", "language": "en"}] * 2
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert main(["pack", "pairs", str(tmp_path / "pairs.jsonl"), "--out", str(tmp_path / "pairs")]) == 0
    return tmp_path / "pairs"


def test_texts_of_a_sample_are_read_in_their_role(shards: Path, pairs: Path) -> None:
    parts = {"pictures": Part(str(shards), 1, languages=["en"]), "pairs": Part(str(pairs), 1)}
    batches = read(Reading(), parts=parts)
    pictures, texts = batches.parts.values()
    assert torch.equal(pictures.tokens[0], ids(f"query: {pictures.captions[0][0]}"))
    assert torch.equal(texts.fields["query"].values[0], ids("query: one"))
    assert torch.equal(texts.fields["positive"].values[0], ids("passage: eins"))


def test_parts_and_sources_have_prompts_of_their_own(shards: Path, pairs: Path) -> None:
    """The source's come before the part's, and those before the model's; a field's prefix is behind any."""
    source = Source(str(pairs), prompts={"query": "translate: "})
    fields = {"positive": Texts(prefix="German: ")}
    parts = {
        "pictures": Part(str(shards), 1, languages=["en"], prompts={"query": ""}),
        "pairs": Part([source], 1, prompts={"query": "pair: ", "passage": "answer: "}, fields=fields),
    }
    pictures, texts = read(Reading(), parts=parts).parts.values()
    assert torch.equal(pictures.tokens[0], ids(pictures.captions[0][0]))
    assert torch.equal(texts.fields["query"].values[0], ids("translate: one"))
    assert torch.equal(texts.fields["positive"].values[0], ids("answer: German: eins"))
    assert texts.fields["positive"].texts == [["eins"]]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"train": [Source("x", prompts={"answer": "a"})]},
            "data.train: source x: prompts: got answer: 'a', expected a",
        ),
        (
            {"parts": {"a": Part("x", prompts={"query": 1})}},
            "data.parts.a.prompts: got query: 1, expected a text for q",
        ),
    ],
)
def test_prompts_of_other_roles_are_one_line(options: dict, says: str, shards: Path) -> None:
    for source in options.get("train", ()):
        source.shards, source.name = str(shards), "x"
    with pytest.raises(ValueError, match=says):
        read(Reading(), **options)


def test_evaluation_reads_captions_as_training_does(run: Path, shards: Path, tmp_path: Path) -> None:
    from mmtrain.embedding.one_pass import embed
    from mmtrain.embedding.splits import open_split

    model = mmtrain.load(run)
    split = embed(model, open_split(model, str(shards), None, 8, 0))
    english = np.flatnonzero(np.asarray(split.captions) == "red")[0]
    np.testing.assert_allclose(split.texts[english], model.encode_text(["red"], role="query")[0], atol=1e-5)


@pytest.mark.parametrize("format", ["safetensors", "onnx"])
def test_exports_keep_the_prompts(run: Path, tmp_path: Path, format: str) -> None:
    pytest.importorskip("onnxscript" if format == "onnx" else "safetensors")
    assert main(["export", str(run), "--out", str(tmp_path / "out"), "--format", format]) == 0
    before, after = mmtrain.load(run), mmtrain.load(tmp_path / "out")
    rows = before.encode_text(TEXTS, role="passage")
    np.testing.assert_allclose(after.encode_text(TEXTS, role="passage"), rows, atol=1e-4)
    assert '- texts that search: "query: "' in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
