"""Exact retrieval figures in every language, and a report that shows them.

Names are imported when first used: ranks need no matplotlib, a report no Lightning.
"""

from typing import TYPE_CHECKING

from datamodules.lazy import lazy

if TYPE_CHECKING:
    from mmtrain.evaluation.metrics.bootstrap import paired_bootstrap
    from mmtrain.evaluation.metrics.consistency import language_similarity, mean_rank_variance, rank_correlation
    from mmtrain.evaluation.metrics.retrieval import retrieval_metrics, summarise
    from mmtrain.evaluation.ranking.nearest import flat_top_k
    from mmtrain.evaluation.ranking.queries import QueryRanks
    from mmtrain.evaluation.ranking.ranks import RetrievalRanks, rank_retrieval
    from mmtrain.evaluation.report.examples import (
        Example,
        Examples,
        Item,
        choose_examples,
        report_parts,
        score_histogram,
    )
    from mmtrain.evaluation.report.figures import report_figures
    from mmtrain.evaluation.report.report import write_metrics, write_report

__getattr__, __all__ = lazy(
    __name__,
    {
        "mmtrain.evaluation.metrics.bootstrap": ("paired_bootstrap",),
        "mmtrain.evaluation.metrics.consistency": ("language_similarity", "mean_rank_variance", "rank_correlation"),
        "mmtrain.evaluation.metrics.retrieval": ("retrieval_metrics", "summarise"),
        "mmtrain.evaluation.ranking.nearest": ("flat_top_k",),
        "mmtrain.evaluation.ranking.queries": ("QueryRanks",),
        "mmtrain.evaluation.ranking.ranks": ("RetrievalRanks", "rank_retrieval"),
        "mmtrain.evaluation.report.examples": (
            "Example",
            "Examples",
            "Item",
            "choose_examples",
            "report_parts",
            "score_histogram",
        ),
        "mmtrain.evaluation.report.figures": ("report_figures",),
        "mmtrain.evaluation.report.report": ("write_metrics", "write_report"),
    },
)
