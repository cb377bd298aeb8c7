"""Texts as pixels: what is drawn, where it breaks, from which side it runs, and what is counted."""

import hashlib
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

from datamodules import RenderedText
from datamodules.tokenizers.fonts import unifont_file

PAPER = 127


def rendered(font: str | list[str] = "unifont", **options) -> RenderedText:
    """The tokenizer, or a skip where the machine lacks the font."""
    try:
        return RenderedText(font=font, **options)
    except ValueError as error:
        if "not on this machine" not in str(error):
            raise
        pytest.skip(str(error))


def page(tokenizer: RenderedText, text: str) -> np.ndarray:
    rows, mask = tokenizer([text], [""])
    assert rows.dtype == torch.uint8 and mask.all()
    return rows[0].numpy()


def columns(pixels: np.ndarray) -> list[int]:
    """The columns that hold ink."""
    return np.flatnonzero((pixels < PAPER).any(0)).tolist()


def test_a_letter_of_unifont_is_its_bitmap_cut_to_its_ink() -> None:
    pixels = page(rendered(size=32), "l")
    lines = unifont_file().read_text().splitlines()
    digits = next(line for line in lines if line.startswith("006C:")).partition(":")[2]
    bitmap = np.unpackbits(np.frombuffer(bytes.fromhex(digits), np.uint8)).reshape(16, 8)
    inked = np.flatnonzero(bitmap.any(0))
    letter = bitmap[:, inked[0] - 1 : inked[-1] + 1]  # one blank column, on the left only
    assert pixels.shape == (16, 32)
    assert np.array_equal(pixels[:, : letter.shape[1]], PAPER * (1 - letter))
    assert (pixels[:, letter.shape[1] :] == PAPER).all()


def test_letters_stand_side_by_side_and_are_four_wide_at_least() -> None:
    tokenizer = rendered(size=64)
    one, two, dotted = (columns(page(tokenizer, text)) for text in ("m", "mm", ".m"))
    width = one[-1] + 1
    assert two == one + [width + column for column in one]
    dot = columns(page(tokenizer, "."))
    assert dot[-1] < 4 and dotted == dot + [4 + column for column in one]
    blank = columns(page(tokenizer, "m m"))
    assert blank[len(one)] == width + 4 + one[0]


def test_a_line_breaks_where_clippos_does() -> None:
    """A letter's line is its end divided by the page's width less the widest letter's, rounded down."""
    tokenizer = rendered(size=64)
    width = columns(page(tokenizer, "m"))[-1] + 1
    ends = width * np.arange(1, 12)
    lines = ends // (64 - width)
    pixels = page(tokenizer, "m" * 11)
    assert len(pixels) == 16 * (lines[-1] + 1)
    for line in range(lines[-1] + 1):
        assert columns(pixels[16 * line : 16 * line + 16])[-1] + 1 == width * (lines == line).sum()


def test_text_is_lower_case_nfc_and_has_single_blanks() -> None:
    tokenizer = rendered(size=96)
    assert np.array_equal(page(tokenizer, " E\u0301tait\n\tLA "), page(tokenizer, "\u00e9tait la"))
    assert not np.array_equal(page(rendered(size=96, lowercase=False), "LA"), page(tokenizer, "la"))


@pytest.mark.parametrize("font", ["unifont", "DejaVu Sans"])
def test_rows_used_are_the_mask_and_what_has_no_room_is_counted(font: str) -> None:
    tokenizer = rendered(font, size=128)
    rows, mask = tokenizer(["", "one", "several words on some lines", "and " * 200], [""] * 4)
    heights = mask.sum(1).tolist()
    assert heights[0] == heights[1] < heights[2] < heights[3] <= rows.shape[1] <= 128
    assert (rows.numpy()[~mask.numpy()] == PAPER).all() and tokenizer.cut == 1
    alone, _ = tokenizer(["one"], [""])
    assert torch.equal(alone[0], rows[1, : heights[1]])
    tokenizer(["and " * 200], [""])
    assert tokenizer.cut == 2
    empty, none = tokenizer([], [])
    assert empty.shape == (0, 0, 128) and none.shape == (0, 0)


