"""Texts and pictures as pages, and the questions that ask for them."""

import io
import json

import numpy as np
import pytest
from PIL import Image
from tiny_shards import png_bytes

from datamodules.packing import pack_rows
from datamodules.packing.documents import read_documents
from datamodules.packing.fonts import NoFont, font_file, font_for, runs
from datamodules.packing.pages import PageLayout, words
from datamodules.packing.questions import caption_questions
from datamodules.reading.whole import WholeSamples
from mmtrain.cli import main

LONG = " ".join(f"word{n}" for n in range(60))


def manifest(folder, rows):
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "one.png").write_bytes(png_bytes(1, (60, 40)))
    return folder / "rows.jsonl"


def samples_of(shards):
    whole = WholeSamples.named(str(shards))
    return [whole[row].sample for row in range(len(whole))]


def packed(folder, rows, out="pages", workers=1, layout=None, **options):
    listing = pack_rows(
        read_documents(manifest(folder, rows), **options),
        folder / out,
        images=folder,
        workers=workers,
        samples_per_shard=2,
        pages=layout or PageLayout(),
    )
    return listing, samples_of(folder / out)


def ink(image):
    """The box of what is not white: left, top, right, bottom."""
    return Image.fromarray(255 - np.asarray(image.convert("L"))).getbbox()


def test_a_page_is_a_sample_with_its_text_document_and_pool(tmp_path):
    rows = [
        {"id": "a", "story": "s1", "image": "one.png", "captions": {"en": "A cat.", "lv": "Kaķis."}, "image_id": "x"},
        {"id": "b", "story": "s1", "captions": {"en": ["One.", "Two."], "lv": "Divi."}},
    ]
    _, (first, second) = packed(tmp_path, rows, language="en", document="story")
    expected = {"id": "a", "story": "s1", "document": "s1", "pool": "s1", "language": "en", "text": "A cat."}
    assert first.record == expected | {"row": "a", "page": 0, "captions": {"en": "A cat.", "lv": "Kaķis."}}
    assert second.record["text"] == "One.\nTwo."
    page = Image.open(io.BytesIO(first.image))
    assert page.size == (448, 448)
    left, top, right, bottom = ink(page)
    assert left >= 24 and top >= 24 and right <= 424 and bottom <= 424
    assert np.asarray(page).std(axis=2).max() > 20  # the picture has colours, text none
    assert np.asarray(Image.open(io.BytesIO(second.image))).std(axis=2).max() == 0


def test_what_does_not_fit_goes_to_the_next_page(tmp_path):
    layout = PageLayout(width=200, height=160, margin=10, font_size=16)
    rows = [{"id": "a", "text": LONG, "image": "one.png"}, {"id": "b", "text": "short"}]
    _, samples = packed(tmp_path, rows, layout=layout)
    assert [each.id for each in samples[:3]] == ["a", "a-2", "a-3"] and samples[-1].id == "b"
    assert " ".join(" ".join(each.record["text"].split("\n")) for each in samples[:-1]) == LONG  # nothing lost
    assert {each.record["row"] for each in samples[:-1]} == {"a"}
    for each in samples:
        assert ink(Image.open(io.BytesIO(each.image)))[3] <= 150


def test_the_same_bytes_in_any_number_of_processes(tmp_path):
    rows = [{"id": str(n), "text": f"{LONG} {n}", "image": "one.png"} for n in range(5)]
    first, _ = packed(tmp_path, rows, "first")
    second, _ = packed(tmp_path, rows, "second", workers=2)
    assert [each["checksum"] for each in first["shards"]] == [each["checksum"] for each in second["shards"]]


def test_a_text_that_runs_to_the_left_begins_at_the_right():
    ((_, latin),) = PageLayout().draw("abc")
    ((_, arabic),) = PageLayout().draw("عدد")
    assert ink(latin)[0] < 60 and ink(arabic)[2] > 448 - 60


def test_arabic_letters_are_joined():
    ((_, joined),) = PageLayout().draw("بب")
    ((_, apart),) = PageLayout().draw("ب\u200cب")
    assert ink(joined) != ink(apart)


