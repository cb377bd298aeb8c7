"""`mmtrain evaluate --sts`: semantic textual similarity, correlated with people's scores."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmtrain.embedding.processes import default_device
from mmtrain.evaluation.metrics.sts import Pair, correlations, read_sts
from mmtrain.evaluation.report.report import write_metrics
from mmtrain.evaluation.report.tables import print_sts
from mmtrain.models.loading import load


def evaluate_sts(
    model: str,
    data: str,
    out: str | Path,
    *,
    languages: list[str] | None = None,
    device: str | None = None,
    trust: Sequence[str] | None = None,
    adapter: str | None = None,
) -> dict[str, Any]:
    """Correlates the similarity of sentences with people's scores; writes `out`/sts.json, prints the table.

    Args:
        data: TSV files joined with ::, see `read_sts`.
        languages: Measures only pairs of these; default: all.
        trust: Modules whose classes the model may name.
        adapter: As of `mmtrain.load`.

    Raises:
        ValueError: one line, for a file that `read_sts` refuses, or no pair in the languages.
    """
    groups: dict[str, list[Pair]] = defaultdict(list)
    for path in data.split("::"):
        for pair in read_sts(path):
            if languages is None or set(pair.languages) <= set(languages):
                name = "-".join(dict.fromkeys(pair.languages))
                groups[f"{Path(path).stem} {name}".strip()].append(pair)
    if not groups:
        raise ValueError(f"--languages: no pair of {data} is in {', '.join(languages or [])} alone")
    encoder = load(model, device=device or default_device(), trust=trust, adapter=adapter)
    figures = {}
    for name, pairs in groups.items():
        first = encoder.encode_text([pair.first for pair in pairs], pairs[0].languages[0] or None, role="query")
        second = encoder.encode_text([pair.second for pair in pairs], pairs[0].languages[1] or None, role="query")
        figures[name] = correlations(first, second, np.array([pair.score for pair in pairs]), encoder.metric)
    metrics = {"protocol": {"model": str(model), "data": data, "similarity": encoder.metric}, "sts": figures}
    write_metrics(Path(out) / "sts.json", metrics)
    print_sts(figures)
    return metrics
