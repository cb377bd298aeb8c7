"""Our models in mteb, on tasks made here: its figures are ours, and what it knows about them is right."""

import json
import sys
from pathlib import Path

import mteb
import numpy as np
import pytest
from datasets import Dataset
from mteb.abstasks import AbsTaskRetrieval
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
from mteb.languages import check_language_code
from mteb.models import EncoderProtocol, ModelMeta
from mteb.types import PromptType
from PIL import Image

import mmtrain.mteb
from datamodules import ByteTokenizer, ImagePipeline
from mmtrain.evaluation import retrieval_metrics
from mmtrain.export import safetensors_folder
from mmtrain.models.encoder import Encoder
from mmtrain.models.image_text import ImageTextModel
from mmtrain.models.language_codes import ISO, fitting_language, iso_languages
from mmtrain.towers import ByteGRU, FeatureTower, TimmTower

CAPTIONS = {  # subset -> language of mteb, captions
    "en": ("eng-Latn", ["a red square", "a green hat", "blue", "a grey dog", "seven", "rain", "a cat", "two cats"]),
    "lav": ("lvs-Latn", ["sarkans", "zaļa cepure", "zils", "pelēks suns", "septiņi", "lietus", "kaķis", "divi kaķi"]),
    "ar": ("arb-Arab", ["أحمر", "قبعة خضراء", "أزرق", "كلب", "سبعة", "مطر", "قطة", "قطتان"]),
}


def encoder(metric: str = "cosine") -> Encoder:
    network = ImageTextModel(
        TimmTower("test_vit"), ByteGRU(32), dimension=24, prompts={"query": "find: ", "passage": "text: "}
    )
    return Encoder(network, ByteTokenizer(), ImagePipeline(size=160), ["en", "lv", "ar"], metric, "a test")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    folder.mkdir()
    safetensors_folder.write(encoder(), folder)
    return folder


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    noise = np.random.default_rng(0).integers(0, 256, (len(CAPTIONS["en"][1]), 40, 40, 3), dtype=np.uint8)
    return [Image.fromarray(pixels) for pixels in noise]


def task(category: str, pictures: list[Image.Image], reverse: bool = False) -> AbsTaskRetrieval:
    """A retrieval task with a subset a language; a query's answer is the item of its number."""

    class Made(AbsTaskRetrieval):
        metadata = mteb.TaskMetadata(
            type="Any2AnyMultilingualRetrieval",
            name="MadeHere",
            description="made in a test",
            dataset={"path": "none/none", "revision": "1"},
            category=category,
            modalities=["image", "text"],
            eval_langs={subset: [code] for subset, (code, _) in CAPTIONS.items()},
            main_score="ndcg_at_10",
        )

        def load_data(self, **options: object) -> None:
            self.dataset = {}
            for subset, (_, captions) in CAPTIONS.items():
                ids = [f"{i}" for i in range(len(captions))]
                texts = Dataset.from_dict({"id": ids, "text": captions})
                images = Dataset.from_dict({"id": ids, "image": pictures})
                queries, corpus = (images, texts) if category == "i2t" else (texts, images)
                if category == "it2i":
                    queries = Dataset.from_dict({"id": ids, "text": captions, "image": pictures[::-1]})
                relevant = {id: {id: 1} for id in ids}
                split = RetrievalSplitData(corpus=corpus, queries=queries, relevant_docs=relevant, top_ranked=None)
                self.dataset[subset] = {"test": split}
            self.data_loaded = True

    return Made()


def scores(model: object, made: AbsTaskRetrieval) -> dict[str, dict[str, float]]:
    results = mteb.evaluate(model, made, cache=None, show_progress_bar=False, co2_tracker=False)
    return {each["hf_subset"]: each for each in results.task_results[0].scores["test"]}


@pytest.mark.parametrize("dim", [None, 8])
@pytest.mark.parametrize("category", ["t2i", "i2t"])
def test_figures_of_mteb_are_ours(category: str, dim: int | None, folder: Path, pictures) -> None:
    model = mmtrain.mteb.model(folder, dim=dim)
    measured = scores(model, task(category, pictures))
    ours, direction = mmtrain.load(folder), {"t2i": "text_to_image", "i2t": "image_to_text"}[category]
    images = ours.encode_image(pictures, dim=dim)
    for subset, (_, captions) in CAPTIONS.items():
        role = "query" if category == "t2i" else "passage"
        texts = ours.encode_text(captions, role=role, dim=dim)
        columns = (images, texts, np.arange(len(captions)), [subset] * len(captions))
        figures = retrieval_metrics(*columns, recall_at=(1, 3, 5, 10), bootstrap=0)[direction][subset]
        for k in (1, 3, 5):
            assert 100 * measured[subset][f"recall_at_{k}"] == pytest.approx(figures[f"R@{k}"], abs=1e-3)
        for name in ("nDCG", "MRR"):
            assert 100 * measured[subset][f"{name.lower()}_at_10"] == pytest.approx(figures[f"{name}@10"], abs=1e-3)


def test_texts_with_pictures_are_queries_of_both(folder: Path, pictures) -> None:
    measured = scores(mmtrain.mteb.model(folder), task("it2i", pictures))
    ours = mmtrain.load(folder)
    captions = CAPTIONS["en"][1]
    both = [{"text": t, "images": [i], "role": "query"} for t, i in zip(captions, pictures[::-1], strict=True)]
    right = (ours.encode_queries(both) @ ours.encode_image(pictures).T).argmax(1) == np.arange(len(captions))
    assert measured["en"]["recall_at_1"] == pytest.approx(right.mean(), abs=1e-4)


