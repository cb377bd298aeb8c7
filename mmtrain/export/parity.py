"""What an export is tried with: real pictures, and captions of many languages and scripts."""

import io
from collections.abc import Callable

import numpy as np
from PIL import Image

from datamodules.numbers.corpus import picture, png, words
from mmtrain.models.encoder import Encoder
from mmtrain.towers import ImageTower, WordGRU

TOLERANCE = 1e-4

LANGUAGES: tuple[str, ...] = ("en", "lv", "de", "fr", "es", "ru", "ar", "he", "ja", "ko", "tr", "fi")
# nothing, blanks, joined emoji, right to left, no spaces, top to bottom, combining marks, beyond every limit
ODD = ("", " ", "🙂🏽‍🚀", "العربية ١٢٣", "漢字かな交じり文", "ᠮᠣᠩᠭᠣᠯ", "e\u0301a\u0308", "word " * 500)


def largest_difference(before: Encoder, after: Encoder, cleaned: Callable[[Encoder, str], str] | None = None) -> float:
    """Of one coordinate of the unit rows, over all pictures and captions; NaN where one of them gives NaN.

    Args:
        cleaned: What the other library does to a caption before its tokenizer; captions that it changes are compared
            as changed, and their number is printed.
    """
    inputs = pictures(before)
    differences = [before.encode_image(inputs) - after.encode_image(inputs)]
    changed = total = 0
    for language, texts in captions(before).items():
        ours = texts if cleaned is None else [cleaned(before, text) for text in texts]
        changed, total = changed + sum(a != b for a, b in zip(texts, ours, strict=True)), total + len(texts)
        differences.append(before.encode_text(ours, language) - after.encode_text(texts, language))
    if changed:
        print(
            f"{changed} of {total} captions are cleaned by the library (Unicode repaired, blanks joined): compared so"
        )
    return float(np.max([np.abs(difference).max() for difference in differences]))


def pictures(encoder: Encoder) -> list[Image.Image] | np.ndarray:
    """100 pictures: the two photographs that scikit-learn carries, whole and in parts, and handwritten numbers; drawn
    vectors [100, F] for a model of precomputed features."""
    if encoder.images is None:
        tower = encoder.model.get_submodule("image")
        assert isinstance(tower, ImageTower)
        return np.random.default_rng(0).standard_normal((100, tower.width)).astype(np.float32)
    from sklearn.datasets import load_sample_images

    photographs = [Image.fromarray(image) for image in load_sample_images().images]
    parts = [photo.crop((x, y, x + 200, y + 160)) for photo in photographs for x in (0, 300) for y in (0, 220)]
    numbers = [Image.open(io.BytesIO(png(picture(str(number), "test", [number])))) for number in range(90)]
    return [*photographs, *parts, *numbers]


def captions(encoder: Encoder) -> dict[str, list[str]]:
    """Over 100 captions by language: number words in twelve, and odd ones; only in the model's own where it needs to
    know the language."""
    languages = LANGUAGES
    if isinstance(getattr(encoder.model, "text", None), WordGRU):
        languages = tuple(language for language in LANGUAGES if language in encoder.languages)
    found = {language: [words(language)[number] for number in range(3, 1000, 112)] for language in languages}
    own = encoder.languages[0] if encoder.languages else "und"
    return found | {own: [*found.get(own, []), *ODD]}
