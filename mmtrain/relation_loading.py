"""`mmtrain.load_relation`: a fine-tuned model that says how a picture and a text relate; and any model's fusion."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from mmtrain.checkpoints import checkpoint_of, describe, read_checkpoint
from mmtrain.encoder import Encoder
from mmtrain.fusion import Fusion, MatchingHead
from mmtrain.loading import load
from mmtrain.relation_head import RelationHead
from mmtrain.spec import build

if TYPE_CHECKING:
    from PIL import Image


class RelationClassifier:
    """A fine-tuned model with its preprocessing.

    Attributes:
        encoder: The towers and their space (`mmtrain.load` gives the same).
        head: The network behind them, in evaluation mode.
        classes: Task -> the names of its classes.
    """

    def __init__(self, encoder: Encoder, head: RelationHead, classes: dict[str, list[str]]) -> None:
        self.encoder, self.head, self.classes = encoder, head, classes

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
            judged, _ = self.judge(pixels, tokens, mask, languages, torch.arange(len(tokens)))
            for task, rows in judged.items():
                found[task].append(rows)
        return {
            task: torch.cat(parts).numpy() if parts else np.zeros((0, len(self.classes[task])), np.float32)
            for task, parts in found.items()
        }

    @torch.inference_mode()
    def judge(
        self, pixels: Tensor, tokens: Tensor, mask: Tensor, languages: Tensor, image_of_text: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Task -> probabilities float32 [N, C], and the pairs' cosines [N] before the fusion, on the CPU.

        Args:
            pixels: Pictures or features [B, ...].
            tokens, mask, languages: N texts [N, L], [N, L], [N].
            image_of_text: int64 [N], the picture beside each text.
        """
        device = self.encoder.device
        found = self.encoder.model.tokens(*(each.to(device) for each in (pixels, tokens, mask, languages)))
        image = image_of_text.to(device)
        led = torch.cat([mask.new_ones(len(mask), 1), mask], 1).to(device)
        logits = self.head(found["image_tokens"][image], found["text_tokens"], led)
        cosine = (found["image"][image] * found["text"]).sum(1)
        return {task: each.float().softmax(1).cpu() for task, each in logits.items()}, cosine.float().cpu()


def load_relation(model: str | Path, *, device: str | torch.device = "cpu") -> RelationClassifier:
    """Loads a run folder or checkpoint that `mmtrain.RelationModule` trained.

    Raises:
        ValueError: for any other model.
    """
    encoder = load(model, device=device)
    classifier = relation_of(model, encoder)
    if classifier is None:
        raise ValueError(f"MODEL: {model} has no relation head; mmtrain.RelationModule trains one")
    return classifier


def relation_of(model: str | Path, encoder: Encoder) -> RelationClassifier | None:
    """The classifier around an encoder that was loaded from the same place; None where no head was trained."""
    head = load_head(model, encoder)
    return RelationClassifier(encoder, head, head.names) if isinstance(head, RelationHead) else None


def load_head(model: str | Path, encoder: Encoder) -> RelationHead | MatchingHead | None:
    """The network behind the towers of a checkpoint, in evaluation mode; None where there is none."""
    path = checkpoint_of(Path(model))
    if path is None:
        return None
    checkpoint = read_checkpoint(path)
    description = describe(checkpoint)["model"]
    if "relation" in description:
        facts, prefix = description["relation"], "head."
        head: nn.Module = RelationHead(build(facts["fusion"], Fusion), facts["names"], facts["matching"])
    elif "matching" in description:
        prefix = f"{description['matching']['name']}."
        head = MatchingHead(build(description["matching"]["fusion"], Fusion))
    else:
        return None
    weights = checkpoint["state_dict"].items()
    head.load_state_dict({name.removeprefix(prefix): each for name, each in weights if name.startswith(prefix)})
    return head.to(encoder.device).eval().requires_grad_(False)
