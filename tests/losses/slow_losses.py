"""Every loss once more, as slow loops over pairs in float64: what the fast ones must agree with."""

from itertools import product

import torch
from torch import Tensor


def left_out(i: int, j: int, t: int, case: dict) -> bool:
    """Whether caption t of image j is no negative for image i although it is not its own."""
    image_ids, text_ids, present = case.get("image_ids"), case.get("text_ids"), case["present"]
    if i == j:
        return False
    if image_ids is not None and image_ids[i] == image_ids[j]:
        return True
    if text_ids is None:
        return False
    return any(present[i, k] and text_ids[i, k] == text_ids[j, t] for k in range(present.shape[1]))


def pairs_of(case: dict) -> list[tuple[int, int]]:
    B, K = case["present"].shape
    return [(i, k) for i, k in product(range(B), range(K)) if case["present"][i, k]]


def distractors_of(case: dict) -> Tensor:
    """Those that there are, [n, D]."""
    rows, present = case["further"]["distractors"], case["further"]["distractors_present"]
    return torch.zeros(0, 1) if rows is None else rows.flatten(0, 1) if present is None else rows[present]


def one_to_k(image: Tensor, texts: Tensor, scale: Tensor, case: dict, weighting: str = "balanced") -> Tensor:
    B, K, _ = texts.shape
    captions, zero = pairs_of(case), 0 * (image.sum() + texts.sum() + scale)
    paired = case.get("paired")
    counted = [(i, k) for i, k in captions if paired is None or paired[i]]
    image_to_text, text_to_image = {}, {}
    for i, k in counted:
        positive = scale * image[i] @ texts[i, k]
        row = [scale * image[i] @ texts[j, t] for j, t in captions if not left_out(i, j, t, case)]
        row += [scale * image[i] @ text.to(image) for text in distractors_of(case)]
        column = [scale * image[j] @ texts[i, k] for j in range(B) if not left_out(j, i, k, case)]
        image_to_text[i, k] = torch.stack(row).logsumexp(0) - positive
        text_to_image[i, k] = torch.stack(column).logsumexp(0) - positive
    if not counted:
        return zero
    second = sum(text_to_image.values()) / len(counted)
    if weighting == "published":
        return sum(image_to_text.values()) / len(counted) / 2 + second / (2 * K)
    by_image = {i: [nll for (j, _), nll in image_to_text.items() if j == i] for i, _ in counted}
    first = sum(sum(nlls) / len(nlls) for nlls in by_image.values()) / len(by_image)
    return zero + (first + second) / 2


def siglip(image: Tensor, texts: Tensor, scale: Tensor, bias: Tensor, case: dict) -> Tensor:
    loss = 0 * (image.sum() + texts.sum() + scale + bias)
    for i, (j, k) in product(range(len(image)), pairs_of(case)):
        if not left_out(i, j, k, case):
            z = 1 if i == j else -1
            loss = loss - torch.nn.functional.logsigmoid(z * (scale * image[i] @ texts[j, k] + bias))
    for i, text in product(range(len(image)), distractors_of(case)):
        loss = loss - torch.nn.functional.logsigmoid(-(scale * image[i] @ text.to(image) + bias))
    return loss / len(image)


def similarity(kind: str, a: Tensor, b: Tensor) -> Tensor:
    if kind == "cosine":
        return a @ b
    return -sum(max(torch.zeros_like(y), y.abs() - x.abs()) ** 2 for x, y in zip(a, b, strict=True))


def pivot(image: Tensor, texts: Tensor, case: dict, kind: str, margin: float, parallel: bool, negatives: str) -> Tensor:
    captions = pairs_of(case)
    language = {(i, k): k if case["languages"] is None else int(case["languages"][i, k]) for i, k in captions}
    reduce = sum if negatives == "sum" else lambda hinges: max(hinges, default=0)
    zero = torch.zeros((), dtype=image.dtype)

    def hinge(positive: Tensor, negative: Tensor) -> Tensor:
        return torch.maximum(zero, margin - positive + negative)

    def wrong(i: int, of: int) -> list[tuple[int, int]]:
        return [(j, t) for j, t in captions if j != i and language[j, t] == of and not left_out(i, j, t, case)]

    loss = 0 * (image.sum() + texts.sum())
    for i, k in captions:
        positive = similarity(kind, image[i], texts[i, k])
        negative = [texts[c] for c in wrong(i, language[i, k])] + [text.to(image) for text in distractors_of(case)]
        loss = loss + reduce([hinge(positive, similarity(kind, image[i], text)) for text in negative])
        others = [j for j in range(len(image)) if j != i and not left_out(j, i, k, case)]
        loss = loss + reduce([hinge(positive, similarity(kind, image[j], texts[i, k])) for j in others])
        for j, t in captions if parallel else []:
            if j == i and language[j, t] != language[i, k]:
                positive = similarity(kind, texts[i, k], texts[i, t])
                negative = [similarity(kind, texts[i, k], texts[c]) for c in wrong(i, language[i, t])]
                loss = loss + reduce([hinge(positive, score) for score in negative])
    return loss


def symile(embeddings: list[Tensor], scale: Tensor, tuples: list, equal, only: int | None = None) -> Tensor:
    """tuples[a] are the negatives of anchor modality a, indices into its other modalities, of which those whose members
    all are `equal` to the anchor's sample do not count; `only` takes one sample's terms alone."""
    M, B = len(embeddings), len(embeddings[0])
    loss = 0 * scale
    for a, i in product(range(M), range(B) if only is None else [only]):
        others = [m for m in range(M) if m != a]

        def logit(chosen: tuple[int, ...], a: int = a, i: int = i, others: list[int] = others) -> Tensor:
            result = embeddings[a][i]
            for m, j in zip(others, chosen, strict=True):
                result = result * embeddings[m][j]
            return scale * result.sum()

        positive = logit((i,) * (M - 1))
        negatives = [logit(chosen) for chosen in tuples[a] if not all(equal(i, j) for j in chosen)]
        loss = loss + torch.stack([positive, *negatives]).logsumexp(0) - positive
    return loss / (M * B)
