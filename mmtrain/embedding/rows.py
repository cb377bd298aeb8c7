"""The rows of whole samples, as files of theirs."""

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from datamodules.reading.whole import WholeSample, WholeSamples
from datamodules.shards.encoding import BadRow
from datamodules.shards.samples import IMAGES
from datamodules.tokenizers.tokenizer import ROLES, role_of
from mmtrain.embedding.rewriting import RewrittenShards, Sizes
from mmtrain.embedding.splits import language_indices
from mmtrain.models.encoder import Encoder
from mmtrain.models.fingerprint import fingerprint
from mmtrain.models.image_text import ImageTextModel
from mmtrain.models.network import NO_HEAD
from mmtrain.models.token_rows import kept
from mmtrain.towers import FeatureTower

DESCRIPTION = "embedding.json"  # beside shards of rows
TEXTS_AT_ONCE = 256
Text = tuple[str, str]  # language, text
# the files of the rows of a sample's texts
TEXT_ROWS = {"captions": "texts.npy", "query": "query.npy", "positive": "positive.npy", "negatives": "negatives.npy"}


class RowFiles:
    """Puts rows in the place of images and beside texts: `npy` for the image, `texts.npy` for the captions, [n, D] in
    the record's order, `query.npy`, `positive.npy` and `negatives.npy` for those texts. All other files stay.

    Args:
        encoder: The model.
        batch_size: The most images that come at once.
        dtype: Of what is written.
        tokens: `npy` holds the image tower's tokens [P, W], not the row [D].
        multi: All files hold token rows, [P, d] of the image and [n, L, d] of texts, zeros behind the shorter ones.

    Raises:
        ValueError: for tokens of another library's model, or token rows of a model without them.
    """

    def __init__(
        self,
        encoder: Encoder,
        batch_size: int,
        dtype: Literal["float16", "float32"] = "float32",
        tokens: bool = False,
        multi: bool = False,
    ) -> None:
        if multi and (tokens or encoder.model.multi_dimension is None):
            raise ValueError(f"--multi: {'it and --tokens are two kinds; give one' if tokens else NO_HEAD}")
        self._multi = multi
        self._encoder, self._batch_size, self._dtype, self._tokens = encoder, batch_size, dtype, tokens
        self._tower = encoder.model.image if isinstance(encoder.model, ImageTextModel) else None
        if tokens and self._tower is None:
            raise ValueError("--tokens: another library's model gives no tokens; a run or export of ours does")

    @property
    def reads_features(self) -> bool:
        """Whether the model's images are features; a model of texts alone reads neither."""
        of_texts = isinstance(self._encoder.model, ImageTextModel) and self._tower is None
        return self._encoder.images is None and not of_texts

    def __call__(self, samples: Sequence[WholeSample | BadRow]) -> list[dict | BadRow]:
        """Each sample as TarWriter takes it, or the BadRow that it is."""
        checked = [self._checked(sample) for sample in samples]
        whole = [sample for sample in checked if isinstance(sample, WholeSample)]
        row_of_text: dict[tuple[str, Text], np.ndarray] = {}
        for role in ROLES:
            every = (each for sample in whole for name, each in sample.texts.items() if role_of(name) == role)
            texts = list(dict.fromkeys(text for each in every for text in each))
            rows = text_rows(self._encoder, texts, role, self._multi)
            row_of_text |= zip([(role, text) for text in texts], rows, strict=True)
        image_rows = iter(self._image_rows([sample.image for sample in whole if sample.image is not None]))
        return [each if isinstance(each, BadRow) else self._written(each, image_rows, row_of_text) for each in checked]

    def _written(
        self, sample: WholeSample, image_rows: Iterator[np.ndarray], row_of_text: Mapping[tuple[str, Text], np.ndarray]
    ) -> dict:
        files = dict(sample.files)
        if sample.image is not None:
            files = {suffix: content for suffix, content in files.items() if suffix not in IMAGES}
            files["npy"] = self._bytes(next(image_rows))
        for name, texts in sample.texts.items():
            if texts:
                each = [row_of_text[role_of(name), text] for text in texts]
                longest = max(map(len, each))
                if self._multi:
                    each = [np.pad(rows, ((0, longest - len(rows)), (0, 0))) for rows in each]
                files[TEXT_ROWS[name]] = self._bytes(each)
        return {"__key__": sample.key, **files}

    def _checked(self, sample: WholeSample | BadRow) -> WholeSample | BadRow:
        if isinstance(sample, BadRow) or sample.image is None or not isinstance(self._tower, FeatureTower):
            return sample
        fits = sample.image.shape[-1] == self._tower.width
        return sample if fits else BadRow("features of another size", sample.key)

    def _image_rows(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """A row or tokens of each; images of one shape go through the model together."""
        rows: dict[int, np.ndarray] = {}
        for shape in dict.fromkeys(image.shape for image in images):
            numbers = [number for number, image in enumerate(images) if image.shape == shape]
            # filled up to a whole batch: the last bit of a row depends on the number of rows, and the same picture
            # elsewhere would not be known as the same
            batch = np.zeros((self._batch_size, *shape), images[0].dtype)
            batch[: len(numbers)] = [images[number] for number in numbers]
            encoded = self._encoded(torch.from_numpy(batch).to(self._encoder.device))
            rows |= zip(numbers, encoded.float().cpu().numpy(), strict=False)
        return [rows[number] for number in range(len(images))]

    def _encoded(self, images: Tensor) -> Tensor:
        if self._multi:
            return self._encoder.model.encode_image_multi(images)[1]
        if not self._tokens:
            return self._encoder.model.encode_image(images)
        assert self._tower is not None
        return self._tower(images)[1]

    def _bytes(self, rows: np.ndarray | Sequence[np.ndarray]) -> bytes:
        file = io.BytesIO()
        np.save(file, np.asarray(rows, self._dtype))
        return file.getvalue()


def row_shards(
    folder: Path,
    encoder: Encoder,
    data: str,
    sizes: Sizes,
    *,
    dtype: Literal["float16", "float32"] = "float32",
    tokens: bool = False,
    multi: bool = False,
) -> tuple[RewrittenShards, RowFiles, dict[str, Any]]:
    """SHARDS to be written again with rows, what puts them in, and what they will be, for a description."""
    rows = RowFiles(encoder, sizes.batch_size, dtype, tokens, multi)
    samples = WholeSamples.named(data, images=encoder.images, features=rows.reads_features)
    facts: dict[str, Any] = {"dtype": dtype, "tokens": tokens, "width": encoder.model.dimension}
    if multi:
        facts |= {"tokens": True, "multi": True, "width": encoder.model.multi_dimension}
    facts |= {"similarity": encoder.metric, "fingerprint": fingerprint(encoder)}
    shards = RewrittenShards(folder, samples, ["rows", facts], sizes)
    return shards, rows, facts | {"samples_per_shard": sizes.samples_per_shard}


def text_rows(encoder: Encoder, texts: Sequence[Text], role: str, multi: bool = False) -> np.ndarray | list[np.ndarray]:
    """Rows float32 [n, D] of (language, text), which search ("query") or are found ("passage").

    With `multi` the token rows of each, [L, d].
    """
    parts: list[np.ndarray] = []
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        languages, captions = zip(*texts[start : start + TEXTS_AT_ONCE], strict=True)
        tokens, mask = encoder.tokenizer_for(role)(captions, languages)
        indices = language_indices(encoder, list(languages)).to(encoder.device)
        inputs = tokens.to(encoder.device), mask.to(encoder.device), indices
        if multi:
            _, rows, there = encoder.model.encode_text_multi(*inputs)
            parts += [each.numpy() for each in kept(rows.float().cpu(), there.cpu())]
        else:
            parts.append(encoder.model.encode_text(*inputs).float().cpu().numpy())
    if multi:
        return parts
    return np.concatenate(parts) if parts else np.zeros((0, encoder.model.dimension), np.float32)
