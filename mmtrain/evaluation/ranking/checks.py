"""Checks of embeddings, image numbers and languages before ranking; each error is one line."""

import warnings
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from mmtrain.evaluation.ranking.token_rows import TokenRows

ROW_BLOCK = 16384


def checked_embeddings(
    image_embeddings: np.ndarray | Tensor, text_embeddings: np.ndarray | Tensor
) -> tuple[Tensor, Tensor]:
    """Both as tensors [N, D] and [M, D] in the caller's memory; ValueError unless finite, floating, of one width."""
    images = _checked_matrix(image_embeddings, "image_embeddings")
    texts = _checked_matrix(text_embeddings, "text_embeddings")
    if images.shape[1] != texts.shape[1]:
        raise ValueError(
            f"text_embeddings have width {texts.shape[1]} and image_embeddings {images.shape[1]}; "
            "both must come from one space"
        )
    return images, texts


def _checked_matrix(embeddings: np.ndarray | Tensor, name: str) -> Tensor:
    if isinstance(embeddings, np.ndarray):  # torch reads neither backwards nor another machine's byte order
        embeddings = np.ascontiguousarray(embeddings, embeddings.dtype.newbyteorder("="))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # nor is it written
        matrix = torch.as_tensor(embeddings).detach()
    if matrix.ndim != 2 or not matrix.is_floating_point():
        shape = list(matrix.shape)
        raise ValueError(f"{name} is {matrix.dtype} of shape {shape}; give floating numbers of shape [rows, width]")
    if not matrix.numel():
        raise ValueError(f"{name} is empty (shape {list(matrix.shape)}); a pool needs at least one row")
    for start in range(0, len(matrix), ROW_BLOCK):
        finite = matrix[start : start + ROW_BLOCK].isfinite().all(1)
        if not finite.all():
            row = start + int((~finite).nonzero()[0])
            raise ValueError(f"{name} row {row} holds NaN or infinity; every embedding must be finite")
    return matrix


def checked_token_rows(
    image_embeddings: Iterable[np.ndarray | Tensor] | TokenRows,
    text_embeddings: Iterable[np.ndarray | Tensor] | TokenRows,
) -> tuple[TokenRows, TokenRows]:
    """Both as token rows; ValueError unless finite, of one width, and each item has a token."""
    images, texts = TokenRows.of(image_embeddings), TokenRows.of(text_embeddings)
    for rows, name in ((images, "image_embeddings"), (texts, "text_embeddings")):
        if (rows.lengths == 0).any():
            raise ValueError(
                f"{name}: item {np.flatnonzero(rows.lengths == 0)[0]} has no token; each needs one or more"
            )
    checked_embeddings(images.values, texts.values)
    return images, texts


def checked_images(image_of_text: Sequence[int] | np.ndarray | Tensor, texts: int, images: int) -> np.ndarray:
    """image_of_text as int64 [M], each in 0 .. N - 1."""
    index = np.asarray(image_of_text.cpu() if isinstance(image_of_text, Tensor) else image_of_text)
    if index.shape != (texts,) or index.dtype.kind not in "iu":
        raise ValueError(
            f"image_of_text is {index.dtype} of shape {list(index.shape)}; give {texts} whole numbers, one a caption"
        )
    outside = np.flatnonzero((index < 0) | (index >= images))
    if len(outside):
        raise ValueError(
            f"image_of_text[{outside[0]}] is {index[outside[0]]}; "
            f"there are {images} images, so 0 to {images - 1} are accepted"
        )
    return index.astype(np.int64)


def checked_languages(
    language_of_text: Sequence[str] | np.ndarray,
    texts: int,
    languages: Sequence[str] | None,
    text_to_text: Sequence[tuple[str, str]],
) -> tuple[np.ndarray, list[str]]:
    """The language of each caption as an array of str [M], and the languages to measure."""
    of_text = np.asarray(language_of_text)
    if of_text.dtype == object and all(isinstance(language, str) for language in of_text.flat):
        of_text = of_text.astype(str)
    if of_text.shape != (texts,) or of_text.dtype.kind != "U":
        raise ValueError(
            f"language_of_text is {of_text.dtype} of shape {list(of_text.shape)}; "
            f"give {texts} language codes, one a caption"
        )
    present = np.unique(of_text).tolist()
    languages = present if languages is None else list(dict.fromkeys(languages))
    if not languages:
        raise ValueError(f"languages is empty; the captions have {_listed(present)}")
    for language in [*languages, *(side for pair in text_to_text for side in pair)]:
        if language not in present:
            raise ValueError(f"language {language!r} has no caption; the captions have {_listed(present)}")
        if language not in languages:
            raise ValueError(f"text_to_text names {language!r}, which is not among the languages {_listed(languages)}")
    for query, answer in text_to_text:
        if query == answer:
            raise ValueError(f"text_to_text pairs {query!r} with itself; name two languages")
    return of_text, languages


def _listed(languages: Sequence[str]) -> str:
    return ", ".join(languages[:12]) + (f" and {len(languages) - 12} more" if len(languages) > 12 else "")
