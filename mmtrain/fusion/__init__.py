"""Networks behind both towers: fusion encoders and the heads on them."""

from mmtrain.fusion.encoders import (
    ConcatFusion,
    CrossAttentionFusion,
    Fusion,
    RowFusion,
    TextToImageAttention,
    fuse,
    pair_rows,
)
from mmtrain.fusion.heads import MatchingHead, RelationHead

__all__ = [
    "ConcatFusion",
    "CrossAttentionFusion",
    "Fusion",
    "MatchingHead",
    "RelationHead",
    "RowFusion",
    "TextToImageAttention",
    "fuse",
    "pair_rows",
]
