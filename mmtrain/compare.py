"""`mmtrain compare`: models side by side on the same queries, with intervals and paired tests against the first."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from datamodules import ShardDataModule
from mmtrain.embedding import embed, open_shards
from mmtrain.encoder import Encoder
from mmtrain.evaluate import measure_split
from mmtrain.evaluation import RetrievalRanks, paired_bootstrap, write_metrics
from mmtrain.evaluation.protocols import Protocol, named_protocol
from mmtrain.evaluation.report import DIRECTIONS, write_page
from mmtrain.loading import load


def compare(
    models: Sequence[str],
    data: str,
    out: str | Path | None = None,
    *,
    protocol: str | None = None,
    images: str | None = None,
    languages: list[str] | None = None,
    recall_at: Sequence[int] = (1, 5, 10),
    batch_size: int = 64,
    workers: int = 2,
    device: str | None = None,
) -> dict[str, Any]:
    """Measures MODELs on SHARDS and prints them side by side; with `out` also compare.json and compare.html there.

    Tokenizers, widths and similarities may differ. The languages are those that every model was trained on and the
    shards have; which are left out is said. Differences are those of R@k, k the smallest of recall_at, on the same
    queries (of all folds together, where a protocol has folds), with 95 % intervals and p from the paired bootstrap;
    they are not corrected for how many are tested.

    Returns:
        {"models", "languages", "left_out", "metrics": [metrics.json of each model], "against_first": [what
        `paired_bootstrap` says of each other model]}.

    Raises:
        ValueError: for fewer than two models, or no language in common.
    """
    if len(models) < 2:
        raise ValueError(f"MODEL: got {len(models)}, expected at least two to compare")
    measured = None if protocol is None else named_protocol(protocol)
    if measured is not None:
        data = measured.shards(data, images)
    encoders = [load(model) for model in models]
    chosen, left_out = shared_languages(encoders, data, languages, measured, batch_size, workers)
    ranks: list[RetrievalRanks] = []
    metrics: list[dict[str, Any]] = []
    for model, encoder in zip(models, encoders, strict=True):
        # one at a time on the device; of its embeddings nothing but the ranks is kept
        encoder.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        shards = open_shards(encoder, data, chosen, batch_size, workers)
        found = _measured(encoder, shards, measured, recall_at)
        encoder.to("cpu")
        found[1]["protocol"] |= {"model": str(model), "data": data, "skipped": shards.account.summary()}
        ranks.append(found[0])
        metrics.append(found[1])
    k = ranks[0].recall_at[0]
    result = {
        "models": [str(model) for model in models],
        "languages": ranks[0].languages,
        "left_out": left_out,
        "metrics": metrics,
        "against_first": [paired_bootstrap(ranks[0], other, k=k) for other in ranks[1:]],
    }
    _show(result, k, out)
    return result


def shared_languages(
    encoders: Sequence[Encoder],
    data: str,
    languages: list[str] | None,
    protocol: Protocol | None,
    batch_size: int,
    workers: int,
) -> tuple[list[str], list[str]]:
    """The languages to measure, in the order of the shards, and those of the shards that some model does not know.

    Models of other libraries do not say what they know and count as knowing all. Raises ValueError where none is left.
    """
    there = open_shards(encoders[0], data, languages, batch_size, workers).languages
    asked = there if protocol is None else protocol.chosen_languages(there)
    if languages is not None:
        return asked, []
    shared = [each for each in asked if all(not encoder.languages or each in encoder.languages for encoder in encoders)]
    if not shared:
        trained = "; ".join(f"{encoder.source}: {', '.join(encoder.languages[:10])}" for encoder in encoders)
        raise ValueError(f"--languages: the models share none that {data} has ({trained}); name some to measure them")
    return shared, [each for each in asked if each not in shared]


def _measured(
    encoder: Encoder, shards: ShardDataModule, protocol: Protocol | None, recall_at: Sequence[int]
) -> tuple[RetrievalRanks, dict[str, Any]]:
    split = embed(encoder, shards)
    return measure_split(encoder, shards, split, protocol, similarity=encoder.metric, recall_at=recall_at)


def _show(result: dict[str, Any], k: int, out: str | Path | None) -> None:
    from rich.console import Console

    console = Console(highlight=False, width=None if Console().is_terminal else 160)
    for direction in DIRECTIONS:
        console.print(_table(result, direction, k))
    for number, (model, metrics) in enumerate(zip(result["models"], result["metrics"], strict=True)):
        variance = metrics["mean_rank_variance"]["text_to_image"]["var"]
        consistency = "" if variance is None else f", mean rank variance {variance:,.2f}"
        console.print(
            f"{_letter(number)} = {model}: mean recall {metrics['mean_recall']:.2f} %{consistency}", markup=False
        )
    if result["left_out"]:
        console.print(f"left out, because not every model was trained on it: {', '.join(result['left_out'])}")
    console.print("Differences are in percentage points on the same queries; * marks p < 0.05, before any correction.")
    if out is None:
        return
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    write_metrics(folder / "compare.json", result)
    gains = result["against_first"]
    furthest = max(
        abs(end) for against in gains for way in DIRECTIONS for gain in against[way].values() for end in gain["ci95"]
    )
    write_page(
        folder / "compare.html",
        "compare.html.jinja",
        models=[
            (_letter(number), model, metrics)
            for number, (model, metrics) in enumerate(zip(result["models"], result["metrics"], strict=True))
        ],
        protocol=result["metrics"][0]["protocol"],
        languages=result["languages"],
        left_out=result["left_out"],
        directions=DIRECTIONS,
        gains=gains,
        reach=5 * max(1, math.ceil(furthest / 5)),  # one scale for all, in steps of five points
        k=k,
    )
    print(f"{folder / 'compare.json'}, {folder / 'compare.html'}")


def _table(result: dict[str, Any], direction: str, k: int) -> Any:
    from rich.table import Table

    protocol = result["metrics"][0]["protocol"]
    title = f"{direction.replace('_', ' ')}, R@{k} in percent, {protocol['images']:,} images"
    table = Table(title=f"{title}, protocol {protocol['name']}/{protocol['variant']}" if "name" in protocol else title)
    table.add_column("language")
    for number in range(len(result["models"])):
        table.add_column(f"{_letter(number)} (95 %)", justify="right")
        if number:
            table.add_column(f"{_letter(number)} - A (95 %)", justify="right")
            table.add_column("p", justify="right")
    for language in (*result["languages"], "mean"):
        cells = []
        for number, metrics in enumerate(result["metrics"]):
            figures = metrics[direction][language]
            low, high = figures[f"R@{k}_ci95"]
            cells.append(f"{figures[f'R@{k}']:.1f} ({low:.1f} to {high:.1f})")
            if number:
                gain = result["against_first"][number - 1][direction][language]
                low, high = gain["ci95"]
                cells.append(f"{gain['difference']:+.1f} ({low:+.1f} to {high:+.1f})")
                cells.append(f"{gain['p']:.3f}" + ("*" if gain["p"] < 0.05 else " "))
        table.add_row(language, *cells, style="bold" if language == "mean" else None)
    return table


def _letter(number: int) -> str:
    return chr(ord("A") + number) if number < 26 else f"M{number + 1}"
