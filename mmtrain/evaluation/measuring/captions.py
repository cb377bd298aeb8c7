"""What a model's decoder says of a split: captions that it writes, and how likely it takes given answers to be."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from datamodules.batch import Batch
from losses import Embeddings
from mmtrain.display.messages import say
from mmtrain.embedding.collected import Embedded, real_captions, real_samples
from mmtrain.embedding.splits import MeasuredShards
from mmtrain.evaluation.metrics.captions import caption_metrics, check_installed
from mmtrain.models.captions import decoder_of, likelihoods, written
from mmtrain.models.encoder import Encoder


class WrittenCaptions:
    """Collects captions of every image in the measured languages that the decoder writes.

    Args:
        encoder: With a decoder.
        shards: What is measured.
        beams: Of the search.

    Raises:
        ValueError: without a decoder or sacrebleu, or when the decoder writes none of the languages.
    """

    def __init__(self, encoder: Encoder, shards: MeasuredShards, beams: int = 1) -> None:
        check_installed()
        known = decoder_of(encoder, "--generate").languages
        self.languages = [language for language in shards.languages if language in known]
        if not self.languages:
            raise ValueError(
                f"--generate: the decoder of {encoder.source} writes {', '.join(known)}, the shards have"
                f" {', '.join(shards.languages[:20])}"
            )
        if absent := [language for language in shards.languages if language not in known]:
            say(f"--generate: no captions in {', '.join(absent)}, which the decoder does not write")
        self._encoder, self._shards, self._beams = encoder, shards, beams
        self._texts: dict[str, dict[int, str]] = {language: {} for language in self.languages}

    def add(self, batch: Batch, embeddings: Embeddings) -> None:
        real = real_samples(batch)
        assert embeddings.image_tokens is not None
        tokens, absent = embeddings.image_tokens.tokens[real], embeddings.image_tokens.absent
        absent = None if absent is None else absent[real]
        for language, texts in self._texts.items():
            new = written(self._encoder, tokens, language, beams=self._beams, absent=absent)
            texts.update(zip(batch.rows[real].tolist(), new, strict=True))

    def metrics(self, split: Embedded) -> dict[str, Any]:
        """`caption_metrics` over the images of the split that people described in a language."""
        found: dict[str, list[str]] = {}
        references: dict[str, list[list[str]]] = {}
        for language, texts in self._texts.items():
            own = np.flatnonzero(split.language_of_text == self._shards.languages.index(language))
            of_image: dict[int, list[str]] = {}
            for place in own.tolist():
                of_image.setdefault(int(split.image_of_text[place]), []).append(split.captions[place])
            if of_image:
                found[language] = [texts[int(split.rows[image])] for image in of_image]
                references[language] = list(of_image.values())
        return caption_metrics(found, references)


class Answers:
    """Collects how likely the decoder takes each class's answer to be, for the caption of every pair.

    Args:
        encoder: With a decoder.
        shards: What is measured.
        templates: One a class, in which {text} stands for the caption.

    Raises:
        ValueError: without a decoder, or for a language that it does not write.
    """

    def __init__(self, encoder: Encoder, shards: MeasuredShards, templates: Sequence[str]) -> None:
        known = decoder_of(encoder, "--zero_shot_by captioner").languages
        if absent := [language for language in shards.languages if language not in known]:
            raise ValueError(
                f"--zero_shot_by captioner: the decoder writes {', '.join(known)}, not {', '.join(absent)}; --languages"
            )
        self._encoder, self._languages, self._templates = encoder, shards.languages, list(templates)
        self._parts: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, batch: Batch, embeddings: Embeddings) -> None:
        b, k = real_captions(batch)
        assert embeddings.image_tokens is not None
        tokens, absent = embeddings.image_tokens.tokens[b], embeddings.image_tokens.absent
        absent = None if absent is None else absent[b]
        captions = [batch.captions[i][j] for i, j in zip(b.tolist(), k.tolist(), strict=True)]
        languages = [self._languages[number] for number in batch.languages[b, k].tolist()]
        scores = [
            likelihoods(
                self._encoder, tokens, [template.replace("{text}", each) for each in captions], languages, absent
            )
            for template in self._templates
        ]
        self._parts.append((batch.rows[b].numpy(), torch.stack(scores, 1).cpu().numpy()))

    def probabilities(self) -> np.ndarray:
        """The softmax over the classes' log-likelihoods, float64 [M, C], in the order of the split's captions."""
        rows, scores = (np.concatenate(columns) for columns in zip(*self._parts, strict=True))
        ordered = torch.from_numpy(scores[np.argsort(rows, kind="stable")])
        return ordered.double().softmax(1).numpy()
