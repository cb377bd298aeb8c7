"""`mmtrain search`: a text in any language, or a picture, and the pictures of an index that are nearest to it."""

import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from datamodules import TransformersTokenizer, WordTokenizer
from mmtrain.encoder import Encoder
from mmtrain.fingerprint import fingerprint
from mmtrain.loading import load
from mmtrain.search.index import SearchIndex
from mmtrain.search.page import write_page
from mmtrain.search.results import Query, Result, ordered, plain

SHOWN = 4  # captions of a result in the terminal


def search(
    folder: str | Path,
    text: str | None = None,
    *,
    image: str | Path | None = None,
    language: str | None = None,
    k: int = 10,
    model: str | None = None,
    as_json: bool = False,
    html: str | Path | None = None,
    device: str | None = None,
) -> list[Result]:
    """Searches the index folder `folder`, prints what was found, and returns it, best first.

    Args:
        text: A text in any language; or
        image: a picture's file (a .npy of features where the model reads those).
        language: The text's language, for models that need it; its captions are shown first, then those
            of the languages that the model was trained on.
        k: How many pictures are wanted.
        model: Where the index's model lies now; default: where it lay when the index was built.
        as_json: Print JSON instead of a table.
        html: Also write the results as a page that opens offline.

    Raises:
        ValueError: when there is no index, the model is another one, or the query cannot be encoded.
    """
    if (text is None) == (image is None):
        raise ValueError('search: give either a text, as in search DIR "text", or --image FILE')
    if k < 1:
        raise ValueError(f"-k: got {k}, expected at least 1")
    index = SearchIndex(folder)
    encoder = open_model(index, model, device)
    query = Query(text, language, None if image is None else Path(image))
    row = encode_picture(encoder, query.image) if query.image else encode_words(encoder, text, language)
    first = [*filter(None, [language]), *encoder.languages]
    scores, numbers = index.search(row, k)
    found = numbers[0] >= 0
    items = index.items.read(numbers[0][found])
    results = [Result(float(score), item) for score, item in zip(scores[0][found], items, strict=True)]
    if html is not None:
        write_page(Path(html), query, results, index.description, first)
    if as_json:
        print(json.dumps(plain(query, results), ensure_ascii=False, indent=1))
    else:
        _print(query, results, index, first)
        if html is not None:
            print(f"page: {html}")
    return results


def open_model(index: SearchIndex, model: str | None = None, device: str | None = None) -> Encoder:
    """The model that made the index, from where it lay then or from `model`.

    Raises:
        ValueError: when it is not there, or is another one.
    """
    made_by = index.description["model"]
    try:
        encoder = load(model or made_by, device=device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except ValueError as error:
        if model is not None:
            raise
        raise ValueError(f"{error}; the index was built by it: say with --model where it is now") from error
    marked, expected = fingerprint(encoder), index.description["fingerprint"]
    if marked != expected:
        raise ValueError(
            f"{index.folder} was built by other weights (fingerprint {expected}) than those of {model or made_by}"
            f" ({marked}); name the model that built it with --model, or index again"
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
    needed = hasattr(getattr(encoder.model, "text", None), "languages")  # a network for each language
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
                f"--image: {path} is no .npy of features that the model reads ({str(error).splitlines()[0]})"
            ) from error
    try:
        return encoder.encode_image([encoder.images.open(content)])
    except ValueError as error:
        raise ValueError(f"--image: {path} is no picture that can be read; JPEG, PNG, WebP, ...") from error


def _print(query: Query, results: list[Result], index: SearchIndex, first: Sequence[str]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=f"{escape(query.text or str(query.image))} in {len(index):,} pictures")
    table.add_column("score", justify="right")
    table.add_column("id", overflow="fold")
    table.add_column("captions", overflow="fold")
    for result in results:
        captions = ordered(result.item.captions, first)
        lines = [f"{language}: {caption}" for language, caption in captions[:SHOWN]]
        if len(captions) > SHOWN:
            lines.append(f"and {len(captions) - SHOWN} more")
        table.add_row(f"{result.score:.3f}", escape(result.item.id), escape("\n".join(lines)))
    Console().print(table)


def _knows(encoder: Encoder, text: str, language: str | None) -> bool:
    """Whether the tokenizer makes more of the text than special and unknown tokens, where it can say so."""
    tokenizer = encoder.tokenizer
    if isinstance(tokenizer, WordTokenizer):
        ids, _ = tokenizer([text], [language or ""])
        return bool((ids >= tokenizer.FIRST_WORD).any())
    if isinstance(tokenizer, TransformersTokenizer):
        ids, mask = tokenizer([text], [language or ""])
        special = torch.tensor([number for number in tokenizer.tokenizer.all_special_ids])
        return bool((mask & ~torch.isin(ids, special)).any())
    return True


def _in(language: str | None) -> str:
    return f" in {language}" if language else ""
