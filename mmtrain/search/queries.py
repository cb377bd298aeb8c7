"""The model of an index, and a text or a picture as a row of it."""

import io
import sys
from pathlib import Path

import numpy as np
import torch

from datamodules import TransformersTokenizer, WordTokenizer
from mmtrain.display.messages import first_line
from mmtrain.embedding.processes import default_device
from mmtrain.models.encoder import Encoder
from mmtrain.models.fingerprint import fingerprint, stamp
from mmtrain.models.loading import load
from mmtrain.search.index import SearchIndex


def open_model(
    index: SearchIndex, model: str | None = None, device: str | None = None, *, text_only: bool = False
) -> Encoder:
    """The model that made the index, from where it lay then or from `model`.

    Args:
        index: The index.
        model: Where its model is now; default: where it was.
        device: Default: cuda where there is one.
        text_only: Load the text side alone, where the files' size and time say that it is the same model.

    Raises:
        ValueError: when it is not there, or is another one.
    """
    made_by = index.description["model"]
    name, place = model or made_by, device or default_device()
    known = index.description.get("weights") is not None and stamp(name) == index.description["weights"]
    try:
        encoder = load(name, device=place, text_only=text_only and known)
    except ValueError as error:
        if model is not None:
            raise
        raise ValueError(f"{error}; the index was built by it: say with --model where it is now") from error
    if known:
        return encoder
    marked, expected = fingerprint(encoder), index.description["fingerprint"]
    if marked != expected:
        raise ValueError(
            f"{index.folder} was built by other weights (fingerprint {expected}) than those of {name} ({marked}); name"
            " the model that built it with --model, or index again"
        )
    return encoder


def encode_words(encoder: Encoder, text: str, language: str | None = None) -> np.ndarray:
    """A text as float32 [1, D]; says on stderr when the model was not trained on its language.

    Raises:
        ValueError: for an empty text, one that the tokenizer knows nothing of, or a language that the model needs and
            does not have.
    """
    if not text.strip():
        raise ValueError(f"text: got {text!r}, expected words to search for")
    known = encoder.languages
    needed = encoder.model.reads_by_language
    own_words = isinstance(encoder.tokenizer, WordTokenizer) and WordTokenizer.SHARED not in encoder.tokenizer.words
    if language not in known and (needed or own_words):
        raise ValueError(
            f"--language: {'the model needs one' if language is None else f'got {language}'}; it reads each language by"
            f" itself, {', '.join(known)}"
        )
    if not _knows(encoder, text, language):
        raise ValueError(f"search: the model's tokenizer knows nothing of {text!r}{_in(language)}; other words")
    if language is not None and known and language not in known:
        print(f"note: the model was not trained on {language}; it was on {', '.join(known)}", file=sys.stderr)
    return encoder.encode_text([text], language=language)


def encode_picture(encoder: Encoder, path: Path) -> np.ndarray:
    """A picture's file as float32 [1, D]; a .npy [F] or [1, F] where the model reads features.

    Raises:
        ValueError: when it cannot be read, or is of the wrong kind.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"--image: {path} cannot be read ({error.strerror}); a picture's file") from error
    if encoder.images is None:
        try:
            features = np.load(io.BytesIO(content), allow_pickle=False)
            return encoder.encode_image(features.reshape(1, -1))
        except (ValueError, OSError, EOFError, RuntimeError) as error:
            raise ValueError(
                f"--image: {path} is no .npy of features that the model reads ({first_line(error)})"
            ) from error
    try:
        return encoder.encode_image([encoder.images.open(content)])
    except ValueError as error:
        raise ValueError(f"--image: {path} is no picture that can be read; JPEG, PNG, WebP, ...") from error


def _knows(encoder: Encoder, text: str, language: str | None) -> bool:
    """Whether the tokenizer makes more of the text than special and unknown tokens, where it can say so."""
    tokenizer = encoder.tokenizer
    if isinstance(tokenizer, WordTokenizer):
        ids, _ = tokenizer([text], [language or ""])
        return bool((ids >= tokenizer.FIRST_WORD).any())
    if isinstance(tokenizer, TransformersTokenizer):
        ids, mask = tokenizer([text], [language or ""])
        special = torch.tensor(tokenizer.tokenizer.all_special_ids)
        return bool((mask & ~torch.isin(ids, special)).any())
    return True


def _in(language: str | None) -> str:
    return f" in {language}" if language else ""
