"""Recall by the width and precision of the rows: what a search loses when its rows take less room."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np

from mmtrain.embedding.collected import Embedded
from mmtrain.embedding.splits import MeasuredShards
from mmtrain.evaluation.measuring.retrieval import measure_split
from mmtrain.evaluation.protocols import Protocol
from mmtrain.evaluation.ranking.ranks import DIRECTIONS
from mmtrain.models.encoder import Encoder

BITS = {"float32": 32, "int8": 8, "binary": 1}  # of a number, by precision


def check_shorter(encoder: Encoder, widths: Sequence[int], precisions: Sequence[str], similarity: str) -> None:
    """Raises ValueError for a width beyond the model's, an unknown precision, or signs where signs do not count."""
    dimension = encoder.model.dimension
    for width in widths:
        if not 1 <= width <= dimension:
            raise ValueError(f"--dims: got {width}, the rows of {encoder.source} have {dimension}; 1 to {dimension}")
    for precision in precisions:
        if precision not in BITS:
            raise ValueError(f"--precision: got {precision!r}, expected some of {', '.join(BITS)}")
    if "binary" in precisions and similarity == "asymmetric":
        raise ValueError("--precision: binary keeps signs, of which asymmetric similarity takes no notice")


def measure_shorter(
    encoder: Encoder,
    shards: MeasuredShards,
    split: Embedded,
    metrics: Mapping[str, Any],
    protocol: Protocol | None,
    widths: Sequence[int],
    precisions: Sequence[str],
    **options: Any,
) -> list[dict[str, Any]]:
    """Recall at every width and precision, and that of the rows as they are; "shorter" of metrics.json.

    Widths ascend; each has its precisions in the order in which they were given, the rows as they are before them.
    Each entry has "width", "precision", "bytes" a row, "mean_recall", and by direction and language the recalls in
    percent. Ranks are exact and ties count against the model, as in the rest of the report. Memory stays linear in the
    rows. No widths stands for the whole rows, no precisions for float32.

    Args:
        metrics: The figures of the rows as they are.
        options: Those of `measure_split`.
    """
    dimension = split.images.shape[1]
    entries = [_entry(dimension, "float32", metrics)]
    for width, precision in dict.fromkeys(product(widths or [dimension], precisions or ["float32"])):
        if (width, precision) != (dimension, "float32"):
            images, texts = (reduced(rows, width, precision) for rows in (split.images, split.texts))
            shorter = replace(split, images=images, texts=texts)
            _, figures = measure_split(encoder, shards, shorter, protocol, bootstrap=0, **options)
            entries.append(_entry(width, precision, figures))
    return sorted(entries, key=lambda entry: entry["width"])


def reduced(rows: np.ndarray, width: int, precision: str) -> np.ndarray:
    """The first dimensions of rows [N, D], normalised again, as they read from a store of this precision: [N, width].

    int8 rows are read back from their codes (`int8_codes`); the cosine of binary rows, signs, falls as their Hamming
    distance grows.
    """
    rows = rows[:, :width] / np.linalg.norm(rows[:, :width], axis=1, keepdims=True).clip(1e-12)
    if precision == "binary":
        return np.where(rows > 0, np.float32(1), np.float32(-1))
    if precision == "int8":
        codes, starts, steps = int8_codes(rows)
        return starts + (codes + np.float32(128.5)) * steps
    return rows


def int8_codes(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows float32 [N, D] as int8 [N, D]: each dimension from its least to its largest value in 255 equal steps.

    The codes are those of sentence-transformers' quantize_embeddings. Code c is read back as the middle of its step,
    starts + (c + 128.5) * steps, as faiss's 8-bit scalar quantiser does. Pictures and texts have ranges of their own.

    Returns:
        Codes, and starts and steps [D].
    """
    starts = rows.min(0)
    steps = (rows.max(0) - starts) / 255
    codes = np.floor((rows - starts) / np.where(steps == 0, 1, steps)).clip(0, 255) - 128
    return codes.astype(np.int8), starts, steps


def _entry(width: int, precision: str, metrics: Mapping[str, Any]) -> dict[str, Any]:
    entry: dict[str, Any] = {"width": width, "precision": precision, "bytes": -(-width * BITS[precision] // 8)}
    for direction in DIRECTIONS:
        entry[direction] = {
            language: {name: value for name, value in figures.items() if re.fullmatch(r"R@\d+", name)}
            for language, figures in metrics[direction].items()
        }
    return entry | {"mean_recall": metrics["mean_recall"]}