@pytest.mark.parametrize("font", ["unifont", "DejaVu Sans"])
def test_any_text_is_drawn(font: str) -> None:
    """Halves of surrogate pairs, other planes, control characters, marks alone, joiners, nobody's code points."""
    tokenizer = rendered(font, size=64)
    for text in ("\ud800", "\U0001f600", "\x00\x1b", "\u0301", "\u200d\u200d", "\U0010ffff", "\u202eabc", "a" * 5000):
        rows, mask = tokenizer([text], [""])
        assert mask.all() and rows.shape[2] == 64


def test_a_shaped_line_is_pillows() -> None:
    tokenizer = rendered("DejaVu Sans", size=128, lowercase=False)
    font = ImageFont.truetype("DejaVuSans", 16, layout_engine=ImageFont.Layout.RAQM)
    for text, direction in (("office", "ltr"), ("\u0645\u0631\u062d\u0628\u0627", "rtl")):
        canvas = Image.new("L", (128, sum(font.getmetrics())), 0)
        place = 0 if direction == "ltr" else 128 - round(font.getlength(text, direction=direction))
        ImageDraw.Draw(canvas).text((place, font.getmetrics()[0]), text, 255, font, "ls", direction=direction)
        assert np.array_equal(page(tokenizer, text) < PAPER, np.asarray(canvas) > 2)  # two levels of grey are one


def test_arabic_is_joined_and_runs_from_the_right() -> None:
    tokenizer = rendered("DejaVu Sans", size=128)
    joined, apart = page(tokenizer, "\u0628\u0628\u0628"), page(tokenizer, "\u0628 \u0628 \u0628")
    assert columns(joined)[-1] > 120 and columns(page(tokenizer, "bbb"))[0] < 8
    runs = [int((np.diff(columns(pixels)) > 1).sum()) + 1 for pixels in (joined, apart)]
    assert runs == [1, 3]


def test_numbers_and_latin_within_arabic_run_from_the_left() -> None:
    """A first, then the number to its left, whose digits keep their order; the first letter decides for the text."""
    tokenizer = rendered("DejaVu Sans", size=128)
    arabic, number = "\u0628\u0628", "17"
    whole, alone = page(tokenizer, f"{arabic} {number}"), page(tokenizer, number)
    digits = alone[:, : columns(alone)[-1] + 1][:, columns(alone)[0] :]
    left = columns(whole)[0]
    assert np.array_equal(whole[:, left : left + digits.shape[1]], digits)
    latin = page(tokenizer, f"m {arabic} {number} m")
    m = columns(page(tokenizer, "m"))
    assert columns(latin)[: len(m)] == m  # from the left, for it begins so
    start = np.flatnonzero(np.diff(columns(latin)) > 3)
    first = columns(latin)[start[0] + 1]
    assert np.array_equal(latin[:, first : first + digits.shape[1]], digits)  # the number left of what it follows


def test_devanagari_is_shaped() -> None:
    """The vowel sign i is written behind its consonant and drawn before it; three letters make one sign."""
    tokenizer = rendered(["DejaVu Sans", "Noto Sans Devanagari"], size=128)
    ka = columns(page(tokenizer, "\u0915"))
    ki = page(tokenizer, "\u0915\u093f")
    assert columns(ki)[-1] > ka[-1] and not np.array_equal(ki[:, : ka[-1]], page(tokenizer, "\u0915")[:, : ka[-1]])
    kssa = columns(page(tokenizer, "\u0915\u094d\u0937"))
    assert kssa[-1] < ka[-1] + columns(page(tokenizer, "\u0937"))[-1]


