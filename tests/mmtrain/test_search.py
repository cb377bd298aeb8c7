"""Search in an index as a user meets it: the terminal, JSON, a page with pictures, and one line when it cannot be."""

import base64
import html
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import mmtrain
from datamodules import WordTokenizer
from mmtrain.cli import main
from mmtrain.display.html import direction
from mmtrain.display.thumbnails import thumbnail
from mmtrain.models.encoder import Encoder
from mmtrain.models.image_text import ImageTextModel
from mmtrain.search.items import Item
from mmtrain.search.queries import query_row
from mmtrain.search.results import Query, Result, write_results
from mmtrain.towers.image import FeatureTower
from mmtrain.towers.text import ByteGRU, WordGRU
from tests.chromium import CHROMIUM, looked_at, opened
from tests.mmtrain.evaluation.conftest import WORDS
from tests.mmtrain.indexes import model
from tests.mmtrain.small import fit

__all__ = ["model"]


@pytest.fixture(scope="module")
def index(model: Path, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("index") / "colours"
    assert main(["index", str(model), "--data", str(shards), "--out", str(out), "--workers", "0"]) == 0
    return out


def test_a_text_finds_what_the_model_puts_first(index: Path, model: Path, shards: Path, capsys) -> None:
    assert main(["search", str(index), "sarkans", "--language", "lv", "-k", "4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["query"] == {"text": "sarkans", "language": "lv"}
    encoder = mmtrain.load(model)
    pictures = [encoder.images.open((shards.parent / f"{number}.png").read_bytes()) for number in range(32)]
    scores = (encoder.encode_text(["sarkans"], language="lv") @ encoder.encode_image(pictures).T)[0]
    best = np.argsort(-scores)[:4]
    assert [result["id"] for result in found["results"]] == [f"c{number}" for number in best]
    np.testing.assert_allclose([result["score"] for result in found["results"]], scores[best], atol=1e-5)
    assert [result["rank"] for result in found["results"]] == [1, 2, 3, 4]
    assert set(found["results"][0]["captions"]) >= {"en", "lv"}


def test_a_picture_finds_itself(index: Path, shards: Path, tmp_path: Path, capsys) -> None:
    page = tmp_path / "found.html"
    arguments = ["--image", str(shards.parent / "7.png"), "-k", "3", "--html", str(page)]
    assert main(["search", str(index), *arguments]) == 0
    said = capsys.readouterr().out
    assert re.search(r"1\.000 \S c7 ", said) and "رمادي" in said and str(page) in said.replace("\n", "")
    assert page.read_text().count("<img ") == 4  # the picture that asked, too


def test_a_text_and_a_picture_ask_together(index: Path, model: Path, shards: Path, capsys) -> None:
    file = shards.parent / "7.png"
    assert main(["search", str(index), "red", "--language", "en", "--image", str(file), "-k", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["query"] == {"text": "red", "language": "en", "image": str(file)}
    encoder = mmtrain.load(model)
    row = encoder.encode_query("red", [encoder.images.open(file.read_bytes())], language="en")
    pictures = [encoder.images.open((shards.parent / f"{number}.png").read_bytes()) for number in range(32)]
    scores = encoder.encode_image(pictures) @ row
    assert [result["id"] for result in found["results"]] == [f"c{number}" for number in np.argsort(-scores)[:3]]


def test_several_pictures_ask_together(index: Path, model: Path, shards: Path, tmp_path: Path, capsys) -> None:
    page, files = tmp_path / "found.html", [shards.parent / "7.png", tmp_path / "a, b.png"]
    files[1].write_bytes((shards.parent / "8.png").read_bytes())
    arguments = [word for file in files for word in ("--image", str(file))]
    assert main(["search", str(index), *arguments, "-k", "3", "--json", "--html", str(page)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["query"] == {"image": [str(file) for file in files]}
    encoder = mmtrain.load(model)
    row = encoder.encode_query(images=[encoder.images.open(file.read_bytes()) for file in files])
    pictures = [encoder.images.open((shards.parent / f"{number}.png").read_bytes()) for number in range(32)]
    scores = encoder.encode_image(pictures) @ row
    assert [result["id"] for result in found["results"]] == [f"c{number}" for number in np.argsort(-scores)[:3]]
    assert page.read_text().count("<img ") == 5


def test_a_picture_taken_upright_is_shown_upright(index: Path, tmp_path: Path) -> None:
    picture = Image.new("RGB", (60, 30), "red")
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(tmp_path / "sideways.jpg", exif=exif)
    page = tmp_path / "found.html"
    assert main(["search", str(index), "--image", str(tmp_path / "sideways.jpg"), "-k", "1", "--html", str(page)]) == 0
    shown = re.search(r'src="data:image/webp;base64,([^"]+)" alt="the query picture"', page.read_text())
    assert shown and Image.open(io.BytesIO(base64.b64decode(shown[1]))).size == (30, 60)


def test_more_results_than_pictures_are_all_of_them(index: Path, capsys) -> None:
    assert main(["search", str(index), "red", "-k", "1000", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["results"]) == 32


def test_a_model_is_known_by_its_weights_wherever_it_lies(
    index: Path, model: Path, shards: Path, tmp_path: Path, capfd
) -> None:
    moved = shutil.copytree(index, tmp_path / "index")
    description = json.loads((moved / "index.json").read_text())
    description["model"] = str(tmp_path / "gone")
    (moved / "index.json").write_text(json.dumps(description))
    assert main(["search", str(moved), "red"]) == 1
    assert "--model where it is now" in capfd.readouterr().err
    assert main(["search", str(moved), "red", "--model", str(model)]) == 0
    assert main(["search", str(moved), "red", "--model", str(model.parent / "run")]) == 0
    assert fit(shards, tmp_path / "other", "--trainer.max_steps=1", "--seed_everything=5") == 0
    capfd.readouterr()
    assert main(["search", str(index), "red", "--model", str(tmp_path / "other")]) == 1
    errors = [line for line in capfd.readouterr().err.splitlines() if "error:" in line]
    assert len(errors) == 1 and "built by other weights" in errors[0] and description["fingerprint"] in errors[0]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["INDEX"], 2, "give a text, as in"),
        (["INDEX", "red", "--image", "x.png"], 1, "--image: x.png cannot be read"),
        (["INDEX", "red", "--features", "[audio=x.npy]"], 1, "--features: x.npy cannot be read"),
        (["INDEX", "  "], 1, "text: got ' ', expected words"),
        (["INDEX", "red", "-k", "0"], 2, "-k: got 0, expected a whole number from 1"),
        (["EMPTY", "red"], 1, "holds no index"),
        (
            ["INDEX", "--image", "EMPTY/none.png"],
            1,
            "none.png cannot be read (No such file or directory); a picture's file",
        ),
        (["INDEX", "--image", "EMPTY/text.png"], 1, "text.png is no picture that can be read; JPEG"),
    ],
)
def test_bad_usage_and_bad_input_get_one_line(arguments, code, says, index: Path, tmp_path: Path, capfd) -> None:
    (tmp_path / "text.png").write_text("no picture")
    arguments = [each.replace("INDEX", str(index)).replace("EMPTY", str(tmp_path)) for each in arguments]
    assert main(["search", *arguments]) == code
    errors = [line for line in capfd.readouterr().err.splitlines() if "error:" in line]
    assert len(errors) == 1 and says in errors[0], errors


def test_a_language_the_model_was_not_trained_on_is_said(model: Path, capsys) -> None:
    row = query_row(mmtrain.load(model), Query("rosso", "it"))
    assert row.shape == (1, 16) and "not trained on it; it was on ar, en, lv" in capsys.readouterr().err
    query_row(mmtrain.load(model), Query("rosso"))
    assert not capsys.readouterr().err


def encoder_of_words(tmp_path: Path, tower, shared: bool = False) -> Encoder:
    words = {"*": ["red", "sarkans"]} if shared else {"en": ["red"], "lv": ["sarkans"]}
    (tmp_path / "words.json").write_text(json.dumps({"words": words}))
    tokenizer = WordTokenizer(str(tmp_path / "words.json"))
    torch.manual_seed(0)
    network = ImageTextModel(FeatureTower(6), tower(tokenizer.vocabulary_size), dimension=4)
    return Encoder(network, tokenizer, None, ["en", "lv"], "asymmetric", "test")


def test_models_that_read_each_language_by_itself_ask_for_it(tmp_path: Path) -> None:
    encoder = encoder_of_words(tmp_path, lambda size: WordGRU(2, size, width=8, embedding=4))
    assert query_row(encoder, Query("red", "en")).shape == (1, 4)
    with pytest.raises(ValueError, match="--language: the model needs one; it reads each language by itself, en, lv"):
        query_row(encoder, Query("red"))
    with pytest.raises(ValueError, match="--language: got it; "):
        query_row(encoder, Query("rosso", "it"))
    with pytest.raises(ValueError, match="the model's tokenizer knows nothing of 'rosso' in lv"):
        query_row(encoder, Query("rosso", "lv"))


def test_a_shared_vocabulary_needs_no_language_but_known_words(tmp_path: Path) -> None:
    encoder = encoder_of_words(tmp_path, lambda size: ByteGRU(8, vocabulary_size=size), shared=True)
    assert query_row(encoder, Query("rosso sarkans")).shape == (1, 4)
    with pytest.raises(ValueError, match="knows nothing of 'rosso'"):
        query_row(encoder, Query("rosso"))


def test_features_ask_as_a_numpy_file(tmp_path: Path) -> None:
    encoder = encoder_of_words(tmp_path, lambda size: ByteGRU(8, vocabulary_size=size))
    np.save(tmp_path / "picture.npy", np.ones(6, np.float32))
    row = query_row(encoder, Query(images=(tmp_path / "picture.npy",)))
    np.testing.assert_allclose(np.linalg.norm(row), 1, atol=1e-6)
    np.save(tmp_path / "other.npy", np.ones(7, np.float32))
    with pytest.raises(ValueError, match="other.npy is no .npy of features that the model reads"):
        query_row(encoder, Query(images=(tmp_path / "other.npy",)))


# -- the page


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """Five results, each with a caption in Latin, right-to-left and combining scripts, some of them hidden at first."""
    results = [
        Result(
            1 - number / 10,
            Item(
                number,
                f"id-{number} & more",
                {language: [f"{text} {number}"] for language, text in WORDS.items()} | {"en": ["two <b>", "captions"]},
                thumbnail(torch.full((3, 64, 48), 40 * number, dtype=torch.uint8), ""),
            ),
        )
        for number in range(5)
    ]
    description = {"images": 4321, "similarity": "cosine", "kind": "hnsw", "candidates": 50, "recall": {}}
    description["model"] = "/home/me/runs/m"
    write_results(tmp_path / "page.html", Query("عدد <script>", "ar"), results, description, first=["ar", "bo"])
    return tmp_path / "page.html"


def test_captions_carry_language_and_direction_and_are_escaped(page: Path) -> None:
    content = page.read_text()
    captions = re.findall(r'<bdi dir="(\w+)" lang="(\w+)">([^<]*)</bdi>', content)
    (asked, *shown) = [(side, language, html.unescape(text)) for side, language, text in captions]
    assert asked == ("rtl", "ar", "عدد <script>")
    assert {language for _, language, _ in shown} == set(WORDS)
    assert {side for side, language, _ in shown if language in ("ar", "fa", "he")} == {"rtl"}
    assert {side for side, language, _ in shown if language in ("en", "hi", "my", "bo")} == {"auto"}
    assert [language for _, language, _ in shown[:2]] == ["ar", "bo"]  # asked for first
    assert len(shown) == 5 * (len(WORDS) + 1) and (f"{WORDS['my']} 4") in {text for _, _, text in shown}
    assert "<script" not in content and "two &lt;b&gt;" in content and "id-0 &amp; more" in content
    assert "hnsw index, 50 candidates scored in full" in content and "4,321 pictures" in content
    assert "Model: m<" in content and "/home" not in content


def test_nothing_in_the_page_can_leave_it(page: Path) -> None:
    content = page.read_text()
    sources = re.findall(r'(?:src|href)="([^"]*)"', content)
    assert len(sources) == 6 and all(source.startswith("data:") for source in sources)
    assert "url(" not in content and "@import" not in content


def test_the_direction_of_a_language() -> None:
    assert [direction(code) for code in ("ar", "fa-IR", "he", "ur", "en", "bo", None)] == ["rtl"] * 4 + ["auto"] * 3
    assert direction("pa-Arab") == direction("ku_Arab_IQ") == "rtl" and direction("az-Latn") == "ltr"


TALLER = """<script>
addEventListener("load", () => {
  document.querySelectorAll("details").forEach(each => each.open = true);
  const captions = [...document.querySelectorAll(".captions bdi")];
  const cut = captions.filter(each => each.scrollWidth > each.clientWidth + 1 || each.clientHeight < 20);
  const right = captions.filter(each => getComputedStyle(each).direction == "rtl");
  console.log("CAPTIONS" + JSON.stringify({all: captions.length, cut: cut.length, rtl: right.length}) + "CAPTIONS");
});
</script>"""


@pytest.mark.system
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: the page is not opened in a browser")
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_the_page_without_a_request_or_an_error(page: Path, tmp_path: Path, width: int) -> None:
    assert opened(page, tmp_path) == ([], [])
    seen, text = looked_at(page.read_text(), tmp_path, width, TALLER)
    assert seen == {"pictures": 5, "shown": 5}
    assert json.loads(text.split("CAPTIONS")[1]) == {"all": 40, "cut": 0, "rtl": 15}