def test_roles_languages_and_gaps_in_what_mteb_hands_over(folder: Path, pictures) -> None:
    model = mmtrain.mteb.model(folder)
    assert isinstance(model, EncoderProtocol)
    metadata, ours = task("t2i", pictures).metadata, mmtrain.load(folder)
    asked: list[tuple] = []
    encode = model.encoder.encode_text
    model.encoder.encode_text = lambda *a, **k: asked.append((a[1], k["role"])) or encode(*a, **k)
    for subset in (*CAPTIONS, "unheard-of"):
        for prompt in (PromptType.query, PromptType.document, None):
            options = {"task_metadata": metadata, "hf_split": "test", "hf_subset": subset, "prompt_type": prompt}
            model.encode([{"text": ["x"]}], **options, show_progress_bar=False)
    assert asked == [(name, role) for name in ("en", "lv", "ar", None) for role in ("query", "passage", None)]
    mixed = {"text": ["a", "", "b", ""], "image": [pictures[0], pictures[1], None, None]}
    rows = model.encode([mixed], **options, show_progress_bar=False)
    assert rows[1] == pytest.approx(ours.encode_image(pictures[1:2])[0], abs=1e-6)
    assert rows[2:] == pytest.approx(ours.encode_text(["b", ""]), abs=1e-6)
    for batch, said in (({"audio": [1]}, "got audio"), ({}, "got nothing")):
        with pytest.raises(ValueError, match=said):
            model.encode([batch], **options)
    with pytest.raises(ValueError, match="precision: got 'int8'"):
        model.encode([{"text": ["x"]}], **options, precision="int8")


def test_what_mteb_knows_about_a_model(folder: Path) -> None:
    meta = mmtrain.mteb.model(folder, training_datasets={"MSMARCO"}, license="mit").mteb_model_meta
    assert meta.name == "local/tiny" and len(meta.revision) == 16 and meta.license == "mit"
    assert meta.languages == ["eng-Latn", "lav-Latn", "ara-Arab"] and meta.modalities == ["image", "text"]
    assert meta.embed_dim == 24 and meta.max_tokens == 128 and meta.use_instructions is True
    assert meta.n_parameters == sum(each.numel() for each in encoder().model.parameters())
    assert meta.n_embedding_parameters == 259 * 64 and meta.training_datasets == {"MSMARCO"}
    shorter = mmtrain.mteb.model(folder, dim=8).mteb_model_meta
    assert shorter.embed_dim == 8 and shorter.experiment_name != meta.experiment_name
    assert "name='local/tiny'" in meta.to_python()
    assert ModelMeta.model_validate_json_resolved(json.dumps(meta.to_dict(), default=str)).name == meta.name


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": "noslash"}, "name is 'noslash'"),
        ({"license": "a licence of my own"}, "license"),
        ({"colour": "red"}, "colour is 'red'"),
        ({"languages": ["en"]}, "languages"),
        ({"dim": 25}, "dim: got 25"),
        ({"dim": 0}, "dim: got 0"),
    ],
)
def test_what_cannot_be_is_one_line(options: dict, said: str, folder: Path) -> None:
    with pytest.raises(ValueError, match=said) as error:
        mmtrain.mteb.model(folder, **options)
    assert "\n" not in str(error.value)


def test_without_mteb_there_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mteb.models", None)
    with pytest.raises(ValueError, match=r"^mmtrain.mteb needs mteb.*pip install mteb$"):
        mmtrain.mteb.model(folder)


def test_asymmetric_similarity_is_refused(tmp_path: Path) -> None:
    safetensors_folder.write(encoder("asymmetric"), tmp_path)
    with pytest.raises(ValueError, match="asymmetric similarity"):
        mmtrain.mteb.model(tmp_path)


def test_a_model_of_features_is_one_of_texts(tmp_path: Path) -> None:
    network = ImageTextModel(FeatureTower(12), ByteGRU(32), dimension=8)
    safetensors_folder.write(Encoder(network, ByteTokenizer(), None, [], "cosine", "x"), tmp_path)
    meta = mmtrain.mteb.model(tmp_path).mteb_model_meta
    assert meta.modalities == ["text"] and meta.languages is None


def test_language_codes_are_those_of_iso() -> None:
    for code in ISO:
        for iso in iso_languages(code):
            check_language_code(iso)
    assert iso_languages("lv") == ["lav-Latn", "lvs-Latn"] and iso_languages("fil") == ["fil-Latn"]
    assert (
        iso_languages("zh")[0] == "zho-Hans" and iso_languages("zh_TW")[0] == iso_languages("zh-hant")[0] == "zho-Hant"
    )
    assert iso_languages("sr-Latn-RS") == ["srp-Latn"] and iso_languages("pt-BR") == ["por-Latn"]
    assert iso_languages("xyz-Latn") == ["xyz-Latn"]
    assert not any(map(iso_languages, ["", "no language", "-", "klingon", "'", "xx"]))
    assert fitting_language("zho-Hant", ["en", "zh", "zh-Hant"]) == "zh-Hant"
    assert fitting_language("cmn-Hant", ["zh"]) == "zh" and fitting_language("nno-Latn", ["no"]) is None
