"""A frozen MODEL that reads the batches of a training beside the one that is trained."""

import weakref
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from datamodules.batch import Batch
from datamodules.tokenizers.tokenizer import role_of
from losses import FieldEmbeddings, GuideModel
from mmtrain.models.encoder import Encoder
from mmtrain.models.loading import load

AT_ONCE = 256  # texts or pictures


class Teacher(GuideModel):
    """MODEL, ours or another library's, with its own tokenizer; pictures are resized to what it was trained on.

    It is no part of the module that holds it: neither checkpoint nor optimiser nor export knows it. It computes where
    the batches are.

    Args:
        model: MODEL.
        language: Of several captions it reads those in this language alone; None for all.

    Raises:
        ValueError: for a MODEL that cannot be loaded, or that has a network for each language.
    """

    def __init__(self, model: str, language: str | None = None) -> None:
        super().__init__()
        self.model, self.language = model, language
        try:
            self._encoders = [load(model)]  # a list, whose members torch does not take for parts
        except ValueError as error:
            raise ValueError(f"teacher: {error}") from error
        if self._encoder.model.reads_by_language:
            raise ValueError(f"teacher: {model} has a network for each language, expected one that reads them all")
        self._languages: Sequence[str] = ()
        self._read: tuple[Callable[[], Batch | None], dict[str, FieldEmbeddings]] = (lambda: None), {}

    @property
    def _encoder(self) -> Encoder:
        return self._encoders[0]

    @property
    def dimension(self) -> int:
        """The width of its rows."""
        return self._encoder.model.dimension

    @property
    def scale_and_bias(self) -> tuple[float | None, float | None]:
        """What its loss multiplied cosines by and added to them; None where that is not known, or nothing."""
        return self._encoder.scale, self._encoder.bias

    def prepare(self, languages: Sequence[str]) -> None:
        if self.language is not None and self.language not in languages:
            raise ValueError(f"teacher: language: got {self.language}; the data have {', '.join(languages)}")
        self._languages = languages

    def forward(self, batch: Batch, name: str) -> FieldEmbeddings:
        """Its rows of "image", "texts" or a field of the batch, on the batch's device; zeros where there is nothing.

        Raises:
            ValueError: for an input that the batch lacks, or pictures where it reads features, and the reverse.
        """
        if self._read[0]() is not batch:  # once a batch, however many ask
            self._read = weakref.ref(batch), {}
        known = self._read[1]
        if name not in known:
            field = batch.fields.get(name)
            if name == "texts":
                known[name] = self._of_texts(name, batch.captions, batch.present, batch.languages)
            elif field is not None and field.kind == "text":
                assert field.languages is not None
                known[name] = self._of_texts(name, field.texts, field.present, field.languages)
            elif field is not None:
                known[name] = self._of_pictures(name, field.values, field.present)
            elif name == "image" and batch.images is not None:
                there = batch.rows.new_ones(len(batch), 1, dtype=torch.bool)
                known[name] = self._of_pictures(name, batch.images[:, None], there)
            else:
                raise ValueError(f"teacher: {self.model} is to read {name}, of which the batch has none")
        return known[name]

    def _of_texts(self, name: str, texts: list[list[str]], present: Tensor, languages: Tensor) -> FieldEmbeddings:
        if self.language is not None:
            present = present & (languages == self._languages.index(self.language))
        chosen = [texts[row][slot] for row, slot in present.nonzero().tolist()]
        indices = languages[present].tolist()
        names = [self._languages[index] if 0 <= index < len(self._languages) else "" for index in indices]
        known = [self._encoder.languages.index(each) if each in self._encoder.languages else -1 for each in names]
        tokenizer = self._encoder.tokenizer_for(role_of(name))

        def encode(part: slice) -> Tensor:
            tokens, mask = tokenizer(chosen[part], names[part])
            inputs = tokens, mask, torch.tensor(known[part])
            return self._encoder.model.encode_text(*(each.to(present.device) for each in inputs))

        return self._in_slots(present, encode)

    def _of_pictures(self, name: str, values: Tensor, present: Tensor) -> FieldEmbeddings:
        images, pictures = self._encoder.images, values[present]
        pixels = values.dtype == torch.uint8
        if pixels != (images is not None):
            reads, holds = ("pictures", "features") if images is not None else ("features", "pictures")
            raise ValueError(f"teacher: {self.model} reads {reads}, and {name} holds {holds}; take its rows as a field")

        if images is not None and len(images.shape) != pictures.ndim - 1:
            raise ValueError(f"teacher: {self.model} and {name}: one has pictures of free size, the other of one size")

        def encode(part: slice) -> Tensor:
            own = pictures[part]
            if images is not None and own.shape[-2:] != images.shape[-2:]:
                size = list(images.shape[-2:])
                own = functional.interpolate(own.float(), size, mode="bicubic", antialias=True)
                own = own.round().clamp(0, 255).to(torch.uint8)
            return self._encoder.model.encode_image(own)

        return self._in_slots(present, encode)

    @torch.no_grad()
    def _in_slots(self, present: Tensor, encode: Callable[[slice], Tensor]) -> FieldEmbeddings:
        """The rows of the values that are there, encoded some at a time, as [B, n, D]."""
        if self._encoder.device != present.device:
            self._encoder.to(present.device)
        rows = torch.zeros(*present.shape, self.dimension, device=present.device)
        count = int(present.sum())
        parts = [encode(slice(start, start + AT_ONCE)).float() for start in range(0, count, AT_ONCE)]
        if parts:
            rows[present] = functional.normalize(torch.cat(parts), dim=1)
        return FieldEmbeddings(rows, present)
