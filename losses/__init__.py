"""The mathematics of mmtrain: contrastive objectives, exact on any number of processes, flat in memory."""

from losses.asymmetric import asymmetric_similarity
from losses.clip import ClipLoss, clip_loss
from losses.embeddings import Embeddings, FieldEmbeddings, TokenFeatures
from losses.engine.cache import micro_batched
from losses.itm import ItmLoss, hard_negatives, itm_loss
from losses.matryoshka import MatryoshkaLoss
from losses.objective import Objective
from losses.one_to_k import OneToKLoss, one_to_k_loss
from losses.pivot import PivotRankingLoss, pivot_ranking_loss
from losses.siglip import SiglipLoss, siglip_loss
from losses.symile import SymileLoss, symile_loss

__all__ = [
    "ClipLoss",
    "Embeddings",
    "FieldEmbeddings",
    "ItmLoss",
    "MatryoshkaLoss",
    "Objective",
    "OneToKLoss",
    "PivotRankingLoss",
    "SiglipLoss",
    "SymileLoss",
    "TokenFeatures",
    "asymmetric_similarity",
    "clip_loss",
    "hard_negatives",
    "itm_loss",
    "micro_batched",
    "one_to_k_loss",
    "pivot_ranking_loss",
    "siglip_loss",
    "symile_loss",
]