def test_long_words_and_scripts_without_spaces_are_broken():
    layout = PageLayout(width=120, height=400, margin=10, font_size=16)
    for text in ("x" * 60, "Ж" * 60):
        ((shown, page),) = layout.draw(text)
        assert shown.replace("\n", "") == text and shown.count("\n") > 3 and ink(page)[2] <= 110
    assert list(words("ab cd")) == ["ab ", "cd"]
    assert list(words("数字。七")) == ["数", "字。", "七"]
    assert list(words("ཀ་ཁ་")) == ["ཀ་", "ཁ་"]


def test_marks_stay_with_their_letters():
    pieces = list(runs("e\u0301 б\u0301", ()))
    assert "".join(piece for _, piece in pieces) == "e\u0301 б\u0301" and len(pieces) == 1


def test_fonts_are_found_by_file_and_by_family():
    assert font_file("DejaVuSans.ttf").endswith("DejaVuSans.ttf") and font_file("No Such Font") is None
    assert font_file("DejaVu Serif").endswith(".ttf")
    assert font_for("a", ("DejaVuSerif.ttf",)).endswith("DejaVuSerif.ttf")


def test_a_row_that_no_font_can_show_is_counted_with_what_helps(tmp_path):
    rows = [{"id": "a", "text": "\U00012f90"}, {"id": "b", "text": "\U0010ffff"}, {"id": "c", "text": "fine"}]
    listing, samples = packed(tmp_path, rows)
    assert [each.id for each in samples] == ["c"]
    cypro = "no font for Cypro (Debian: fonts-noto-core)"
    assert listing["skipped"] == {cypro: 1, "no font for a symbol such as U+10FFFF (Debian: fonts-unifont)": 1}
    with pytest.raises(NoFont, match="fonts-noto-core"):
        list(PageLayout().draw("\U00012f90"))


def test_controls_and_tabs_draw_nothing(tmp_path):
    _, samples = packed(tmp_path, [{"id": "a", "text": "a\tb\x07c\u00ad"}])
    assert samples[0].record["text"] == "a bc\u00ad"


def test_paragraphs_of_a_text_file_are_rows(tmp_path):
    (tmp_path / "tale.txt").write_text("First line\nsecond.\n\n\nAnother.\n", encoding="utf-8")
    rows = list(read_documents(tmp_path / "tale.txt", language="en"))
    assert [row.record["text"] for row in rows] == ["First line\nsecond.", "Another."]
    assert [row.record["id"] for row in rows] == ["tale-0000", "tale-0001"]
    assert {(row.record["pool"], row.record["language"]) for row in rows} == {("tale", "en")}


@pytest.mark.parametrize(
    ("row", "cause"),
    [
        ({"captions": {"en": "x", "lv": "y"}}, "captions in several languages, and no --language"),
        ({"captions": {}}, "no picture and no text"),
        ({"captions": {"en": 3}}, "captions are no texts"),
        ({"captions": "x"}, "captions is no object"),
        ({"text": "x", "image": "none.png"}, "missing image"),
        ({"text": "x", "image": "rows.jsonl"}, "broken image"),
    ],
)
def test_rows_that_are_no_pages_are_counted(row, cause, tmp_path):
    listing, _ = packed(tmp_path, [{"id": "a"} | row, {"id": "b", "text": "fine"}])
    assert listing["skipped"] == {cause: 1} and listing["samples"] == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--width", "40"], "pages of 40 x 448 with margins of 24 have no room"),
        (["--picture_share", "1"], "picture_share: 1.0 is out of range"),
        (["--fonts", "[No Such Font]"], "fonts: 'No Such Font' is not there"),
        (["--language", "fr"], "no sample could be packed (no captions in fr)"),
    ],
)
def test_bad_options_are_one_line(options, says, tmp_path, capfd):
    source = manifest(tmp_path, [{"id": "a", "captions": {"en": "x"}}])
    assert main(["pack", "pages", str(source), "--out", str(tmp_path / "out"), *options]) == 1
    (error,) = [line for line in capfd.readouterr().err.splitlines() if "error:" in line]
    assert says in error


