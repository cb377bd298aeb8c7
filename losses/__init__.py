"""The mathematics of mmtrain: contrastive objectives, exact on any number of processes, flat in memory."""

from losses.asymmetric import asymmetric_similarity
from losses.clip import ClipLoss, clip_loss
from losses.cosent import CosentLoss, cosent_loss
from losses.distillation import (
    ListDistillationLoss,
    ScoreDistillationLoss,
    distillation_loss,
    list_distillation_loss,
    score_distillation_loss,
)
from losses.embeddings import Embeddings, FieldEmbeddings, MultiEmbeddings, TokenFeatures
from losses.engine.cache import micro_batched
from losses.guide import GuideModel, GuideRows
from losses.info_nce import InfoNceLoss, info_nce_loss
from losses.itm import ItmLoss, hard_negatives, itm_loss
from losses.matryoshka import MatryoshkaLoss
from losses.maxsim import LateInteractionLoss, late_interaction, late_interaction_loss
from losses.objective import Objective
from losses.one_to_k import OneToKLoss, one_to_k_loss
from losses.pivot import PivotRankingLoss, pivot_ranking_loss
from losses.self_distillation import self_distillation_loss
from losses.siglip import SiglipLoss, siglip_loss
from losses.symile import SymileLoss, symile_loss
from losses.tokens import linear_token_loss, token_loss
from losses.triplets import M3lLoss, PatrLoss, m3l_loss, patr_loss

__all__ = [
    "ClipLoss",
    "CosentLoss",
    "Embeddings",
    "FieldEmbeddings",
    "GuideModel",
    "GuideRows",
    "InfoNceLoss",
    "ItmLoss",
    "LateInteractionLoss",
    "ListDistillationLoss",
    "M3lLoss",
    "MatryoshkaLoss",
    "MultiEmbeddings",
    "Objective",
    "OneToKLoss",
    "PatrLoss",
    "PivotRankingLoss",
    "ScoreDistillationLoss",
    "SiglipLoss",
    "SymileLoss",
    "TokenFeatures",
    "asymmetric_similarity",
    "clip_loss",
    "cosent_loss",
    "distillation_loss",
    "hard_negatives",
    "info_nce_loss",
    "itm_loss",
    "late_interaction",
    "late_interaction_loss",
    "linear_token_loss",
    "list_distillation_loss",
    "m3l_loss",
    "micro_batched",
    "one_to_k_loss",
    "patr_loss",
    "pivot_ranking_loss",
    "score_distillation_loss",
    "self_distillation_loss",
    "siglip_loss",
    "symile_loss",
    "token_loss",
]
