"""`mmtrain compare`: models side by side on the same queries, with intervals and paired tests against the first; or
benchmarks, by the correlation of their figures.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from datamodules.files import try_writing
from mmtrain.commands.usage import BatchSize, Device, Folder, Model, Shards, Trust, UsageError, Workers
from mmtrain.display.messages import say

if TYPE_CHECKING:
    from mmtrain.evaluation.protocols import Protocol
    from mmtrain.models.encoder import Encoder


def compare(
    model: Model,
    *models: Model,
    data: Shards | None = None,
    out: Folder | None = None,
    protocol: Annotated[str, "NAME"] | None = None,
    images: Folder | None = None,
    languages: list[str] | None = None,
    recall_at: tuple[int, ...] = (1, 5, 10),
    metrics: bool = False,
    figure: Annotated[str, "questions.mean.nDCG@10"] | None = None,
    with_: Annotated[str, "text_to_image.mean.R@1"] | None = None,
    batch_size: BatchSize = 64,
    workers: Workers = 2,
    device: Device | None = None,
    trust: Trust | None = None,
) -> dict[str, Any]:
    """Measures MODELs on SHARDS and prints them side by side; with `out` also compare.json and compare.html there.

    Tokenizers, widths and similarities may differ. The languages are those that every model was trained on and the
    shards have; the others are listed. Differences are those of R@k, k the smallest of recall_at, on the same
    queries (of all folds together, where a protocol has folds), with 95 % intervals and p from the paired bootstrap;
    they are not corrected for how many are tested.

    Args:
        models: What to compare with it.
        out: Gets compare.json and compare.html; default: only the table.
        protocol: A published test set, as for evaluate.
        images: With --protocol: where the data set's own pictures lie.
        languages: Default: those that all the models share.
        recall_at: Ranks to report; the first is tested.
        metrics: Compares benchmarks in place of models: MODELs are files, metrics.json and zero_shot.json of several
            models. Writes correlation.json.
        figure: For --metrics: a figure, "mean" in the place of the language.
        with_: For --metrics: the figure that it is correlated with, over languages within a model and over models
            within a language.

    Returns:
        {"models", "languages", "left_out", "metrics": [metrics.json of each model], "against_first": [what
        `paired_bootstrap` says of each other model]}.

    Raises:
        ValueError: for fewer than two models, or no language in common.
    """
    if out is not None:
        if Path(out).exists() and not Path(out).is_dir():
            raise ValueError(f"--out: {out} is a file; a folder for compare.json and compare.html")
        try_writing(out, "--out")
    names = [model, *models]
    if metrics:
        if figure is None or with_ is None or data is not None:
            raise UsageError("--metrics: needs --figure and --with, and no --data")
        return _benchmarks(names, figure, with_, out)
    if data is None:
        raise UsageError("--data: needed to compare models; --metrics compares what was measured")
    for option, value in (("figure", figure), ("with", with_)):
        if value is not None:
            raise UsageError(f"--{option}: {value} is read from files; it needs --metrics")

    from mmtrain.embedding.one_pass import embed
    from mmtrain.embedding.processes import default_device
    from mmtrain.embedding.splits import MeasuredShards
    from mmtrain.evaluation.measuring.retrieval import measure_split, skipped
    from mmtrain.evaluation.metrics.bootstrap import paired_bootstrap
    from mmtrain.evaluation.protocols import named_protocol
    from mmtrain.models.loading import load

    if len(names) < 2:
        raise ValueError(f"MODEL: got {len(names)}, expected at least two to compare")
    published = None if protocol is None else named_protocol(protocol)
    if published is not None and published.questions is not None:
        raise ValueError(f"--protocol: {published} asks questions; evaluate each model, then compare --metrics")
    if published is not None:
        data = published.shards(data, images)
    encoders = [load(name, trust=trust) for name in names]
    shards = MeasuredShards(encoders[0], data, languages, batch_size, workers)
    shared, left_out = shared_languages(encoders, data, shards.languages, languages, published)
    ranks, measured = [], []
    for name, encoder in zip(names, encoders, strict=True):
        # one at a time on the device; of its embeddings nothing but the ranks is kept
        encoder.to(device or default_device())
        shards.read_for(encoder, shared)
        split = embed(encoder, shards)
        of_model, figures = measure_split(
            encoder, shards, split, published, similarity=encoder.metric, recall_at=recall_at
        )
        encoder.to("cpu")
        figures["protocol"] |= {"model": name, "data": data, "skipped": skipped(shards)}
        ranks.append(of_model)
        measured.append(figures)
    k = ranks[0].recall_at[0]
    result = {
        "models": names,
        "languages": ranks[0].languages,
        "left_out": left_out,
        "metrics": measured,
        "against_first": [paired_bootstrap(ranks[0], other, k=k) for other in ranks[1:]],
    }
    _print(result, k)
    if out is not None:
        _write(Path(out), result, k)
    return result


def _benchmarks(files: Sequence[str], figure: str, other: str, out: str | None) -> dict[str, Any]:
    """The correlations of two figures in files; printed, and written to correlation.json."""
    from mmtrain.evaluation.metrics.correlation import correlations, read_figures
    from mmtrain.evaluation.report.report import write_metrics
    from mmtrain.evaluation.report.tables import print_correlations

    figures = read_figures(files, figure, other)
    result: dict[str, Any] = {"figure": figure, "with": other, "models": figures.models, **correlations(figures)}
    result["languages"] = {
        language: {
            name: {"counts": figures.counts[language][side], "values": figures.tables[side][:, column].tolist()}
            for side, name in enumerate(("figure", "with"))
        }
        for column, language in enumerate(figures.languages)
    }
    if figures.left_out:
        say(f"left out, without {figure} or {other}: {', '.join(figures.left_out)}")
    print_correlations(result)
    if out is not None:
        write_metrics(Path(out) / "correlation.json", result)
        say(f"{Path(out) / 'correlation.json'}")
    return result


def shared_languages(
    encoders: "Sequence[Encoder]",
    data: str,
    in_shards: Sequence[str],
    languages: list[str] | None,
    protocol: "Protocol | None",
) -> tuple[list[str], list[str]]:
    """The languages to measure, in the order of the shards, and those of the shards that some model does not know.

    Models of other libraries do not say what they know and count as knowing all. Raises ValueError where none is left.
    """
    choices = list(in_shards) if protocol is None else protocol.chosen_languages(in_shards)
    if languages is not None:
        return choices, []
    trained = [encoder.languages for encoder in encoders if encoder.languages]
    shared = [each for each in choices if all(each in names for names in trained)]
    if not shared:
        models = "; ".join(f"{encoder.source}: {', '.join(encoder.languages[:10])}" for encoder in encoders)
        raise ValueError(f"--languages: the models share none that {data} has ({models}); name some to measure them")
    return shared, [each for each in choices if each not in shared]


def _print(result: dict[str, Any], k: int) -> None:
    from mmtrain.evaluation.ranking.protocol_statement import unequal_pools
    from mmtrain.evaluation.ranking.ranks import DIRECTIONS
    from mmtrain.evaluation.report.tables import letter, print_compared

    for direction in DIRECTIONS:
        print_compared(result, direction, k)
    for number, (model, metrics) in enumerate(zip(result["models"], result["metrics"], strict=True)):
        variance = metrics["mean_rank_variance"]["text_to_image"]["var"]
        consistency = "" if variance is None else f", mean rank variance {variance:,.2f}"
        say(f"{letter(number)} = {model}: mean recall {metrics['mean_recall']:.2f} %{consistency}")
    for line in unequal_pools(result["metrics"][0]["protocol"]):
        say(line)
    if result["left_out"]:
        say(f"left out, because not every model was trained on it: {', '.join(result['left_out'])}")
    say("Differences are in percentage points on the same queries; * marks p < 0.05, before any correction.")


def _write(folder: Path, result: dict[str, Any], k: int) -> None:
    """compare.json and compare.html."""
    from mmtrain.display.html import write_page
    from mmtrain.evaluation.ranking.protocol_statement import in_words, unequal_pools
    from mmtrain.evaluation.ranking.ranks import DIRECTIONS
    from mmtrain.evaluation.report.report import TEMPLATES, TITLES, write_metrics
    from mmtrain.evaluation.report.tables import letter, shown_p

    write_metrics(folder / "compare.json", result)
    gains = result["against_first"]
    furthest = max(
        abs(end) for against in gains for way in DIRECTIONS for gain in against[way].values() for end in gain["ci95"]
    )
    models = enumerate(zip(result["models"], result["metrics"], strict=True))
    protocol = result["metrics"][0]["protocol"]
    write_page(
        folder / "compare.html",
        TEMPLATES / "compare.html.jinja",
        title="Models side by side",
        models=[(letter(number), model, metrics) for number, (model, metrics) in models],
        filters={"p": shown_p},
        protocol=protocol,
        sentences=in_words(protocol),
        unequal=unequal_pools(protocol),
        languages=result["languages"],
        left_out=result["left_out"],
        directions=TITLES,
        gains=gains,
        reach=5 * max(1, math.ceil(furthest / 5)),  # one scale for all, in steps of five points
        k=k,
    )
    say(f"{folder / 'compare.json'}, {folder / 'compare.html'}")