def ask(folder, rows, **options):
    _, samples = packed(folder, rows, language="en", document="story")
    questions, chance = caption_questions(samples, **options)
    return {each["id"]: each for each in questions}, chance


STORY = [
    {"id": "a", "story": "s", "captions": {"en": "The end.", "lv": "Beigas.", "ru": ["Конец.", "Финал."]}},
    {"id": "b", "story": "s", "captions": {"en": "The end?", "lv": "Beigas.", "ru": "Что?"}},
    {"id": "c", "story": "t", "captions": {"en": "The end.", "lv": "Beigas."}},
]


def test_captions_ask_in_other_languages_for_all_pages_they_are_of(tmp_path):
    questions, chance = ask(tmp_path, STORY)
    assert sorted(questions) == ["a/lv", "a/ru", "a/ru/1", "b/ru", "c/lv"]
    assert questions["a/lv"] == {
        "id": "a/lv",
        "text": "Beigas.",
        "language": "lv",
        "relevant": {"a": 1, "b": 1},  # both pages of the story say it
        "pool": "s",
    }
    assert questions["c/lv"]["relevant"] == {"c": 1} and questions["b/ru"]["relevant"] == {"b": 1}
    assert chance == pytest.approx((1 + 0.5 + 0.5 + 0.5 + 1) / 5)


def test_of_two_samples_of_one_id_the_first_asks(tmp_path):
    _, samples = packed(tmp_path, STORY, language="en", document="story")
    questions, _ = caption_questions([*samples, *samples])
    assert questions == caption_questions(samples)[0]


def test_all_pages_of_a_row_are_right(tmp_path):
    questions, _ = ask(tmp_path, [{"id": "a", "story": "s", "captions": {"en": 30 * LONG, "lv": "Garš."}}])
    assert len(questions["a/lv"]["relevant"]) > 2


def test_a_sentence_asks_and_the_draws_are_the_seeds(tmp_path):
    rows = [
        {"id": str(n), "story": "s", "captions": {"en": "x", "lv": f"Pirmais {n}. Otrais {n}! 3"}} for n in range(9)
    ]
    first, _ = ask(tmp_path, rows, sentence=True)
    again, _ = ask(tmp_path, rows, sentence=True)
    other, _ = ask(tmp_path, rows, sentence=True, seed=1)
    assert first == again != other
    assert {each["text"].split()[0] for each in first.values()} == {"Pirmais", "Otrais"}
    some, _ = ask(tmp_path, rows, per_language=4)
    assert len(some) == 4 and some != ask(tmp_path, rows, per_language=4, seed=1)[0]


def test_equal_pictures_are_both_right(tmp_path, capsys):
    captions = [{"en": "a cat", "lv": "kaķis"}, {"en": "the cat"}, {"en": "a dog"}]
    rows = [{"id": str(n), "image": f"{n}.png", "captions": each} for n, each in enumerate(captions)]
    source = manifest(tmp_path, rows)
    for n in range(3):
        (tmp_path / f"{n}.png").write_bytes(png_bytes(n // 2))
    assert main(["pack", "jsonl", str(source), "--out", str(tmp_path / "shards")]) == 0
    assert main(["pack", "questions", str(tmp_path / "shards"), "--out", str(tmp_path / "set")]) == 0
    assert "4 questions in 2 languages, R@1 by chance 58.3 %" in capsys.readouterr().out
    lines = [json.loads(line) for line in (tmp_path / "set" / "questions.jsonl").read_text().splitlines()]
    assert [each["relevant"] for each in lines] == [{"0": 1, "1": 1}, {"0": 1, "1": 1}, {"1": 1, "0": 1}, {"2": 1}]
    assert main(["pack", "questions", str(source), "--out", str(tmp_path / "q.jsonl"), "--languages", "[lv]"]) == 0
    assert len((tmp_path / "q.jsonl").read_text().splitlines()) == 1
    assert main(["pack", "questions", str(source), "--out", str(tmp_path / "q.jsonl"), "--languages", "[fr]"]) == 1
