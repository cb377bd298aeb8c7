"""Exact retrieval metrics in every language, and a report that shows them.

Names are imported when first used: ranks need no matplotlib, a report no Lightning.
"""

from typing import TYPE_CHECKING

from datamodules.lazy import lazy

if TYPE_CHECKING:
    from mmtrain.evaluation.metrics.bootstrap import paired_bootstrap as paired_bootstrap
    from mmtrain.evaluation.metrics.consistency import language_similarity as language_similarity
    from mmtrain.evaluation.metrics.consistency import mean_rank_variance as mean_rank_variance
    from mmtrain.evaluation.metrics.consistency import rank_correlation as rank_correlation
    from mmtrain.evaluation.metrics.retrieval import retrieval_metrics as retrieval_metrics
    from mmtrain.evaluation.metrics.retrieval import summarise as summarise
    from mmtrain.evaluation.ranking.graded import rank_graded as rank_graded
    from mmtrain.evaluation.ranking.nearest import flat_top_k as flat_top_k
    from mmtrain.evaluation.ranking.queries import QueryRanks as QueryRanks
    from mmtrain.evaluation.ranking.ranks import RetrievalRanks as RetrievalRanks
    from mmtrain.evaluation.ranking.ranks import rank_retrieval as rank_retrieval
    from mmtrain.evaluation.report.examples import Example as Example
    from mmtrain.evaluation.report.examples import Examples as Examples
    from mmtrain.evaluation.report.examples import Item as Item
    from mmtrain.evaluation.report.examples import choose_examples as choose_examples
    from mmtrain.evaluation.report.examples import report_parts as report_parts
    from mmtrain.evaluation.report.examples import score_histogram as score_histogram
    from mmtrain.evaluation.report.figures import report_figures as report_figures
    from mmtrain.evaluation.report.report import write_metrics as write_metrics
    from mmtrain.evaluation.report.report import write_report as write_report

HOMES = {
    "metrics.bootstrap": ("paired_bootstrap",),
    "metrics.consistency": ("language_similarity", "mean_rank_variance", "rank_correlation"),
    "metrics.retrieval": ("retrieval_metrics", "summarise"),
    "ranking.graded": ("rank_graded",),
    "ranking.nearest": ("flat_top_k",),
    "ranking.queries": ("QueryRanks",),
    "ranking.ranks": ("RetrievalRanks", "rank_retrieval"),
    "report.examples": ("Example", "Examples", "Item", "choose_examples", "report_parts", "score_histogram"),
    "report.figures": ("report_figures",),
    "report.report": ("write_metrics", "write_report"),
}
__getattr__, __all__ = lazy(__name__, {f"{__name__}.{module}": names for module, names in HOMES.items()})
