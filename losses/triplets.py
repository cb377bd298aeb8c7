"""A picture, its text, and another text: ratios of distances, or a margin between them."""

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from losses.embeddings import Embeddings
from losses.engine.checks import check_integers, check_rows, full_precision, working_precision
from losses.engine.distributed import default_group, gather, global_sum, rank_and_size, total
from losses.objective import Objective, rows_of

SMALLEST = 1e-6  # of a distance that is divided by
SCORES_AT_ONCE = 2**22


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
        image: float [B, D], unit rows, as in `m3l_loss`.
        text: float [B, D], likewise.
        other: float [B, D], likewise.
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


@full_precision
def hardest_other(
    image: Tensor,
    text: Tensor,
    image_ids: Tensor | None = None,
    text_ids: Tensor | None = None,
    alike: float = 1.0,
    group: ProcessGroup | None = None,
) -> tuple[Tensor, Tensor]:
    """For each image the nearest text that is not its own: int64 [B], of all processes, and bool [B], whether any is.

    Args:
        image: float [B, D], unit rows; with a group, this process's part.
        text: float [B, D], unit rows; each image's own.
        image_ids: int64 [B]; texts of an image with an equal id are not taken.
        text_ids: int64 [B]; texts with an equal id are not taken.
        alike: texts whose cosine with the own text is larger are not taken.
        group: processes that hold the rest of the batch, equally many rows each.

    Raises:
        ValueError: wrong shapes.
    """
    check_rows("image", image)
    check_rows("text", text, image)
    kinds = []
    for name, ids in (("image_ids", image_ids), ("text_ids", text_ids)):
        check_integers(name, ids, (len(image),))
        kinds += [] if ids is None else [(ids, gather(ids, group))]
    image, text = working_precision(image.detach(), text.detach())
    texts = gather(text, group)
    numbers = torch.arange(len(texts), device=texts.device)
    own = numbers.chunk(rank_and_size(group)[1])[rank_and_size(group)[0]]
    best, column = [], []
    for part in torch.arange(len(image), device=image.device).split(max(1, SCORES_AT_ONCE // len(texts))):
        barred = (own[part, None] == numbers) | (text[part] @ texts.T > alike)
        for ids, everyones in kinds:
            barred |= ids[part, None] == everyones
        scores, nearest = (image[part] @ texts.T).masked_fill_(barred, -torch.inf).max(1)
        best.append(scores)
        column.append(nearest)
    return torch.cat(column), torch.cat(best) > -torch.inf


class _Triplets(Objective):
    """The mean over pictures of a loss of picture, own text and the nearest other text of all processes."""

    def __init__(self, image: str, text: str, alike: float) -> None:
        super().__init__()
        self.image, self.text, self.alike = image, text, alike
        self.needs = frozenset({image, text})

    def of_triplets(self, image: Tensor, text: Tensor, other: Tensor) -> Tensor:
        """The mean loss, 0-d, of images, their texts and other texts [n, D]."""
        raise NotImplementedError

    def forward(self, embeddings: Embeddings) -> Tensor:
        self.check_rows(embeddings)
        (image, image_ids), (text, text_ids) = rows_of(embeddings, self.image), rows_of(embeddings, self.text)
        group = default_group()
        column, found = hardest_other(image, text, image_ids, text_ids, self.alike, group)
        image, text, other = image[found], text[found], gather(text, group)[column[found]]
        # without any triplet gradients of zero, so that no process waits for one
        loss = len(image) * self.of_triplets(image, text, other) if len(image) else 0 * (image.sum() + other.sum())
        return global_sum(loss / total(found.sum(), group).clamp(min=1), group)


class M3lLoss(_Triplets):
    """`m3l_loss` with the nearest wrong text of the batch as the other one; the recipe is recalled, as the loss is.

    The authors train it on a frozen text tower and projections (`model.text.frozen`, `model.projection: mlp`).

    Args:
        image: "image" or a field's name.
        text: "texts" (their first slot) or a field's name.
        weights: Of the two ratios.
        power: Their exponent.
        alike: Texts whose cosine with the own text is above this are no other texts.
    """

    def __init__(
        self,
        image: str = "image",
        text: str = "texts",
        weights: tuple[float, float] = (0.5, 1.0),
        power: float = 4.0,
        alike: float = 0.95,
    ) -> None:
        super().__init__(image, text, alike)
        self.weights, self.power = weights, power

    def of_triplets(self, image: Tensor, text: Tensor, other: Tensor) -> Tensor:
        return m3l_loss(image, text, other, self.weights, self.power)


class PatrLoss(_Triplets):
    """`patr_loss` with the nearest wrong text of the batch as the other one.

    Args:
        image: As in `M3lLoss`.
        text: As in `M3lLoss`.
        alike: As in `M3lLoss`.
        margin: The distance that the other text should have.
    """

    def __init__(self, image: str = "image", text: str = "texts", margin: float = 0.2, alike: float = 0.95) -> None:
        super().__init__(image, text, alike)
        self.margin = margin

    def of_triplets(self, image: Tensor, text: Tensor, other: Tensor) -> Tensor:
        return patr_loss(image, text, other, self.margin)
