"""A model with its preprocessing: what `mmtrain.load` returns."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datamodules.images import ImagePipeline
from datamodules.tokenizers import Tokenizer
from datamodules.tokenizers.tokenizer import ROLES, Prompted
from losses import asymmetric_similarity
from mmtrain.fusion import CaptionDecoder, MatchingHead, RelationHead
from mmtrain.models.adapters import adapter_number
from mmtrain.models.encoding import in_batches
from mmtrain.models.image_text import ImageTextModel
from mmtrain.models.network import Network
from mmtrain.models.token_rows import TokenPooling

if TYPE_CHECKING:
    from mmtrain.evaluation.ranking.tiles import Similarity

Images = Sequence[Image.Image] | np.ndarray | Tensor


class Options(TypedDict, total=False):
    """Of `encode_image` and `encode_text`, as told there."""

    budget: int | None
    pooling: TokenPooling
    dim: int | None
    batch_size: int
    progress: bool
    adapter: str | None


class TextOptions(Options, total=False):
    """Of `encode_text`."""

    role: str | None


class Encoder:
    """A model with its preprocessing: images and captions in, rows of unit length out.

    Attributes:
        model: The network, in evaluation mode.
        tokenizer, images: The preprocessing it was trained with.
        languages: Languages it was trained on.
        metric: The similarity it was trained for, cosine or asymmetric.
        source: Where it came from.
        scale: The multiplier of the cosines in its loss (the inverse temperature), None where that is not known.
        bias: What its loss added to each scaled cosine (SigLIP); None where it added nothing.
        dtype: What the networks compute in (autocast); rows are float32 in any case.
        head: The network behind the towers, for relations or matching; None where none was trained with them.
        decoder: The network that writes captions; likewise.
    """

    def __init__(
        self,
        model: Network,
        tokenizer: Tokenizer,
        images: ImagePipeline | None,
        languages: list[str],
        similarity: "Similarity",
        source: str,
        scale: float | None = None,
        dtype: torch.dtype = torch.float32,
        head: RelationHead | MatchingHead | None = None,
        bias: float | None = None,
        decoder: CaptionDecoder | None = None,
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.images = images
        self.languages = languages
        self.metric = similarity
        self.source = source
        self.scale, self.bias = scale, bias
        self.dtype = dtype
        self.head = None if head is None else head.eval().requires_grad_(False)
        self.decoder = None if decoder is None else decoder.eval().requires_grad_(False)

    @property
    def device(self) -> torch.device:
        """Where the networks compute."""
        return next((parameter.device for parameter in self.model.parameters()), torch.device("cpu"))

    def to(self, device: str | torch.device) -> "Encoder":
        """Moves the networks to a device; returns the encoder itself."""
        self.model.to(device)
        for network in (self.head, self.decoder):
            if network is not None:
                network.to(device)
        return self

    def autocast(self) -> torch.autocast:
        """In which the networks compute in `dtype`."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    @property
    def classes(self) -> dict[str, list[str]]:
        """Task -> names of its classes, of a relation head."""
        return self.head.names if isinstance(self.head, RelationHead) else {}

    def tokenizer_for(self, role: str | None) -> Tokenizer:
        """The tokenizer of texts of a role: "query", "passage" or None. Raises ValueError for another."""
        if role not in (None, *ROLES):
            raise ValueError(f"role: got {role!r}, expected {' or '.join(ROLES)}")
        prompts = self.model.prompts
        return Prompted(self.tokenizer, prompts, role) if role and prompts else self.tokenizer

    @overload
    def encode_image(
        self, images: Images, *, multi: Literal[False] = False, **options: Unpack[Options]
    ) -> np.ndarray: ...

    @overload
    def encode_image(self, images: Images, *, multi: Literal[True], **options: Unpack[Options]) -> list[np.ndarray]: ...

    def encode_image(
        self,
        images: Images,
        *,
        multi: bool = False,
        budget: int | None = None,
        pooling: TokenPooling = "kmeans",
        dim: int | None = None,
        batch_size: int = 64,
        progress: bool = False,
        adapter: str | None = None,
    ) -> np.ndarray | list[np.ndarray]:
        """Images, or precomputed features, as float32 [N, D], rows of unit length.

        Args:
            images: PIL images of any size and mode, uint8 [N, H, W, 3] pixels, or float features [N, F] or [N, P, F].
            multi: Token rows instead, of each image float32 [P, d], of unit length.
            budget: Of token rows: the most of an image; what is more is pooled.
            pooling: How, by "kmeans" or "attention", as `mmtrain.models.token_rows.pooled` tells.
            dim: Keep the first so many dimensions and normalise again (Matryoshka).
            batch_size: Images encoded at once.
            progress: Show how far it is.
            adapter: The name of the adapter that reads them; None for what `load` was told, else the base.

        Raises:
            ValueError: for another kind of input, a dim beyond the model's, an adapter that it has not, token rows of a
                model that has none, or a budget below 1 or without them.
        """
        if hasattr(images, "convert"):
            raise ValueError("encode_image: got one picture, expected a list of them, or an array")
        model = self.model
        self.adapter_number(adapter)  # also where there is nothing to encode

        def encode(part: Any) -> tuple[Tensor, ...]:
            pixels, by = self.pixels(part).to(self.device), self.by(adapter, len(part))
            return model.encode_image_multi(pixels, **by)[1:] if multi else (model.encode_image(pixels, **by),)

        return in_batches(self, images, encode, dim, batch_size, progress, multi, budget, pooling)

    @overload
    def encode_text(
        self,
        captions: Sequence[str],
        language: str | None = None,
        *,
        multi: Literal[False] = False,
        **options: Unpack[TextOptions],
    ) -> np.ndarray: ...

    @overload
    def encode_text(
        self,
        captions: Sequence[str],
        language: str | None = None,
        *,
        multi: Literal[True],
        **options: Unpack[TextOptions],
    ) -> list[np.ndarray]: ...

    def encode_text(
        self,
        captions: Sequence[str],
        language: str | None = None,
        *,
        role: str | None = None,
        multi: bool = False,
        budget: int | None = None,
        pooling: TokenPooling = "kmeans",
        dim: int | None = None,
        batch_size: int = 256,
        progress: bool = False,
        adapter: str | None = None,
    ) -> np.ndarray | list[np.ndarray]:
        """Captions as float32 [N, D], rows of unit length.

        Args:
            captions: Text; anything beyond the tokenizer's limit is cut.
            language: Their language, where the tokenizer or tower needs it (words of one language).
            role: "query" or "passage" puts the model's prompt before each, where it has one.
            multi: Token rows instead, of each caption float32 [L, d], of unit length.
            budget: As for images.
            pooling: As for images.
            dim: As for images.
            batch_size: As for images.
            progress: As for images.
            adapter: As for images; "language" for the one that is called like `language`, where there is one.

        Raises:
            ValueError: for captions that are no strings, a language that the model needs and does not know, another
                role, a dim beyond the model's, and as for images.
        """
        if isinstance(captions, str) or not all(isinstance(caption, str) for caption in captions):
            raise ValueError("encode_text: expected a list of str")
        index = self.languages.index(language) if language in self.languages else -1
        tokenizer = self.tokenizer_for(role)
        self.adapter_number(adapter)

        def encode(part: Sequence[str]) -> tuple[Tensor, ...]:
            tokens, mask = (each.to(self.device) for each in tokenizer(list(part), [language or ""] * len(part)))
            languages = torch.full((len(part),), index, device=self.device)
            inputs, by = (tokens, mask, languages), self.by(adapter, len(part), language)
            if multi:
                return self.model.encode_text_multi(*inputs, **by)[1:]
            return (self.model.encode_text(*inputs, **by),)

        return in_batches(self, captions, encode, dim, batch_size, progress, multi, budget, pooling)

    def encode_query(
        self,
        text: str | None = None,
        images: Sequence[Image.Image] | np.ndarray = (),
        *,
        features: Mapping[str, np.ndarray] | None = None,
        language: str | None = None,
        role: str | None = None,
        adapter: str | None = None,
    ) -> np.ndarray:
        """A query of several inputs as float32 [D]: the normalised sum of their rows; for a Symile model their product.

        A model with a `ComposedQuery`, or of one tower for both, reads text and pictures together.

        Args:
            text: A text; <image> in it is the place of a picture, the others stand behind it.
            images: Pictures, or features as the image tower reads them.
            features: Of further modalities, by name: [F] or [P, F].
            language: Of the text, as for `encode_text`.
            role: Of the text, likewise.
            adapter: As for `encode_text`.

        Raises:
            ValueError: for no input at all, or one that the model cannot read.
        """
        query = {"text": text, "images": images, "features": features or {}, "language": language, "role": role}
        return self.encode_queries([{**query, "adapter": adapter}])[0]

    def encode_queries(self, queries: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Queries as float32 [N, D]; each is the arguments of `encode_query`, by name.

        Raises:
            ValueError: as `encode_query`, with the number of the query.
        """
        from mmtrain.models.queries import query_rows

        return query_rows(self, queries)

    def caption(
        self,
        images: Sequence[Image.Image] | np.ndarray | Tensor,
        language: str | None = None,
        *,
        beams: int = 1,
        longest: int | None = None,
        batch_size: int = 64,
    ) -> list[str]:
        """Captions [N], a text each, that the model's decoder writes of N images.

        Args:
            images: As for `encode_image`.
            language: Of the captions; None where the decoder writes one alone.
            beams: Captions kept at each token; 1 takes the likeliest token each time.
            longest: Tokens of the longest caption; None for the tokenizer's.
            batch_size: Images at once.

        Raises:
            ValueError: for a model without a decoder, a language that it does not write, fewer than one beam or token.
        """
        from mmtrain.models.captions import captions_of

        return captions_of(self, images, language, beams=beams, longest=longest, batch_size=batch_size)

    def similarity(self, images: np.ndarray, texts: np.ndarray) -> np.ndarray:
        """Scores float32 [N, M] of images [N, D] and texts [M, D]: cosine, or asymmetric where that was trained."""
        if self.metric == "cosine":
            return images @ texts.T
        return asymmetric_similarity(torch.from_numpy(images), torch.from_numpy(texts)).numpy()

    def pixels(self, images: Any) -> Tensor:
        """What the image tower takes: pixels uint8 [N, 3, H, W], or precomputed features float32 [N, F] or [N, P, F].

        Raises:
            ValueError: for pixels where it reads features, and the reverse, or another shape.
        """
        if isinstance(images, Tensor):
            images = images.cpu().numpy()
        if self.images is None:
            if not isinstance(images, np.ndarray) or images.ndim not in (2, 3):
                raise ValueError(
                    f"encode_image: {self.source} was trained on precomputed features: an array [N, F] or [N, P, F]"
                )
            return torch.from_numpy(np.ascontiguousarray(images, dtype=np.float32))
        if isinstance(images, np.ndarray) and (images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3):
            raise ValueError(f"encode_image: expected uint8 [N, H, W, 3], got {images.dtype} {list(images.shape)}")
        images = [Image.fromarray(image) if isinstance(image, np.ndarray) else image for image in images]
        return torch.stack([self.images.evaluate(image) for image in images])

    def adapter_number(self, adapter: str | None, language: str | None = None) -> int | None:
        """The number of an adapter, None where nothing is said of one; "language" is the one of the texts' language.

        Raises:
            ValueError: for one that the model has not.
        """
        bank = self.model.bank if isinstance(self.model, ImageTextModel) else None
        return adapter_number(bank, adapter, language, self.source)

    def by(self, adapter: str | None, count: int, language: str | None = None) -> dict[str, Tensor]:
        """What a network is told of the adapter of N rows, int64 [N]. Raises ValueError as `adapter_number`."""
        number = self.adapter_number(adapter, language)
        return {} if number is None else {"adapters": torch.full((count,), number, device=self.device)}
