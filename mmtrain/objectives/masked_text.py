"""Masked words, restored from their text alone or with the picture beside them."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from datamodules.batch import Batch
from losses import Embeddings, Objective, hard_negatives, linear_token_loss
from losses.engine.distributed import default_group
from losses.objective import image_of, slots_of
from mmtrain.fusion import Fusion
from mmtrain.models.image_text import ImageTextModel
from mmtrain.objectives.vocabulary import special_ids

MASKED, REPLACED = 0.8, 0.1  # of the tokens that are predicted; the others stay as they are


class MaskedText(Objective):
    """Cross-entropy of the masked tokens of one text a sample, drawn evenly of those that are there.

    Of the tokens that are predicted 80 % are masked, 10 % become others and 10 % stay (Devlin et al. 2019, BERT,
    section 3.1). With a `fusion` they meet the picture: CCRK's CMLM (Nie et al. 2024), M3P's MC-MLM (Ni et al. 2021).
    Without one the text tower alone says them, which parts without pictures take too (M3P's xMLM). The mean is over a
    text's predicted tokens, then over the texts of all processes.

    Args:
        fusion: The network in which texts meet pictures; the name of another objective, as an `ItmLoss`, shares its.
            None for texts alone.
        share: Of a text's tokens, special ones not counted, so many are predicted, at least one.
        most: At most so many; None for no limit.
        mask_id: What a masked token becomes; None for the tokenizer's own.
        texts: What is read: "texts" or the name of a field of texts.

    Raises:
        ValueError: for a share out of range, a fusion without tokens, an unknown name.
    """

    special: Tensor
    words: Tensor
    output: nn.Linear

    def __init__(
        self,
        fusion: Fusion | str | None = None,
        share: float = 0.15,
        most: int | None = None,
        mask_id: int | None = None,
        texts: str = "texts",
    ) -> None:
        super().__init__()
        if not 0 < share <= 1 or (most is not None and most < 1):
            raise ValueError(f"share, most: got {share} and {most}, expected a share above 0, and at least 1 token")
        self.fusion, self.share, self.most, self.mask_id, self.texts = fusion, share, most, mask_id, texts
        self.needs = frozenset({texts} if fusion is None else {texts, "image", "tokens"})
        self._fusion: list[Fusion] = [fusion] if isinstance(fusion, Fusion) else []  # another's is no part of this one
        for name in ("special", "words"):
            self.register_buffer(name, torch.zeros(0, dtype=torch.int64), persistent=False)

    def meet(self, objectives: Mapping[str, Objective]) -> None:
        if isinstance(self.fusion, str):
            other = getattr(objectives.get(self.fusion), "fusion", None)
            fusion = getattr(other, "fusion", other)
            if not isinstance(fusion, Fusion):
                raise ValueError(
                    f"MaskedText.fusion: got {self.fusion}, expected a fusion encoder or an objective that has one:"
                    f" {', '.join(objectives)}"
                )
            self._fusion = [fusion]

    def connect(self, model: ImageTextModel) -> None:
        self._width = model.text.width
        for fusion in self._fusion:
            if fusion.reads_rows:
                raise ValueError(
                    f"MaskedText.fusion: {type(fusion).__name__} sees no tokens; CrossAttentionFusion does"
                )
            assert model.image is not None
            self._width = fusion.connect(model.image.width, model.text.width).width

    def prepare(self, data: Any) -> None:
        tokenizer, self.special = data.tokenizer, special_ids(data)
        size, name = tokenizer.vocabulary_size, type(tokenizer).__name__
        self._mask_id = tokenizer.mask_id if self.mask_id is None else self.mask_id
        if self._mask_id is None:
            raise ValueError(f"MaskedText.mask_id: {name} has no mask token; an id of its {size} that no text has")
        if not 0 <= self._mask_id < size:
            raise ValueError(f"MaskedText.mask_id: got {self._mask_id}, {name} has ids from 0 to {size - 1}")
        every = torch.arange(size)
        self.words = every[~torch.isin(every, self.special)]
        if hasattr(self, "output") and len(self.output.weight) == size:
            return  # a second training of the same module
        self.transform = nn.Sequential(nn.Linear(self._width, self._width), nn.GELU(), nn.LayerNorm(self._width))
        self.output = nn.Linear(self._width, size, bias=False)
        nn.init.zeros_(self.output.weight)

    def loss(self, batch: Batch, embeddings: Embeddings, model: ImageTextModel) -> Tensor:
        tokens, mask, languages, present = self._read(batch, embeddings)
        slots = hard_negatives(torch.zeros_like(present, dtype=torch.float32), ~present)  # one of each sample's texts
        samples = (slots >= 0).nonzero()[:, 0]
        count = len(samples)
        if not count:  # any text, which does not count: the networks take part on every process
            samples = slots.new_zeros(1)
        own = samples, slots[samples].clamp(min=0)
        tokens, mask, languages = tokens[own], mask[own], languages[own]
        read, chosen = self.masked(tokens, mask)
        adapters = None if batch.adapters is None else batch.adapters[samples]
        rows, images = slots_of(embeddings, self.texts).rows.sum(), None
        if self._fusion:
            assert embeddings.image_tokens is not None
            images = embeddings.image_tokens.whole()[samples]
            rows = rows + image_of(embeddings).sum()
        features = self.features(model, read, mask, languages, images, adapters)
        loss = linear_token_loss(features, self.output.weight, tokens, chosen & (count > 0), group=default_group())
        return loss + 0 * rows  # other processes wait for the projections, also where this is the only objective

    def features(
        self,
        model: ImageTextModel,
        tokens: Tensor,
        mask: Tensor,
        languages: Tensor,
        images: Tensor | None = None,
        adapters: Tensor | None = None,
    ) -> Tensor:
        """What `output` tells the words from, float [N, L, W], of texts [N, L] with masked tokens and, where there is a
        fusion, of their pictures' token features [N, 1 + P, Wi], the pooled one first.
        """
        text = model.text_tokens(tokens, mask, languages, adapters)
        features = text[:, 1:]
        for fusion in self._fusion:
            assert images is not None
            features = fusion.tokens(images[:, 0], images[:, 1:], text[:, 0], features, mask)[:, 1:]
        return self.transform(features)

    def masked(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """What the text tower reads in place of tokens [N, L], and which of them it is to predict."""
        words = mask & ~torch.isin(tokens, self.special)
        count = words.sum(1)
        predicted = (self.share * count).round().clamp(min=1, max=self.most).minimum(count)
        draws, how = torch.rand(2, *tokens.shape, device=tokens.device)
        chosen = draws.masked_fill(~words, torch.inf).argsort(1).argsort(1) < predicted[:, None]
        others = self.words[torch.randint(len(self.words), tokens.shape, device=tokens.device)]
        read = torch.where(chosen & (how < MASKED), self._mask_id, tokens)
        return torch.where(chosen & (how >= 1 - REPLACED), others, read), chosen

    def _read(self, batch: Batch, embeddings: Embeddings) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Tokens [B, n, L], their mask, the texts' languages [B, n] and which texts there are."""
        if self.texts == "texts":
            assert embeddings.present is not None
            return batch.tokens, batch.token_mask, batch.languages, embeddings.present
        field = batch.fields[self.texts]
        if field.mask is None or field.languages is None:
            raise ValueError(f"MaskedText.texts: {self.texts} holds {field.kind}, expected texts")
        return field.values, field.mask, field.languages, field.present
