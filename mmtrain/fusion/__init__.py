"""Networks behind the towers: fusion encoders, the heads on them, and a decoder of captions."""

from mmtrain.fusion.decoder import CaptionDecoder
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
    "CaptionDecoder",
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
