"""Further inputs of a sample, beside its picture and its captions.

A config names a reader for each: `data.fields: {negatives: {class_path: datamodules.Texts, init_args: {count: 7}}}`. A
reader says what a sample must hold for it, reads so many values from one, and a batch holds them as a `Field`.
"""

from __future__ import annotations

import random
import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from datamodules.batch import Field, stable_id, text_id
from datamodules.images import ImagePipeline
from datamodules.reading.views import picture_views
from datamodules.shards.samples import FEATURE_SUFFIX, BrokenSample, Sample, read_features, read_texts
from datamodules.tokenizers.tokenizer import Tokenizer

MARK = "<image>"  # in a text: where a picture stands
PICTURE_FILE = re.compile(r"([a-z_]+)(\d*)\.(?:jpg|jpeg|png|webp)")


class Text(NamedTuple):
    """A text and its language, and what stands before it for the model."""

    language: str
    text: str
    prefix: str = ""


class Value(NamedTuple):
    """One value of a field: a text, pixels uint8 [3, H, W] or features float32 [F] or [P, F]; equal ids, equal values.

    `place` is that in the sample's entry, whose scores are in its order.
    """

    content: Text | Tensor
    id: int
    place: int = 0


class FieldReader(ABC):
    """Reads one further input of a sample.

    Attributes:
        kind: What its values are.
        count: n, values a sample has at most.
        key: Under which name a sample holds it; where none is given, the field's own name once it has one.
        required: Whether a sample without it is left out; else the value is absent.

    Raises:
        ValueError: for a count below 1.
    """

    kind: Literal["image", "features", "text"]

    def __init__(self, key: str | None = None, count: int = 1, required: bool = True) -> None:
        if count < 1:
            raise ValueError(f"data.fields: {key or 'a field'}: count {count} is too small; at least 1")
        self.key, self.count, self.required = key or "", count, required

    @abstractmethod
    def read(
        self, sample: Sample, languages: Collection[str], images: ImagePipeline, rng: random.Random | None
    ) -> list[Value]:
        """Up to `count` values of a sample; with `rng` those drawn in training, else the first ones.

        Raises BrokenSample for a file or an entry that cannot be read.
        """


class Texts(FieldReader):
    """Texts of the sample's record: `query`, `positive`, `negatives` or any other key.

    The entry is a string, a list of strings, or {language: string or list}; a plain string is in the record's
    "language", else `und`. Texts in other languages than those in use are left out.

    Args:
        key: Of the record; default: the field's name.
        count: At most so many of them, different ones.
        prefix: Put before each text, such as an instruction.
        required: Whether a sample without any is left out.
    """

    kind = "text"

    def __init__(self, key: str | None = None, count: int = 1, prefix: str = "", required: bool = True) -> None:
        super().__init__(key, count, required)
        self.prefix = prefix

    def read(
        self, sample: Sample, languages: Collection[str], images: ImagePipeline, rng: random.Random | None
    ) -> list[Value]:
        texts = list(enumerate(read_texts(sample.record, self.key)))
        texts = [(place, each) for place, each in texts if each[0] in languages]
        if rng is not None:
            texts = rng.sample(texts, min(self.count, len(texts)))
        return [
            Value(Text(language, text, self.prefix), text_id(text), place)
            for place, (language, text) in texts[: self.count]
        ]


class Pieces(FieldReader):
    """A text of the sample's record in pieces, cut at each `<image>`, where a picture stands; see `Texts`.

    A model that composes reads them with the pictures of the field NAME_pictures: the first stands behind the first
    piece, which is empty where the text begins with a mark, and so on. A prompt stands before the first piece alone.

    Args:
        key: Of the record; default: the field's name.
        count: Pieces at most; the last has the rest of the text, without its marks.
        required: Whether a sample without the text is left out.
    """

    kind = "text"

    def read(
        self, sample: Sample, languages: Collection[str], images: ImagePipeline, rng: random.Random | None
    ) -> list[Value]:
        texts = [each for each in read_texts(sample.record, self.key) if each[0] in languages]
        if not texts:
            return []
        language, text = texts[0] if rng is None else rng.choice(texts)
        return [Value(Text(language, each), text_id(each)) for each in pieces(text, self.count)]


def pieces(text: str, most: int | None = None) -> list[str]:
    """The pieces of a text, between its marks; at most so many."""
    parts = text.split(MARK, -1 if most is None else most - 1)
    return [" ".join(part.replace(MARK, " ").split()) for part in parts]


