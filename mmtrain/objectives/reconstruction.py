"""Masked words and patches, restored with the help of a row: what the row of several inputs must not forget (Coral).

Letters: B samples, n texts or pictures of each, L tokens of one, S words and P patches of all, W width, D dimensions.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from datamodules.batch import Batch
from losses import Embeddings, Objective, linear_token_loss
from losses.engine.distributed import default_group, global_sum, total
from losses.objective import field_of
from mmtrain.fusion.decoder import sines
from mmtrain.models.batches import PICTURES
from mmtrain.models.image_text import ImageTextModel
from mmtrain.objectives.vocabulary import special_ids


class Restored(NamedTuple):
    """The tokens of one side, query or target, of B samples.

    Attributes:
        words: int64 [B, S], ids of the texts' tokens.
        there: bool [B, S], those that are no special ones.
        patches: float [B, P, Wi], the image tower's tokens of all pictures, without gradient.
        seen: bool [B, P], which there are.
    """

    words: Tensor
    there: Tensor
    patches: Tensor
    seen: Tensor


class Reconstruction(Objective):
    """l1 L_reg + l2 L_rec of Coral (MERIT, Chow et al. 2025), beside a contrast of the same rows.

    Of the tokens of a text and its pictures a share is masked, and one transformer layer, which reads them all and a
    row, restores them: patches as the image tower gives them, by the mean squared error, words by the cross-entropy.
    L_rec has the side's own row, L_reg the row of the other side: the query's row restores the target, and the reverse.
    Each is the sum over both sides of both errors. The layer is in no export. The paper's layer reads a language
    model's embeddings of words; ours has embeddings of its own, whose weights also predict the words, since the
    features of a text tower have seen the masked one. The paper's weights and rates are not known to us.

    Args:
        queries: The field of the queries' texts, which a model with a `composition` reads with its pictures.
        targets: That of what they look for.
        mask_rate: Share of the tokens that are masked, 0 to 1.
        l1: Weight of L_reg.
        l2: Weight of L_rec.
        width: W; None for the text tower's.
        heads: They divide W; None for W / 64.

    Raises:
        ValueError: for a number out of range, a model without a composition, a tokenizer without ids.
    """

    special: Tensor
    words: nn.Embedding

    def __init__(
        self,
        queries: str = "query",
        targets: str = "positive",
        mask_rate: float = 0.5,
        l1: float = 1.0,
        l2: float = 1.0,
        width: int | None = None,
        heads: int | None = None,
    ) -> None:
        super().__init__()
        if not 0 < mask_rate <= 1:
            raise ValueError(f"mask_rate: got {mask_rate}, expected a share above 0, up to 1")
        if min(l1, l2) < 0:
            raise ValueError(f"l1, l2: got {l1} and {l2}, expected weights of 0 or more")
        self.queries, self.targets, self.mask_rate, self.l1, self.l2 = queries, targets, mask_rate, l1, l2
        self.width, self.heads = width, heads
        self.needs = frozenset({queries, targets})
        self.register_buffer("special", torch.zeros(0, dtype=torch.int64), persistent=False)
        self._errors: dict[str, Tensor] = {}

    def connect(self, model: ImageTextModel) -> None:
        if model.composer is None or model.image is None:
            raise ValueError("Reconstruction: the model composes nothing; set model.composition to a ComposedQuery")
        width = self.width = self.width or model.text.width
        heads = self.heads = self.heads or max(width // 64, 1)
        if width % heads:
            raise ValueError(f"heads: got {heads}, expected a divisor of the width {width}")
        self.row_in = nn.Linear(model.dimension, width)
        self.patch_in = nn.Sequential(nn.LayerNorm(model.image.width), nn.Linear(model.image.width, width))
        self.patch_mask = nn.Parameter(torch.randn(width) * width**-0.5)
        self.layer = nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.norm = nn.LayerNorm(width)
        self.patch_out = nn.Linear(width, model.image.width)

    def prepare(self, data: Any) -> None:
        self.special = special_ids(data)
        size = data.tokenizer.vocabulary_size
        if hasattr(self, "words") and len(self.words.weight) == size + 1:
            return  # a second training of the same module
        assert self.width is not None
        self.words = nn.Embedding(size + 1, self.width)  # the last is the mask
        nn.init.normal_(self.words.weight, std=self.width**-0.5)

    def loss(self, batch: Batch, embeddings: Embeddings, model: Any) -> Tensor:
        names = self.queries, self.targets
        rows = [field_of(embeddings, name).rows[:, 0] for name in names]
        sides = [self._side(batch, embeddings, name) for name in names]
        loss = rows[0].new_zeros(())
        for name, weight, own in (("reg", self.l1, rows[::-1]), ("rec", self.l2, rows)):
            if weight:
                each = torch.stack([self.restore(side, row) for side, row in zip(sides, own, strict=True)]).sum(0)
                self._errors |= {f"{name}_pictures": each[0], f"{name}_words": each[1]}
                loss = loss + weight * each.sum()
        return loss

    def restore(self, side: Restored, row: Tensor) -> Tensor:
        """The errors of patches and words, [2], masked anew and restored with the help of rows [B, D]."""
        hide_words, hide_patches = (
            (torch.rand(there.shape).to(there.device) < self.mask_rate) & there for there in (side.there, side.seen)
        )
        words = self.words(side.words.masked_fill(hide_words, self.words.num_embeddings - 1))
        patches = self.patch_in(side.patches)
        patches = torch.where(hide_patches.unsqueeze(-1), self.patch_mask.to(patches.dtype), patches)
        read = torch.cat([words + sines(words.shape[1], words), patches + sines(patches.shape[1], patches)], 1)
        read = torch.cat([self.row_in(row.to(read.dtype))[:, None], read], 1)
        there = torch.cat([side.there.new_ones(len(row), 1), side.there, side.seen], 1)
        restored = self.norm(self.layer(read, src_key_padding_mask=~there))[:, 1:]
        of_words, of_patches = restored.split([words.shape[1], patches.shape[1]], 1)
        group = default_group()
        error = (self.patch_out(of_patches).float() - side.patches.float()).square().mean(-1)
        count = total(hide_patches.sum(), group).clamp(min=1)
        error = global_sum((error * hide_patches).sum() / count, group)
        said = linear_token_loss(of_words, self.words.weight[:-1], side.words, hide_words, group=group)
        return torch.stack([error, said])

    def _side(self, batch: Batch, embeddings: Embeddings, name: str) -> Restored:
        words, pictures = field_of(embeddings, name), embeddings.fields.get(f"{name}{PICTURES}")
        if words.tokens is None or words.tokens.ids is None or pictures is None or pictures.tokens is None:
            raise ValueError(f"data.fields: no pictures called {name}{PICTURES}, which {name} is composed with")
        ids = words.tokens.ids.flatten(1)
        there = words.tokens.mask.flatten(1) & ~torch.isin(ids, self.special)
        patches = pictures.tokens.tokens.detach()
        assert pictures.present is not None
        seen = pictures.present.unsqueeze(-1).expand(patches.shape[:3])
        return Restored(ids, there, patches.flatten(1, 2), seen.flatten(1))

    def logged(self) -> dict[str, Tensor]:
        return self._errors
