"""What a server answers from: a model, and an index where one is searched, loaded once."""

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from PIL import Image

from mmtrain.models.encoder import Encoder
from mmtrain.search.heat import with_words
from mmtrain.search.index import DESCRIPTION, SearchIndex
from mmtrain.search.queries import check_text, find, open_model, opened, text_tokens
from mmtrain.search.results import Result, model_name

MOST_RESULTS = 1000
MOST_INPUTS = 256
LONGEST_TEXT = 10_000  # characters; models cut far below
LARGEST_PICTURE = 10 * 2**20  # bytes
MOST_PIXELS = 50_000_000  # of a picture, which takes four bytes each while it is decoded
PICTURE = re.compile(r"data:image/[\w.+-]+;base64,", re.IGNORECASE)


class BadRequest(ValueError):
    """A request that has no answer; the message is for whoever sent it and names no file."""


@dataclass(frozen=True)
class Service:
    """Answers one request at a time; not for several threads at once.

    Attributes:
        encoder: The model.
        index: What is searched; None embeds alone.
        name: The model's name to the outside.
    """

    encoder: Encoder
    index: SearchIndex | None
    name: str

    @property
    def languages(self) -> list[str]:
        """Those the model was trained on; where it does not say, those of the captions."""
        there = [] if self.index is None else list(self.index.description["captions"])
        return self.encoder.languages or there

    def search(self, text: str | None, language: str | None, pictures: Sequence[bytes], k: int) -> list[Result]:
        """The k nearest pictures to a text, pictures, or both, best first."""
        assert self.index is not None
        if not 1 <= k <= MOST_RESULTS:
            raise BadRequest(f"k: got {k}, expected 1 to {MOST_RESULTS:,}")
        if text is None and not pictures:
            raise BadRequest("search: give a text, a picture, or both")
        images = [self._picture(each) for each in pictures]
        text = None if text is None else self._read(text, language)
        asked = {"text": text, "language": language, "role": "query"}
        try:
            row = self.encoder.encode_queries([asked | {"images": images}])
        except ValueError as error:  # a page without room for the text and so many pictures
            raise BadRequest(f"search: {error}") from error
        tokens = None if text is None or images else text_tokens(self.encoder, self.index, text, language)
        return find(self.index, row, k, tokens)

    def with_words(self, text: str, language: str | None, results: list[Result]) -> list[Result]:
        """Results of a text, with what its words found in each picture where the index knows."""
        assert self.index is not None
        return with_words(self.encoder, self.index, self._read(text, language), language, results)

    def embed(
        self, inputs: Sequence[str], language: str | None, role: str | None, dimensions: int | None
    ) -> tuple[np.ndarray, int]:
        """Rows float32 [N, D] of texts and of pictures, which are data URLs, and how many tokens the model read."""
        if not 1 <= len(inputs) <= MOST_INPUTS:
            raise BadRequest(f"input: got {len(inputs):,}, expected 1 to {MOST_INPUTS}")
        width = self.encoder.model.dimension
        if dimensions is not None and not 1 <= dimensions <= width:
            raise BadRequest(f"dimensions: got {dimensions}, the model's rows have {width}")
        if role not in (None, "query", "passage"):
            raise BadRequest(f"role: got {role!r}, expected query or passage")
        rows, tokens = [], 0
        for pictured, run in groupby(inputs, lambda text: PICTURE.match(text) is not None):
            if pictured:
                rows.append(self.encoder.encode_image([self._picture(_decoded(url)) for url in run]))
                continue
            texts = [self._read(text, language) for text in run]
            rows.append(self.encoder.encode_text(texts, language, role=role))
            tokens += int(self.encoder.tokenizer_for(role)(texts, [language or ""] * len(texts))[1].sum())
        found = np.concatenate(rows)
        if not np.isfinite(found).all():
            raise BadRequest("input: the model gives NaN or infinity for it")
        if dimensions is not None:
            found = found[:, :dimensions]
            found /= np.linalg.norm(found, axis=1, keepdims=True).clip(min=1e-12)
        return found, tokens

    def _read(self, text: str, language: str | None) -> str:
        """A text that the model can read."""
        if len(text) > LONGEST_TEXT:
            raise BadRequest(f"text: got {len(text):,} characters, at most {LONGEST_TEXT:,} are read")
        text = text.encode("utf-8", "replace").decode()  # half a pair of surrogates is no text
        try:
            check_text(self.encoder, text, language)
        except ValueError as error:
            raise BadRequest(str(error).removeprefix("--")) from error
        return text

    def _picture(self, content: bytes) -> Image.Image:
        if self.encoder.images is None:
            raise BadRequest("image: the model reads features of pictures, not pictures; a text")
        if len(content) > LARGEST_PICTURE:
            raise BadRequest(f"image: got {len(content):,} bytes, at most {LARGEST_PICTURE:,} are read")
        try:
            picture = opened(self.encoder, content)
        except ValueError as error:
            raise BadRequest(f"image: {error}") from error
        assert isinstance(picture, Image.Image)
        return picture


def open_service(
    target: str, *, model: str | None, device: str | None, trust: Sequence[str] | None, adapter: str | None = None
) -> Service:
    """The service of an index folder and the model that built it, or of a MODEL alone.

    Raises:
        ValueError: when it cannot be loaded.
    """
    from mmtrain.embedding.processes import default_device
    from mmtrain.models.loading import load

    if (Path(target) / DESCRIPTION).is_file():
        index = SearchIndex(target)
        encoder = open_model(index, model, device, trust=trust, adapter=adapter)
        service = Service(encoder, index, model_name(index.description["model"]))
    else:
        if model is not None:
            raise ValueError(f"--model: says what built an index, and {target} is none")
        encoder = load(target, device=device or default_device(), trust=trust, adapter=adapter)
        service = Service(encoder, None, model_name(target))
    if (images := service.encoder.images) is not None:
        images.max_pixels = min(images.max_pixels, MOST_PIXELS)
    return service


def _decoded(url: str) -> bytes:
    try:
        return base64.b64decode(url.partition(",")[2], validate=True)
    except binascii.Error as error:
        raise BadRequest(f"input: a data URL holds no base64 ({error})") from error
