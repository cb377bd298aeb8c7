"""Relations without any training: by how similar picture and text are, and by prompts about both."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmtrain.encoder import Encoder

RISING = ("represented",)  # tasks whose last class is that of the most similar pairs


def similarity_probabilities(
    scores: np.ndarray, languages: np.ndarray, classes: int, *, rising: bool = False
) -> np.ndarray:
    """Classes in the order of similarity: the most similar pairs of a language get class 0, the least the last one.

    Without labels there is no threshold to learn; each class gets an equal share of the pairs.

    Args:
        scores: float [N], similarity of picture and text.
        languages: [N]; scores are compared within a language, since languages differ in how similar anything is.
        classes: C.
        rising: The other way round: the most similar pairs get the last class.

    Returns:
        float64 [N, C], 1 at the class.
    """
    chosen = np.zeros(len(scores), np.int64)
    scores = -scores if rising else scores
    for language in set(languages.tolist()):
        places = np.flatnonzero(languages == language)
        order = places[np.argsort(-scores[places], kind="stable")]
        chosen[order] = np.arange(len(order)) * classes // len(order)
    return np.eye(classes)[chosen]


def prompt_probabilities(
    encoder: Encoder,
    images: np.ndarray,
    captions: Sequence[str],
    languages: np.ndarray,
    templates: Sequence[str],
) -> np.ndarray:
    """The softmax over the similarities of a picture and each class's prompt (CLIP's zero-shot, Radford et al. 2021).

    Args:
        images: float32 [N, D], rows of the space.
        captions: N texts, which stand for {text} in a template.
        languages: [N], codes.
        templates: One a class.

    Returns:
        float32 [N, C].
    """
    scores = np.empty((len(captions), len(templates)), np.float32)
    for language in set(languages.tolist()):
        places = np.flatnonzero(languages == language)
        for column, template in enumerate(templates):
            texts = encoder.encode_text([template.replace("{text}", captions[i]) for i in places], language)
            scores[places, column] = (images[places] * texts).sum(1)
    scores *= encoder.scale or 100.0
    scores = np.exp(scores - scores.max(1, keepdims=True))
    return scores / scores.sum(1, keepdims=True)


def read_prompts(path: str | Path) -> dict[str, str]:
    """Class -> template of a JSON file.

    Raises:
        ValueError: one line, for a file that is no such object.
    """
    try:
        prompts = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"--prompts: {path} cannot be read ({str(error).splitlines()[0]})") from error
    if not isinstance(prompts, dict) or not all(isinstance(text, str) for text in prompts.values()):
        raise ValueError(f'--prompts: {path} is no object of strings, such as {{"0": "a picture of {{text}}"}}')
    return prompts
