"""Exact retrieval figures in every language, and a report that shows them."""

from mmtrain.evaluation.bootstrap import paired_bootstrap
from mmtrain.evaluation.consistency import language_similarity, mean_rank_variance, rank_correlation
from mmtrain.evaluation.examples import Example, Examples, Item, choose_examples, report_parts, score_histogram
from mmtrain.evaluation.figures import report_figures
from mmtrain.evaluation.nearest import flat_top_k
from mmtrain.evaluation.queries import QueryRanks
from mmtrain.evaluation.ranks import RetrievalRanks, rank_retrieval
from mmtrain.evaluation.report import write_metrics, write_report
from mmtrain.evaluation.retrieval import retrieval_metrics, summarise

__all__ = [
    "Example",
    "Examples",
    "Item",
    "QueryRanks",
    "RetrievalRanks",
    "choose_examples",
    "flat_top_k",
    "language_similarity",
    "mean_rank_variance",
    "paired_bootstrap",
    "rank_correlation",
    "rank_retrieval",
    "report_figures",
    "report_parts",
    "retrieval_metrics",
    "score_histogram",
    "summarise",
    "write_metrics",
    "write_report",
]
