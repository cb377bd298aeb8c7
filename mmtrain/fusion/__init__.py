"""Networks behind the towers: fusion encoders, the heads on them, a decoder of captions, and composed queries."""

from mmtrain.fusion.composed_query import ComposedQuery
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
    "ComposedQuery",
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
