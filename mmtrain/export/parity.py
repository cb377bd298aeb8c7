"""The comparison of an export with its model: real images, and captions of many languages and scripts."""

import io
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, Protocol

import numpy as np
from PIL import Image

from datamodules.numbers.corpus import picture, png, words
from mmtrain.display.messages import say
from mmtrain.models.encoder import Encoder
from mmtrain.models.image_text import ImageTextModel
from mmtrain.towers import ImageTower, WordGRU

TOLERANCE = 1e-4

LANGUAGES: tuple[str, ...] = ("en", "lv", "de", "fr", "es", "ru", "ar", "he", "ja", "ko", "tr", "fi")
# nothing, blanks, joined emoji, right to left, no spaces, top to bottom, combining marks, beyond every limit
ODD = ("", " ", "🙂🏽‍🚀", "العربية ١٢٣", "漢字かな交じり文", "ᠮᠣᠩᠭᠣᠯ", "e\u0301a\u0308", "word " * 500)


class Encodes(Protocol):
    """What is compared: an Encoder, or an exported folder read by the library that it is for."""

    def encode_image(self, images: list[Image.Image] | np.ndarray, /) -> np.ndarray: ...

    def encode_text(self, captions: list[str], language: str, /) -> np.ndarray: ...


class EncodesMany(Protocol):
    """Where token rows are compared."""

    def encode_image(
        self, images: list[Image.Image] | np.ndarray, /, *, multi: Literal[True]
    ) -> Sequence[np.ndarray]: ...

    def encode_text(self, captions: list[str], language: str, /, *, multi: Literal[True]) -> Sequence[np.ndarray]: ...


def check_parity(
    before: Encoder,
    after: Any,
    cleaned: Callable[[Encoder, str], str] | None = None,
    *,
    dense: bool = True,
    multi: bool = False,
) -> float:
    """`largest_difference` of the rows, of the token rows, or of both.

    Raises:
        ValueError: where it is above TOLERANCE, or no number, or captions differ.
    """
    differences = [largest_difference(before, after, cleaned)] if dense else []
    if multi:
        tokens = [np.inf if len(a) != len(b) else np.abs(a - b).max() for a, b in _token_rows(before, after)]
        differences.append(float(np.max(tokens)))
        say(f"token rows: largest difference {differences[-1]:.1e}")
    difference = float(np.max(differences))
    if not difference <= TOLERANCE:
        raise ValueError(f"--out: the export differs from the model by {difference:.1e}; nothing was kept")
    if before.decoder is not None and isinstance(after, Encoder):
        pictures, language = images(before)[:8], before.decoder.languages[0]
        if before.caption(pictures, language) != after.caption(pictures, language):
            raise ValueError("--out: the export writes other captions than the model; nothing was kept")
    return difference


def largest_difference(before: Encoder, after: Encodes, cleaned: Callable[[Encoder, str], str] | None = None) -> float:
    """The largest difference of a coordinate of the unit rows, over all images and captions; NaN where a row has NaN.

    Args:
        cleaned: What the other library does to a caption before its tokenizer; captions that it changes are compared
            as changed, and their number is printed.
    """
    return float(np.max([np.abs(ours - theirs).max() for ours, theirs in _rows(before, after, cleaned)]))


def least_cosine(before: Encoder, after: Encodes) -> float:
    """The least cosine of a row with its own in the other, over all images and captions; NaN as above."""
    cosines = [(ours * theirs).sum(1) / np.linalg.norm(theirs, axis=1) for ours, theirs in _rows(before, after)]
    return float(np.concatenate(cosines).min())


def _rows(
    before: Encoder, after: Encodes, cleaned: Callable[[Encoder, str], str] | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Of the images and of each language's captions: rows [N, D] before and after."""
    inputs = images(before)
    if len(inputs):
        yield before.encode_image(inputs), after.encode_image(inputs)
    changed = total = 0
    for language, texts in captions(before).items():
        ours = texts if cleaned is None else [cleaned(before, text) for text in texts]
        changed, total = changed + sum(a != b for a, b in zip(texts, ours, strict=True)), total + len(texts)
        yield before.encode_text(ours, language), after.encode_text(texts, language)
    if changed:
        reason = "Unicode repaired, blanks joined"
        say(f"{changed} of {total} captions are cleaned by the library ({reason}): compared so")


def _token_rows(before: Encoder, after: EncodesMany) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Of each image and caption: token rows [L, d] before and after."""
    inputs = images(before)
    if len(inputs):
        yield from zip(before.encode_image(inputs, multi=True), after.encode_image(inputs, multi=True), strict=True)
    for language, texts in captions(before).items():
        ours, theirs = before.encode_text(texts, language, multi=True), after.encode_text(texts, language, multi=True)
        yield from zip(ours, theirs, strict=True)


def images(encoder: Encoder) -> list[Image.Image] | np.ndarray:
    """100 images: scikit-learn's two photographs, whole and in parts, and handwritten numbers.

    A model of precomputed features gets random vectors [100, F], one of texts alone gets none.
    """
    if isinstance(encoder.model, ImageTextModel) and encoder.model.image is None:
        return []
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
    """Over 100 captions by language: number words in twelve, and odd ones.

    A model with a network for each language gets captions of its own languages alone.
    """
    languages = LANGUAGES
    if isinstance(getattr(encoder.model, "text", None), WordGRU):
        languages = tuple(language for language in LANGUAGES if language in encoder.languages)
    texts = {language: [words(language)[number] for number in range(3, 1000, 112)] for language in languages}
    own = encoder.languages[0] if encoder.languages else "und"
    return texts | {own: [*texts.get(own, []), *ODD]}
