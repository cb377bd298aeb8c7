"""`mmtrain.load_relation`: a fine-tuned model that says how a picture and a text relate."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mmtrain.fusion import RelationHead, pair_rows
from mmtrain.models.encoder import Encoder
from mmtrain.models.image_text import ImageTextModel
from mmtrain.models.loading import load

if TYPE_CHECKING:
    from PIL import Image


class RelationClassifier:
    """A fine-tuned model with its preprocessing.

    Attributes:
        encoder: The towers and their space (`mmtrain.load` gives the same), with the head behind them.
        classes: Task -> the names of its classes.
    """

    def __init__(self, encoder: Encoder) -> None:
        self.encoder, self.classes = encoder, encoder.classes

    def predict(
        self,
        images: "Sequence[Image.Image]",
        texts: Sequence[str],
        language: str | None = None,
        *,
        batch_size: int = 64,
    ) -> dict[str, np.ndarray]:
        """Task -> probabilities float32 [N, C] of the classes, of N pairs.

        Args:
            images: N pictures, as `Encoder.encode_image` takes them.
            texts: N texts, the i-th beside the i-th picture.
            language: Of the texts, where the model needs it.
            batch_size: Pairs at once.

        Raises:
            ValueError: different numbers of pictures and texts.
        """
        if len(images) != len(texts):
            raise ValueError(f"predict: {len(images)} pictures beside {len(texts)} texts, expected as many")
        found: dict[str, list[Tensor]] = {task: [] for task in self.classes}
        index = self.encoder.languages.index(language) if language in self.encoder.languages else -1
        for start in range(0, len(texts), batch_size):
            part = slice(start, start + batch_size)
            tokens, mask = self.encoder.tokenizer(list(texts[part]), [language or ""] * len(texts[part]))
            pixels, languages = self.encoder.pixels(images[part]), torch.full((len(tokens),), index)
            batch = (pixels, tokens, mask, languages)
            for task, logits in self._logits(*(each.to(self.encoder.device) for each in batch)).items():
                found[task].append(logits.float().softmax(1).cpu())
        return {
            task: torch.cat(parts).numpy() if parts else np.zeros((0, len(self.classes[task])), np.float32)
            for task, parts in found.items()
        }

    @torch.inference_mode()
    def _logits(self, pixels: Tensor, tokens: Tensor, mask: Tensor, languages: Tensor) -> dict[str, Tensor]:
        model, head = self.encoder.model, self.encoder.head
        assert isinstance(model, ImageTextModel) and isinstance(head, RelationHead)
        images, texts, image_tokens, text_tokens = model.tokens(pixels, tokens, mask, languages)
        mask = torch.cat([mask.new_ones(len(mask), 1), mask], 1)
        return head(image_tokens, text_tokens, mask, pair_rows(images, texts))


def load_relation(
    model: str | Path, *, device: str | torch.device = "cpu", trust: Sequence[str] | None = None
) -> RelationClassifier:
    """Loads a run folder or checkpoint that `mmtrain.RelationModule` trained; the arguments are those of `load`.

    Raises:
        ValueError: for any other model.
    """
    encoder = load(model, device=device, trust=trust)
    if not encoder.classes:
        raise ValueError(f"MODEL: {model} has no relation head; mmtrain.RelationModule trains one")
    return RelationClassifier(encoder)