def test_a_character_is_drawn_in_the_first_font_that_has_it() -> None:
    both = rendered(["Noto Sans Thai", "DejaVu Sans"], size=128)
    thai, latin = rendered("Noto Sans Thai", size=128), rendered("DejaVu Sans", size=128)
    for text, font in (("\u0e01\u0e33", thai), ("dog", latin)):
        wanted = page(font, text)
        top = both._pages.ascent - font._pages.ascent
        assert np.array_equal(page(both, text)[top : top + len(wanted)], wanted)
    assert not np.array_equal(page(thai, "dog")[:20], page(latin, "dog")[:20])


def test_words_stay_whole_where_they_fit_and_characters_break_where_no_blanks_are() -> None:
    tokenizer = rendered("DejaVu Sans", size=96)
    height = len(page(tokenizer, "word"))
    pixels = page(tokenizer, "several several several")
    assert len(pixels) == 3 * height
    assert np.array_equal(pixels[:height], pixels[height : 2 * height])
    long = page(tokenizer, "m" * 12)
    assert len(long) > height and columns(long[:height])[-1] > 70


def test_the_same_pixels_in_another_process() -> None:
    tokenizer = rendered(size=64)
    code = "import hashlib, datamodules; rows, _ = datamodules.RenderedText(size=64)(['ein Fu\u00df, \u732b'], ['']);"
    code += "print(hashlib.sha256(rows.numpy().tobytes()).hexdigest())"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    rows, _ = tokenizer(["ein Fu\u00df, \u732b"], [""])
    assert printed == [hashlib.sha256(rows.numpy().tobytes()).hexdigest()]


@pytest.mark.parametrize("font", ["unifont", "DejaVu Sans"])
def test_it_is_made_again_from_its_options_and_pickled(font: str, tmp_path: Path) -> None:
    tokenizer = rendered(font, size=64)
    again = RenderedText(64, tokenizer.font, tokenizer.font_size, tokenizer.lowercase, tokenizer.digest)
    for other in (again, pickle.loads(pickle.dumps(tokenizer))):
        assert torch.equal(other(["some text"], [""])[0], tokenizer(["some text"], [""])[0])
    tokenizer.save(tmp_path)
    assert tokenizer.digest in (tmp_path / "rendered.json").read_text()


def test_another_version_of_the_font_is_said() -> None:
    tokenizer = rendered(size=64)
    with pytest.warns(UserWarning, match=r"tokenizer.font: unifont here is not of the version with digest 0123"):
        other = RenderedText(64, digest="0123")
    assert other.digest == "0123" != tokenizer.digest


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"font": "Noto Sans Nowhere"}, "'Noto Sans Nowhere' is not on this machine; apt-get install fonts-noto-core"),
        ({"font": "Nobodys Hand"}, "is not on this machine; put its file into ~/.local/share/fonts"),
        ({"font": "/etc/passwd"}, "got '/etc/passwd', expected a font's name, as Noto Sans Thai"),
        ({"font": ["unifont", "DejaVu Sans"]}, "expected unifont alone, of 16, or other fonts"),
        ({"font": []}, "expected unifont alone, of 16, or other fonts"),
        ({"font_size": 12}, "expected unifont alone, of 16, or other fonts"),
        ({"size": 16}, "tokenizer.size: got 16 for letters of 16; at least 32"),
    ],
)
def test_what_cannot_be_drawn_with_is_one_line(options: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says) as error:
        RenderedText(**options)
    assert "\n" not in str(error.value)


def test_a_machine_without_unifont_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Path, "is_file", lambda self: False)
    with pytest.raises(ValueError, match="'unifont' is not on this machine; apt-get install unifont"):
        RenderedText()


def test_texts_that_were_cut_are_in_the_account(listed_shards, data) -> None:
    tokenizer = rendered(size=32)
    captions = [{"en": ["many words " * 20 if i % 2 else "a"]} for i in range(8)]
    module = data(train=listed_shards(8, 8, captions), tokenizer=tokenizer)
    for batch in module.train_dataloader():
        module.trained(batch)
    assert module.account.summary()["texts_cut"] == 4
    again = data(train=listed_shards(8, 8, captions, "again"), tokenizer=tokenizer).account
    again.load_state_dict(module.account.state_dict())
    assert again.summary()["texts_cut"] == 4
