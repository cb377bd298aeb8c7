"""Ranks and metrics of an embedded split, under a protocol or without one."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from mmtrain.display.messages import say
from mmtrain.embedding.collected import Embedded
from mmtrain.embedding.one_pass import Thumbnails
from mmtrain.embedding.splits import MeasuredShards
from mmtrain.evaluation.metrics.consistency import language_similarity
from mmtrain.evaluation.metrics.retrieval import summarise
from mmtrain.evaluation.protocols import Protocol
from mmtrain.evaluation.ranking.ranks import RetrievalRanks, rank_retrieval
from mmtrain.evaluation.report.examples import report_parts, score_histogram
from mmtrain.models.encoder import Encoder


def measure_split(
    encoder: Encoder,
    shards: MeasuredShards,
    split: Embedded,
    protocol: Protocol | None = None,
    *,
    captions: Literal["all", "first"] = "all",
    bootstrap: int = 1000,
    **options: Any,
) -> tuple[RetrievalRanks, dict[str, Any]]:
    """The ranks of an embedded split and its metrics.json; further options are those of `rank_retrieval`."""
    names = np.asarray(shards.languages)[split.language_of_text]
    columns = (split.images, split.texts, split.image_of_text, names)
    if protocol is not None:
        return protocol.measure(*columns, split.ids, device=encoder.device, bootstrap=bootstrap, **options)
    ranks = rank_retrieval(*columns, captions=captions, device=encoder.device, **options)
    return ranks, summarise(ranks, bootstrap=bootstrap)


def without_captions(split: Embedded, recall_at: Sequence[int] | None) -> dict[str, Any]:
    """The metrics.json of samples that have no captions: what was embedded."""
    depths = list(recall_at or (1, 5, 10))
    return {"protocol": {"images": len(split.images), "texts": 0, "languages": 0, "recall_at": depths}}


def skipped(shards: MeasuredShards) -> dict[str, Any]:
    """The samples that could not be read, by cause; prints a line where there are any."""
    account, lost = shards.account.summary(), shards.account.lost.total()
    tried = len(shards) + lost
    if account["skipped"]:
        causes = ", ".join(f"{count:,} {cause}" for cause, count in account["causes"].items())
        say(f"{account['skipped']:,} of {tried:,} samples could not be read ({causes}) and are not measured")
    return account | {"tried": tried, "rate": round(account["skipped"] / max(tried, 1), 6)}


def report_values(ranks: RetrievalRanks, split: Embedded, thumbnails: Thumbnails) -> dict[str, Any]:
    """What `write_report` shows besides the metrics, as keyword arguments for it."""
    if ranks.statement.pools is None:
        return report_parts(ranks, split.images, split.texts, split.captions, lambda i: thumbnails[int(split.rows[i])])
    # no examples: their answers come from all images, the ranks are among those of a pool
    return {
        "score_histogram": score_histogram(ranks, split.images, split.texts),
        "similarity": language_similarity(ranks, split.texts),
    }
