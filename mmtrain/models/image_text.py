"""Two towers and their projections into the shared space."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mmtrain.fusion import ComposedQuery
from mmtrain.models.adapted import AdaptedNetwork
from mmtrain.models.adapters import Adapter
from mmtrain.models.buckets import in_buckets
from mmtrain.models.network import NO_HEAD
from mmtrain.models.projections import Projection, multi_dimension, projected_by
from mmtrain.towers import ImageTower, SharedText, TextTower, VisionLanguageText, VisionLanguageTower

TOWERS = ("image", "text", "image_projection", "text_projection", "modalities", "modality_projections")
TRAINED = (*TOWERS, "absent", "observed", "multi", "composer")  # the modules of an ImageTextModel
Composition = Literal["sum", "product"]


class ImageTextModel(AdaptedNetwork):
    """Images and captions of any language as rows of unit length in one space.

    Args:
        image: The image tower; None makes a model of texts alone.
        text: The text tower; "shared" lets the image tower read texts, too: a vision-language tower their tokens, any
            other what a tokenizer renders as images.
        dimension: D, the width of the shared space.
        projection: linear, mlp (one hidden layer of the tower's width) or none (both towers are D wide already).
        modalities: Further towers by the name of the field that they read, each with a projection of its own.
        lora: Ranks of one low-rank adapter by tower; alpha is twice the rank, and whoever loads it gets it merged.
        buckets: Captions are sorted by length and encoded in this many parts, each cut to its longest caption, which
            saves the time of padding; the result is the same.
        missing: Inputs that a sample may lack: "image", "text", modalities by name. A learned row stands for one that
            is missing, and a learned vector is added to those observed, which is what an indicator beside the features
            is under a linear projection (Saporta et al. 2024, Symile-M3).
        layer_norm: Normalise what is projected to mean 0 and the same variance before it is scaled to unit length.
        composition: What a query of several inputs is: the normalised sum of their rows, their product, which Symile
            trains and which is not normalised, or what a network makes of their tokens.
        prompts: What stands before texts of a role, query or passage.
        multi: {dimension: d} adds a linear layer from each tower's tokens to token rows of width d, unit length: of a
            picture its patches, without the tokens before them; of a text all that its tokenizer's mask has.
        adapters: Low-rank adapters by name, beside a base that is frozen; see `mmtrain.models.adapters`.

    Raises:
        ValueError: when projection is none and a tower's width is not D, a shared tower is missing, an input that may
            be missing is none of the model's, multi is anything else, or an adapter fits no layer.
    """

    def __init__(
        self,
        image: ImageTower | None,
        text: TextTower | Literal["shared"],
        dimension: int = 256,
        projection: Projection = "linear",
        modalities: Mapping[str, ImageTower] | None = None,
        lora: Mapping[str, int] | None = None,
        buckets: int = 4,
        missing: Sequence[str] = (),
        layer_norm: bool = False,
        composition: Composition | ComposedQuery = "sum",
        prompts: Mapping[str, str] | None = None,
        multi: Mapping[str, int] | None = None,
        adapters: Mapping[str, Adapter | Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__()
        self.one_tower = isinstance(text, str)
        if isinstance(text, str):
            if text != "shared" or image is None:
                raise ValueError(f"model.text: got {text!r}, expected a text tower, or shared beside an image tower")
            text = VisionLanguageText(image) if isinstance(image, VisionLanguageTower) else SharedText(image)
        self.image, self.text = image, text
        self.shared = isinstance(text, SharedText)
        self.reads_by_language = text.reads_by_language
        self.dimension, self.projection, self.buckets = dimension, projection, buckets
        self.image_projection = None if image is None else projected_by(projection, "image", image.width, dimension)
        self.text_projection = projected_by(projection, "text", self.text.width, dimension)
        self.modalities, self.modality_projections = nn.ModuleDict(dict(modalities or {})), nn.ModuleDict()
        for name, tower in (modalities or {}).items():
            tower.option = f"model.modalities.{name}"
            self.modality_projections[name] = projected_by(projection, name, tower.width, dimension)
        inputs = {"image", "text", *self.modalities}
        if unknown := [name for name in missing if name not in inputs]:
            raise ValueError(f"model.missing: got {', '.join(unknown)}, expected some of {', '.join(sorted(inputs))}")
        self.composer = composition if isinstance(composition, ComposedQuery) else None
        self.composition: Composition = "product" if composition == "product" else "sum"
        if self.composer is None and composition != self.composition:
            raise ValueError(f"model.composition: got {composition!r}, expected sum, product or a ComposedQuery")
        if self.composer is not None:
            if image is None:
                raise ValueError("model.composition: a ComposedQuery reads pictures, and the model has no image tower")
            self.composer.build(image.width, self.text.width, dimension)
        self.missing, self.layer_norm = list(missing), layer_norm
        self.absent = nn.ParameterDict({name: nn.Parameter(torch.randn(dimension)) for name in missing})
        self.observed = nn.ParameterDict({name: nn.Parameter(torch.zeros(dimension)) for name in missing})
        self.multi_dimension = None if multi is None else multi_dimension(multi)
        widths = {"text": self.text.width} | ({} if image is None else {"image": image.width})
        self.multi = nn.ModuleDict(
            {} if multi is None else {side: nn.Linear(widths[side], multi["dimension"], bias=False) for side in widths}
        )
        self.set_prompts(prompts or {})
        self.divided = False  # whether the processes hold a part of each block's weights (FSDP2)
        self.add_lora(lora or {})
        self.add_adapters(adapters or {})

    def arguments(self) -> dict[str, object]:
        """The constructor's arguments, for `mmtrain.models.spec.spec_of`."""
        return {
            "image": self.image,
            "text": "shared" if self.one_tower else self.text,
            "dimension": self.dimension,
            "projection": self.projection,
            "modalities": dict(self.modalities.items()),
            "lora": self.lora,
            "buckets": self.buckets,
            "missing": self.missing,
            "layer_norm": self.layer_norm,
            "composition": self.composer or self.composition,
            "prompts": dict(self.prompts),
            "multi": None if self.multi_dimension is None else {"dimension": self.multi_dimension},
            "adapters": self.bank.described(),
        }

    def trained(self) -> dict[str, nn.Module]:
        """Its parts by name."""
        return {name: part for name in TRAINED if (part := getattr(self, name)) is not None}

    def checkpoint_activations(self) -> None:
        """Makes the towers that are trained recompute their activations in the backward pass.

        Raises:
            ValueError: beside adapters by name, for then another one may read.
        """
        if self.bank.settings:
            raise ValueError("model.checkpoint_activations: not with model.adapters; model.micro_batch saves as much")
        for tower in (self.image, self.text):
            if tower is not None and any(parameter.requires_grad for parameter in tower.parameters()):
                tower.checkpoint_activations()

    def compile_towers(self) -> None:
        """Compiles both towers with torch.compile."""
        if self.image is not None:
            self.image.compile()
        self.text.compile(dynamic=True)

    def encode_image(self, images: Tensor, adapters: Tensor | None = None) -> Tensor:
        """images [N, ...], adapters int64 [N] as `Batch.adapters` -> float [N, D], unit rows."""
        if self.image is None:
            raise ValueError("model.image: this model was built for texts alone")
        tower, own = self.image, self.bank.of_rows(images, adapters)
        # the projection is no part of what is read: of a frozen tower nothing is computed again
        return self._projected("image", self.read(lambda part: tower(part)[0], own, images), own)

    def encode_text(
        self,
        tokens: Tensor,
        mask: Tensor,
        languages: Tensor | None = None,
        adapters: Tensor | None = None,
        lengths: np.ndarray | None = None,
    ) -> Tensor:
        """As `Network.encode_text`; lengths int64 [N] of the texts, where they are known without asking the device."""
        project = partial(self._projected, "text")
        return self._in_buckets(lambda *part: self.text(*part)[0], project, tokens, mask, languages, adapters, lengths)

    def text_rows(self, tokens: Tensor, mask: Tensor, languages: Tensor | None) -> Tensor:
        """`encode_text`, float [N, D], in one piece whatever the captions' lengths: what a graph can be traced from."""
        return self._rows("text", self.text_projection(self.text(tokens, mask, languages)[0]))

    def encode_image_multi(self, images: Tensor, adapters: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        own = self.bank.of_rows(images, adapters)
        rows, multi = self._unpacked(self.read(lambda part: _packed(*self.image_rows_multi(part)), own, images))
        there = None if self.image is None else self.image.places(images)
        if there is None:
            return rows, multi, rows.new_ones(multi.shape[:2], dtype=torch.bool)
        return rows, multi, there[:, -multi.shape[1] :]

    def image_rows_multi(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Rows [N, D] and token rows [N, P, d] of images, in one piece."""
        assert self.image is not None and self.image_projection is not None
        pooled, tokens = self.image(images)
        return self._rows("image", self.image_projection(pooled)), self.multi_rows("image", tokens)

    def encode_text_multi(
        self,
        tokens: Tensor,
        mask: Tensor,
        languages: Tensor | None = None,
        adapters: Tensor | None = None,
        lengths: np.ndarray | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        def encode(*part: Tensor) -> Tensor:
            return _packed(*self.text_rows_multi(*part)[:2])

        packed = self._in_buckets(encode, lambda rows, own: rows, tokens, mask, languages, adapters, lengths)
        rows, multi = self._unpacked(packed)
        return rows, multi, self.text.places(tokens, mask, multi.shape[1])

    def text_rows_multi(self, tokens: Tensor, mask: Tensor, languages: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """`encode_text_multi`, of N texts rows [N, D], token rows [N, L, d] and mask [N, L], in one piece."""
        pooled, features = self.text(tokens, mask, languages)
        multi = self.multi_rows("text", features)
        return self._rows("text", self.text_projection(pooled)), multi, self.text.places(tokens, mask, multi.shape[1])

    def multi_rows(self, side: str, features: Tensor, adapters: Tensor | None = None) -> Tensor:
        """Token features [N, T, W] of a side, "image" or "text" -> its token rows [N, P, d], unit length.

        Args:
            adapters: int64 [N], of `bank.of_rows`; None where one, or none, is switched on.

        Raises:
            ValueError: for a model without a head for them.
        """
        if self.multi_dimension is None:
            raise ValueError(NO_HEAD)
        tower = self.text if side == "text" or self.image is None else self.image
        first = tower.prefix_tokens or 0
        rows = self.bank.encode(self.multi[side], adapters, features[:, first:])
        return functional.normalize(rows if rows.dtype == torch.float64 else rows.float(), dim=-1)

    def _in_buckets(
        self,
        encode: Callable[..., Tensor],
        head: Callable[[Tensor, Tensor | None], Tensor],
        tokens: Tensor,
        mask: Tensor,
        languages: Tensor | None,
        adapters: Tensor | None,
        lengths: np.ndarray | None,
    ) -> Tensor:
        """`head(encode(tokens, mask, languages), adapters)` in buckets of like lengths, zeros behind narrower ones."""
        if languages is None:
            languages = torch.full((len(tokens),), -1, device=tokens.device)
        own = self.bank.of_rows(tokens, adapters, languages)

        def of_part(part: Tensor, longest: int) -> Tensor:
            inputs = tokens[part, :longest], mask[part, :longest], languages[part]
            by = None if own is None else own[part]
            return head(self.read(encode, by, *inputs), by)

        return in_buckets(mask, lengths, self.buckets, of_part)

    def _unpacked(self, packed: Tensor) -> tuple[Tensor, Tensor]:
        """What `_packed` joined."""
        rows, multi = packed.split([self.dimension, packed.shape[1] - self.dimension], 1)
        return rows, multi.unflatten(1, (-1, self.multi_dimension))

    @property
    def reads_both(self) -> bool:
        """Whether it has a row for pictures and a text together, `encode_both`."""
        return isinstance(self.text, VisionLanguageText)

    def encode_both(self, images: Tensor, tokens: Tensor, mask: Tensor, adapters: Tensor | None = None) -> Tensor:
        """images [N, k, 3, H, W], then tokens [N, L], mask bool [N, L], adapters int64 [N] -> unit rows [N, D]."""
        tower, own = self.image, self.bank.of_rows(images, adapters)
        assert isinstance(tower, VisionLanguageTower)
        return self._projected("image", self.read(lambda *part: tower(*part)[0], own, images, tokens, mask), own)

    def encode_modality(self, name: str, values: Tensor, adapters: Tensor | None = None) -> Tensor:
        """values [N, ...] of a further modality, adapters int64 [N] -> float [N, D], unit rows."""
        tower, own = self.modalities[name], self.bank.of_rows(values, adapters)
        return self._projected(name, self.read(lambda part: tower(part)[0], own, values), own)

    def with_absent(self, name: str, rows: Tensor, present: Tensor) -> Tensor:
        """Rows [..., D] of an input that may be missing, with its learned row where `present` bool [...] is not."""
        return rows.where(present.unsqueeze(-1), self._unit(self.absent[name]).to(rows.dtype))

    def tokens(
        self,
        images: Tensor,
        tokens: Tensor,
        mask: Tensor,
        languages: Tensor,
        adapters: tuple[Tensor | None, Tensor | None] = (None, None),
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Rows [N, D] and [M, D], and token features [N, 1+P, Wi] and [M, 1+L, Wt], the pooled feature first.

        Args:
            adapters: Of images and texts, as `Batch.adapters`.
        """
        of_images = self.image_tokens(images, adapters[0])
        of_texts = self.text_tokens(tokens, mask, languages, adapters[1])
        return (
            self.pooled_rows("image", of_images, self.bank.of_rows(images, adapters[0])),
            self.pooled_rows("text", of_texts, self.bank.of_rows(tokens, adapters[1], languages)),
            of_images,
            of_texts,
        )

    def image_tokens(self, images: Tensor, adapters: Tensor | None = None) -> Tensor:
        """Token features of images [N, 1+P, Wi], the pooled feature first."""
        assert self.image is not None
        tower = self.image
        return self.read(lambda part: _pooled_first(*tower(part)), self.bank.of_rows(images, adapters), images)

    def text_tokens(self, tokens: Tensor, mask: Tensor, languages: Tensor, adapters: Tensor | None = None) -> Tensor:
        """Token features of texts [M, 1+L, Wt], the pooled feature first."""
        own = self.bank.of_rows(tokens, adapters, languages)
        return self.read(lambda *part: _pooled_first(*self.text(*part)), own, tokens, mask, languages)

    def _projected(self, name: str, pooled: Tensor, adapters: Tensor | None) -> Tensor:
        """Pooled features [N, W] of an input as its rows [N, D]; adapters as of `bank.of_rows`."""
        own = {"image": self.image_projection, "text": self.text_projection}
        projection = own.get(name) or self.modality_projections[name]
        return self._rows(name, self.bank.encode(projection, adapters, pooled))

    def pooled_rows(self, side: str, features: Tensor, adapters: Tensor | None = None) -> Tensor:
        """Rows [N, D] of a side, "image" or "text", of token features [N, 1+T, W]; adapters as `multi_rows`."""
        return self._projected(side, features[:, 0].contiguous(), adapters)

    def _rows(self, name: str, projected: Tensor) -> Tensor:
        return self._unit(projected + self.observed[name] if name in self.missing else projected)

    def _unit(self, rows: Tensor) -> Tensor:
        # float32 at least: half precision leaves rows that are not of unit length
        rows = rows if rows.dtype == torch.float64 else rows.float()
        return functional.normalize(functional.layer_norm(rows, rows.shape[-1:]) if self.layer_norm else rows, dim=-1)


def _packed(rows: Tensor, multi: Tensor) -> Tensor:
    """Rows [N, D] and token rows [N, L, d] as one tensor [N, D + L d], which goes through in parts."""
    return torch.cat([rows, multi.flatten(1)], 1)


def _pooled_first(pooled: Tensor, tokens: Tensor) -> Tensor:
    return torch.cat([pooled.unsqueeze(1), tokens], 1)
