"""Captions written from a picture's patches: CapPa, and the decoder of SigLIP 2."""

from typing import Any

import torch
from torch import Tensor

from datamodules.batch import Batch
from losses import Embeddings, Objective, linear_token_loss
from losses.engine.distributed import default_group
from losses.objective import image_of, texts_of
from mmtrain.fusion import CaptionDecoder
from mmtrain.fusion.decoder import contents
from mmtrain.models.image_text import ImageTextModel
from mmtrain.objectives.vocabulary import special_ids


class Captioner(Objective):
    """Cross-entropy of every present caption, token by token, given the un-pooled tokens of its picture.

    The mean over a caption's tokens and its end, then over the captions of all processes: Tschannen et al., "Image
    Captioners Are Scalable Vision Learners Too", NeurIPS 2023. The logits of large vocabularies come in tiles.

    Args:
        decoder: The network; None for one of the text tower's width and half its layers.
        parallel: Probability with which a caption is predicted all at once, from the picture alone.

    Raises:
        ValueError: for a probability out of range.
    """

    needs = frozenset({"image", "texts", "tokens"})
    special: Tensor

    def __init__(self, decoder: CaptionDecoder | None = None, parallel: float = 0.5) -> None:
        super().__init__()
        if not 0 <= parallel <= 1:
            raise ValueError(f"parallel: got {parallel}, expected a probability")
        self.decoder, self.parallel = decoder or CaptionDecoder(), parallel
        self.register_buffer("special", torch.zeros(0, dtype=torch.int64), persistent=False)

    def connect(self, model: ImageTextModel) -> None:
        self.decoder.connect(model)

    def prepare(self, data: Any) -> None:
        self.special = special_ids(data)
        self.decoder.build(data.tokenizer.vocabulary_size, data.languages)

    def loss(self, batch: Batch, embeddings: Embeddings, model: Any) -> Tensor:
        images, present = embeddings.image_tokens, embeddings.present
        assert images is not None and present is not None
        if images.tokens.shape[1] < 2:
            raise ValueError(
                "model.image: it gives one token a picture, and a captioner reads patches; a tower with more, such as a"
                " vision transformer"
            )
        rows, slots = present.nonzero(as_tuple=True)
        count = len(rows)
        if not count:  # any caption, which does not count: the decoder takes part on every process
            rows = slots = present.new_zeros(1, dtype=torch.int64)
        tokens, mask = contents(batch.tokens[rows, slots], batch.token_mask[rows, slots], self.special)
        languages = batch.languages[rows, slots].clamp(min=0)
        parallel = (torch.rand(len(rows)) < self.parallel).to(rows.device)  # the step's own numbers, on any device
        absent = None if images.absent is None else images.absent[rows]
        features = self.decoder(images.tokens[rows], languages, tokens, mask, parallel, absent)
        ids, there = self.decoder.targets(tokens, mask)
        loss = linear_token_loss(features, self.decoder.output.weight, ids, there & (count > 0), group=default_group())
        # other processes wait for the projections and the text tower, also where this is the only objective
        return loss + 0 * (image_of(embeddings).sum() + texts_of(embeddings).sum())
