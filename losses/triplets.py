"""A picture, its text, and another text: ratios of distances, or a margin between them."""

from torch import Tensor

from losses.engine.checks import check_rows, full_precision, working_precision

SMALLEST = 1e-6  # of a distance that is divided by


@full_precision
def m3l_loss(
    image: Tensor, text: Tensor, other: Tensor, weights: tuple[float, float] = (0.5, 1.0), power: float = 4
) -> Tensor:
    """The mean of w1 (d(i, t) / d(i, o))^power + w2 (d(i, t) / d(t, o))^power, with d = 1 - cosine, at least 1e-6.

    After the multi-modal metric loss of Aggarwal and Kale, "Towards Zero-shot Cross-lingual Image Retrieval", 2020; the
    formula, weights and power are recalled, not read in their code.

    Args:
        image: float [B, D], unit rows.
        text: float [B, D], unit rows; each image's own.
        other: float [B, D], unit rows; a hard wrong text of each image.
        weights: w1, w2.
        power: the exponent.

    Raises:
        ValueError: wrong shapes.
    """
    of_text, of_other, apart = _distances(image, text, other)
    return (weights[0] * (of_text / of_other) ** power + weights[1] * (of_text / apart) ** power).mean()


@full_precision
def patr_loss(image: Tensor, text: Tensor, other: Tensor, margin: float = 0.2) -> Tensor:
    """The mean of d(i, t) + max(0, margin - d(i, o)), with d = 1 - cosine: positive-aware triplet ranking.

    What Aggarwal and Kale (2020) compare `m3l_loss` with; the formula is recalled.

    Args:
        image, text, other: as in `m3l_loss`.
        margin: the distance that the other text should have.

    Raises:
        ValueError: wrong shapes.
    """
    of_text, of_other, _ = _distances(image, text, other)
    return (of_text + (margin - of_other).clamp(min=0)).mean()


def _distances(image: Tensor, text: Tensor, other: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of image and text, of image and other, of text and other, each [B] and at least 1e-6."""
    check_rows("image", image)
    for name, rows in (("text", text), ("other", other)):
        check_rows(name, rows, image)
    image, text, other = working_precision(image, text, other)
    pairs = ((image, text), (image, other), (text, other))
    first, second, third = ((1 - (a * b).sum(1)).clamp(min=SMALLEST) for a, b in pairs)
    return first, second, third