class Features(FieldReader):
    """The `.npy` behind a name, `<key>.<name>.npy`: one row [F] or P tokens [P, F], alike in every sample.

    Args:
        key: The name; default: the field's.
        required: Whether a sample without it is left out.
    """

    kind = "features"

    def __init__(self, key: str | None = None, required: bool = True) -> None:
        super().__init__(key, 1, required)

    def read(
        self, sample: Sample, languages: Collection[str], images: ImagePipeline, rng: random.Random | None
    ) -> list[Value]:
        content = sample.files.get(f"{self.key}.{FEATURE_SUFFIX}")
        return [] if content is None else [Value(torch.from_numpy(read_features(content)), stable_id(content))]


class Pictures(FieldReader):
    """Further pictures behind a name: `<key>.<name>.jpg`, `<key>.<name>1.jpg` ...

    Args:
        key: The name; default: the field's.
        count: At most so many of them, the first by number.
        images: Their way from encoded images to pixels; default: that of the sample's source.
        required: Whether a sample without any is left out.
    """

    kind = "image"

    def __init__(
        self, key: str | None = None, count: int = 1, images: ImagePipeline | None = None, required: bool = True
    ) -> None:
        super().__init__(key, count, required)
        self.images = images

    def read(
        self, sample: Sample, languages: Collection[str], images: ImagePipeline, rng: random.Random | None
    ) -> list[Value]:
        matches = [match for file in sample.files if (match := PICTURE_FILE.fullmatch(file)) and match[1] == self.key]
        matches.sort(key=lambda match: int(match[2] or 0))
        contents = [sample.files[match[0]] for match in matches[: self.count]]
        return [
            Value(view, stable_id(content))
            for content in contents
            for view in picture_views(content, self.images or images, [] if rng is None else [rng])[0]
        ]


class Crops(FieldReader):
    """Further views of the sample's own picture, each with a crop of its own in training.

    Args:
        count: n.
        images: Their way from encoded images to pixels, such as smaller crops; default: that of the sample's source.
    """

    kind = "image"

    def __init__(self, count: int = 1, images: ImagePipeline | None = None) -> None:
        super().__init__("image", count)
        self.images = images

    def read(
        self, sample: Sample, languages: Collection[str], images: ImagePipeline, rng: random.Random | None
    ) -> list[Value]:
        if sample.image is None or sample.suffix == FEATURE_SUFFIX:
            raise BrokenSample("missing image")
        rngs = [] if rng is None else [random.Random(f"{rng.random()}/{n}") for n in range(self.count)]
        views, _ = picture_views(sample.image, self.images or images, rngs)
        return [Value(view, sample.image_id) for view in views * (1 if rngs else self.count)]


def field_of(
    reader: FieldReader,
    rows: Sequence[Sequence[Value]],
    shape: Sequence[int] | None,
    tokenizer: Tokenizer,
    languages: Mapping[str, int],
    prompts: Sequence[str] = (),
) -> Field:
    """The values of B samples as a Field.

    Args:
        rows: Of each sample its values, fewer than `reader.count` where it has fewer; an empty text is none, and keeps
            its place.
        shape: Of one value that is no text.
        languages: Index of each language.
        prompts: What stands before the texts of each sample; default: nothing.
    """
    B, n = len(rows), reader.count
    present = torch.tensor([[slot < len(row) and _is_there(row[slot]) for slot in range(n)] for row in rows]).view(B, n)
    ids = torch.tensor([[row[slot].id if slot < len(row) else -1 for slot in range(n)] for row in rows]).view(B, n)
    values = [value.content for row in rows for value in row if _is_there(value)]
    if reader.kind != "text":
        dtype = torch.uint8 if reader.kind == "image" else torch.float32
        full = torch.zeros(B, n, *(shape or ()), dtype=dtype)
        if values:
            full[present] = torch.stack([value for value in values if isinstance(value, Tensor)])
        return Field(reader.kind, full, present, ids=ids)
    before = [
        "" if place and isinstance(reader, Pieces) else prompt
        for row, prompt in zip(rows, prompts or [""] * B, strict=True)
        for place, _ in enumerate(filter(_is_there, row))
    ] or [""]
    texts = [value for value in values if isinstance(value, Text)] or [Text("und", "")]  # one says what tokens are
    rows_of_ids, mask = tokenizer(
        [prompt + each.prefix + each.text for prompt, each in zip(before, texts, strict=True)],
        [each.language for each in texts],
    )
    tokens = rows_of_ids.new_zeros(B, n, *rows_of_ids.shape[1:])
    token_mask = mask.new_zeros(B, n, mask.shape[1])
    indices = torch.full((B, n), -1)
    if present.any():
        tokens[present], token_mask[present] = rows_of_ids, mask
        indices[present] = torch.tensor([languages.get(each.language, -1) for each in texts])
    written = [[value.content.text for value in row if isinstance(value.content, Text)] for row in rows]
    return Field("text", tokens, present, token_mask, indices, ids, [[*row, *[""] * (n - len(row))] for row in written])


def _is_there(value: Value) -> bool:
    return not isinstance(value.content, Text) or value.content.text != ""
