"""`mmtrain inspect SHARDS --html FILE`: what is in shards, to look at."""

import base64
import io
import json
import tarfile
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmtrain.cli import main
from mmtrain.commands.inspect import inspect
from tests.chromium import CHROMIUM, looked_at

MARKUP = "<script>alert(1)</script>"


def picture(kind: str, pixels: np.ndarray, **options) -> bytes:
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, kind, **options)
    return encoded.getvalue()


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """Captions right to left and with markup, a turned picture, a transparent one, features, and a broken one."""
    turned = Image.Exif()
    turned[0x0112] = 6
    features = io.BytesIO()
    np.save(features, np.ones(4, np.float32))
    grey = np.full((20, 40, 3), 99, np.uint8)
    files = {
        "0.jpg": picture("JPEG", np.full((400, 800, 3), 99, np.uint8), exif=turned),
        "0.json": {
            "id": "turned",
            "captions": {"en": MARKUP, "ar": "نص & 'x'"},
            "labels": {"m": 3},
        },
        "1.png": picture("PNG", np.zeros((9, 9, 4), np.uint8)),
        "1.json": {"id": '"><q>', "captions": {f"l{n}": f"text {n}" for n in range(6)}},
        "2.npy": features.getvalue(),
        "2.json": {"id": "f", "captions": {"en": ["one", "two"]}},
        "3.png": picture("PNG", grey)[:-30],
        "3.json": {"id": "cut", "captions": {"en": "lost"}},
    }
    path = tmp_path / "<i>.tar"
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            content = content if isinstance(content, bytes) else json.dumps(content).encode()
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


class Page(HTMLParser):
    """Elements with their attributes, and the text in each `bdi`."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.captions: list[tuple[str, str, str]] = []  # language, direction, text
        self.inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.elements.append((tag, dict(attributes)))
        self.inside = tag == "bdi"
        if self.inside:
            self.captions.append((dict(attributes)["lang"], dict(attributes)["dir"], ""))

    def handle_endtag(self, tag: str) -> None:
        self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            language, direction, text = self.captions.pop()
            self.captions.append((language, direction, text + data))


def test_every_caption_is_shown_as_it_is(shard: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["inspect", str(shard), "--html", str(tmp_path / "new" / "sheet.html")]) == 0
    assert "picture sheet" in capsys.readouterr().out
    text = (tmp_path / "new" / "sheet.html").read_text(encoding="utf-8")
    page = Page(text)
    expected = {("en", MARKUP), ("ar", "نص & 'x'"), ("en", "one"), ("en", "two")}
    expected |= {(f"l{n}", f"text {n}") for n in range(6)}
    assert {(language, caption) for language, _, caption in page.captions} == expected
    assert {language for language, direction, _ in page.captions if direction == "rtl"} == {"ar"}
    assert "script" not in {tag for tag, _ in page.elements} and "<i>" not in text and '"><q>' not in text
    assert ("td", {"class": "cause"}) in page.elements and "broken image" in text
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["sheet.html"]


def test_pictures_are_in_the_page_and_as_training_sees_them(shard: Path, tmp_path: Path) -> None:
    inspect(str(shard), html=str(tmp_path / "sheet.html"))
    text = (tmp_path / "sheet.html").read_text(encoding="utf-8")
    links = [attributes.get("src") or attributes.get("href") for _, attributes in Page(text).elements]
    assert all(link.startswith(("data:", "#")) for link in links if link) and "url(" not in text
    images = {a["alt"]: a["src"] for tag, a in Page(text).elements if tag == "img"}
    assert set(images) == {"turned", '"><q>'}
    opened = {
        name: Image.open(io.BytesIO(base64.b64decode(source.split(",", 1)[1]))).convert("RGB")
        for name, source in images.items()
    }
    assert opened["turned"].size == (160, 320)  # 800 x 400 turned by a quarter, the longer side 320
    assert min(opened['"><q>'].getpixel((4, 4))) > 250  # what is transparent lies on white
    assert "800 x 400 JPEG" in text and "features, " in text


@pytest.mark.system
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: the page is not opened in a browser")
def test_a_phone_shows_the_sheet(shard: Path, tmp_path: Path) -> None:
    inspect(str(shard), html=str(tmp_path / "sheet.html"))
    seen, _ = looked_at((tmp_path / "sheet.html").read_text(encoding="utf-8"), tmp_path, 390)
    assert seen == {"pictures": 2, "shown": 2}


def test_groups_by_language_show_that_languages_captions(shard: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.html"
    assert main(["inspect", str(shard), "--html", str(sheet), "--group_by", "language"]) == 0
    page = Page(sheet.read_text(encoding="utf-8"))
    titles = [attributes["id"] for tag, attributes in page.elements if tag == "h2" and "id" in attributes]
    assert titles[0] == "en" and set(titles) == {"en", "ar", *(f"l{n}" for n in range(6))}
    assert {attributes["href"] for tag, attributes in page.elements if tag == "a"} == {f"#{name}" for name in titles}
    assert sorted(caption for language, _, caption in page.captions if language == "en") == [
        MARKUP,
        "one",
        "two",
    ]


@pytest.mark.parametrize("where", ["{}", "{}/shard.tar/sheet.html", "/proc/none/sheet.html"])
def test_a_place_that_cannot_be_written_is_one_line(
    shard: Path, tmp_path: Path, where: str, capsys: pytest.CaptureFixture
) -> None:
    shard = shard.rename(tmp_path / "shard.tar")
    assert main(["inspect", str(shard), "--html", where.format(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("mmtrain inspect: error: --html: ") and error.count("\n") == 1


def test_a_model_has_no_sheet(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["inspect", str(tmp_path / "last.ckpt"), "--html", str(tmp_path / "sheet.html")]) == 1
    assert "last.ckpt is a model and has no pictures" in capsys.readouterr().err
