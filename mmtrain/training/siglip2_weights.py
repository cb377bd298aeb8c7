"""SigLIP 2's image tower of transformers under the names of timm's naflexvit."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

PREFIX = "vision_model."
NAMES = {
    r"^embeddings\.patch_embedding\.": "embeds.proj.",
    r"^embeddings\.position_embedding\.weight$": "embeds.pos_embed",
    r"^encoder\.layers\.": "blocks.",
    r"\.layer_norm(\d)\.": r".norm\1.",
    r"\.self_attn\.out_proj\.": ".attn.proj.",
    r"^post_layernorm\.": "norm.",
    r"^head\.probe$": "attn_pool.latent",
    r"^head\.layernorm\.": "attn_pool.norm.",
    r"^head\.attention\.out_proj\.": "attn_pool.proj.",
    r"^head\.mlp\.": "attn_pool.mlp.",
}


def by_timms_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a Siglip2Model's image tower as a NaFlexVit of timm names and shapes them."""
    theirs = {key.removeprefix(PREFIX): value for key, value in state.items() if key.startswith(PREFIX)}
    ours: dict[str, Tensor] = {}
    for key, value in theirs.items():
        kind = key.rpartition(".")[2]
        if found := re.fullmatch(rf"encoder\.layers\.(\d+)\.self_attn\.q_proj\.{kind}", key):
            parts = [theirs[key.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            ours[f"blocks.{found[1]}.attn.qkv.{kind}"] = torch.cat(parts)
        elif key.startswith("head.attention.in_proj_"):
            query, *rest = value.chunk(3)
            kind = kind.removeprefix("in_proj_")
            ours |= {f"attn_pool.q.{kind}": query, f"attn_pool.kv.{kind}": torch.cat(rest)}
        elif not re.search(r"\.[kv]_proj\.", key):
            for pattern, name in NAMES.items():
                key = re.sub(pattern, name, key)
            ours[key] = value
    if (positions := ours.get("embeds.pos_embed")) is not None:
        side = round(len(positions) ** 0.5)
        ours["embeds.pos_embed"] = positions.view(1, side, side, -1)
    return ours
