"""The model of an index, and a text or an image as a row of it."""

import io
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from datamodules import TransformersTokenizer, WordTokenizer
from datamodules.images import ImageTooLarge
from mmtrain.display.messages import first_line, say
from mmtrain.embedding.processes import default_device
from mmtrain.models.adapter_folder import is_adapter_folder, use_adapter
from mmtrain.models.encoder import Encoder
from mmtrain.models.fingerprint import fingerprint, stamp
from mmtrain.models.loading import is_ours, load
from mmtrain.search.index import SearchIndex
from mmtrain.search.results import Query, Result

Picture = Image.Image | np.ndarray  # or features, of a model that reads those


def open_model(
    index: SearchIndex,
    model: str | None = None,
    device: str | None = None,
    *,
    text_only: bool = False,
    trust: Sequence[str] | None = None,
    adapter: str | None = None,
) -> Encoder:
    """The model that made the index.

    Args:
        model: Where it is now; default: where it was, if that is on this machine and ours.
        device: Default: cuda where there is one.
        text_only: Load the text side alone, where the files' size and time say that it is the same model.
        trust: Modules whose classes the model may name.
        adapter: What reads queries, as of `mmtrain.load`; default: what read the pictures.

    Raises:
        ValueError: when it is not there, or is another one, or has no such adapter.
    """
    name = model or str(index.description["model"])
    if model is None and not is_ours(name):
        raise ValueError(
            f"{index.folder} was built by {name}, which is no run or export on this machine, and an index loads nothing"
            " else by itself; say with --model where it is now"
        )
    unchanged = index.description.get("weights") is not None and stamp(name) == index.description["weights"]
    own = index.description.get("adapter")
    text_only &= unchanged and not any(is_adapter_folder(each) for each in (own, adapter) if each is not None)
    try:
        encoder = load(name, device=device or default_device(), text_only=text_only, trust=trust, adapter=own)
    except ValueError as error:
        if model is not None:
            raise
        raise ValueError(f"{error}; the index was built by it: say with --model where it is now") from error
    expected = index.description["fingerprint"]
    if not unchanged and (actual := fingerprint(encoder)) != expected:
        raise ValueError(
            f"{index.folder} was built by other weights (fingerprint {expected}) than those of {name} ({actual}); name"
            " the model that built it with --model, or index again"
        )
    if adapter is not None:
        use_adapter(encoder, adapter)
    return encoder.to(encoder.device)  # weights of a folder too


def query_row(encoder: Encoder, query: Query) -> np.ndarray:
    """A query as float32 [1, D]; one of several inputs is composed of them as the model does.

    A note on stderr says when the model was not trained on its language. Raises ValueError for an input that cannot be
    read, or is none of the model's.
    """
    if query.text is not None:
        check_text(encoder, query.text, query.language)
        note_untrained(encoder, query.language)
    pictures, features = [_opened(encoder, file) for file in query.images], {}
    for name, file in query.features.items():
        try:
            features[name] = np.load(file, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise ValueError(f"--features: {file} cannot be read ({first_line(error)}); a .npy of numbers") from error
    asked = {"text": query.text, "language": query.language, "role": "query"}
    return encoder.encode_queries([asked | {"images": pictures, "features": features}])


def find(index: SearchIndex, row: np.ndarray, k: int, tokens: np.ndarray | None = None) -> list[Result]:
    """The k items nearest to a query's row [1, D], best first; fewer where the index proposes or has fewer.

    Given token rows [L, d], they rank the candidates, by late interaction.
    """
    if tokens is None:
        scores, numbers = (each[0] for each in index.search(row, k))
    else:
        scores, numbers = index.search_late(row, tokens, k)
    valid = numbers >= 0
    items = index.items.read(numbers[valid])
    return [Result(float(score), item) for score, item in zip(scores[valid], items, strict=True)]


def text_tokens(encoder: Encoder, index: SearchIndex, text: str, language: str | None = None) -> np.ndarray | None:
    """Token rows [L, d] of a text; None where the index has none to compare them with."""
    if index.tokens is None:
        return None
    return encoder.encode_text([text], language, multi=True, role="query")[0]


def note_untrained(encoder: Encoder, language: str | None) -> None:
    """Says on stderr when the model was not trained on a language."""
    languages = encoder.languages
    if language is not None and languages and language not in languages:
        say(f"note: the model was not trained on {language}; it was on {', '.join(languages)}", file=sys.stderr)


def check_text(encoder: Encoder, text: str, language: str | None) -> None:
    """Whether the model can read a text.

    Raises ValueError for an empty text, one without a word that the tokenizer knows, or a language that the model needs
    and does not have.
    """
    if not text.strip():
        raise ValueError(f"text: got {text!r}, expected words to search for")
    languages = encoder.languages
    own_words = isinstance(encoder.tokenizer, WordTokenizer) and WordTokenizer.SHARED not in encoder.tokenizer.words
    if language not in languages and (own_words or encoder.model.reads_by_language):
        raise ValueError(
            f"--language: {'the model needs one' if language is None else f'got {language}'}; it reads each language by"
            f" itself, {', '.join(languages)}"
        )
    if not _knows(encoder, text, language):
        where = f" in {language}" if language else ""
        raise ValueError(f"search: the model's tokenizer knows nothing of {text!r}{where}; other words")


def _opened(encoder: Encoder, path: Path) -> Picture:
    """A file, as `opened`."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"--image: {path} cannot be read ({error.strerror}); a picture's file") from error
    try:
        return opened(encoder, content)
    except ValueError as error:
        raise ValueError(f"--image: {path} is {error}") from error


def opened(encoder: Encoder, content: bytes) -> Picture:
    """A file's content as the model reads it: a picture, or .npy features [F] or [1, F].

    Raises ValueError for any other.
    """
    if encoder.images is None:
        try:
            features = np.load(io.BytesIO(content), allow_pickle=False).reshape(-1)
            encoder.encode_image(features[None])
            return features
        except Exception as error:  # numpy and the model raise whatever a foreign file makes them stumble over
            reason = first_line(error)
            raise ValueError(f"no .npy of features that the model reads ({reason})") from error
    try:
        image = encoder.images.open(content)
        encoder.pixels([image])  # decodes it
        return image
    except ImageTooLarge as error:
        raise ValueError(f"too large ({error})") from error
    except ValueError as error:
        raise ValueError("no picture that can be read; JPEG, PNG, WebP, ...") from error


def _knows(encoder: Encoder, text: str, language: str | None) -> bool:
    """Whether the tokenizer makes more of the text than special and unknown tokens, where it can say so."""
    tokenizer = encoder.tokenizer
    ids, mask = tokenizer([text], [language or ""])
    if isinstance(tokenizer, WordTokenizer):
        return bool((ids >= tokenizer.FIRST_WORD).any())
    if isinstance(tokenizer, TransformersTokenizer):
        special = torch.tensor(tokenizer.tokenizer.all_special_ids)
        return bool((mask & ~torch.isin(ids, special)).any())
    return True
