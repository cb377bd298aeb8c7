"""Semantic textual similarity: how the similarity of sentences correlates with that which people see."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.stats import pearsonr, spearmanr

from datamodules.packing.tables import header_and_rows
from datamodules.shards.encoding import BadRow
from mmtrain.evaluation.ranking.tiles import Similarity, pair_scores

COLUMNS = ("sentence1", "sentence2", "score")


@dataclass(frozen=True)
class Pair:
    """Two sentences, their languages ("" where the file does not say), and how similar people found them."""

    first: str
    second: str
    score: float
    languages: tuple[str, str] = ("", "")


def read_sts(path: str | Path) -> list[Pair]:
    """The pairs of a TSV file with a row of column names: sentence1, sentence2, score.

    Columns language, or language1 and language2, say the languages; others are passed over. Quotes are text. Raises
    ValueError for a file without these columns, a score that is no number, or fewer than three pairs.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"--data: {path} is no file; TSV with the columns {', '.join(COLUMNS)}")
    header, rows = header_and_rows(path, "\t", False)
    if set(COLUMNS) - set(header):
        names = ", ".join(header)[:200] or "none"
        raise ValueError(f"--data: {path} has the columns {names}; expected {', '.join(COLUMNS)}")
    pairs = []
    for line, fields in enumerate(rows, start=2):
        row = {} if isinstance(fields, BadRow) else dict(zip(header, fields[1], strict=False))
        try:
            first, second = (row.get(f"language{side}", row.get("language", "")) for side in (1, 2))
            pairs.append(Pair(row["sentence1"], row["sentence2"], float(row["score"]), (first, second)))
        except (KeyError, ValueError):
            raise ValueError(
                f"--data: {path} line {line} has no two sentences and a number; {', '.join(COLUMNS)}"
            ) from None
    if len(pairs) < 3:
        raise ValueError(f"--data: {path} has {len(pairs)} pairs; a correlation needs at least three")
    return pairs


def correlations(
    first: np.ndarray, second: np.ndarray, scores: np.ndarray, similarity: Similarity = "cosine"
) -> dict[str, float | int]:
    """{"pearson", "spearman", "pairs"}, times 100, of the similarity of rows [P, D] with the scores [P].

    Neither sentence is the more general one, so asymmetric similarity is the mean of both directions. Raises ValueError
    where all scores, or all similarities, are the same: nothing correlates with a constant.
    """
    rows = torch.as_tensor(first), torch.as_tensor(second)
    each = np.arange(len(scores))
    similarities = (pair_scores(*rows, each, each, similarity) + pair_scores(*rows[::-1], each, each, similarity)) / 2
    for name, values in (("scores", np.asarray(scores)), ("similarities", similarities)):
        if np.ptp(values) < 1e-12:
            raise ValueError(f"all {len(values)} {name} are {values[0]:g}; nothing correlates with a constant")
    return {
        "pearson": 100 * float(pearsonr(similarities, scores).statistic),
        "spearman": 100 * float(spearmanr(similarities, scores).statistic),
        "pairs": len(scores),
    }
