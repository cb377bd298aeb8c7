"""Two towers and their projections into the shared space."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from losses import micro_batched
from mmtrain.models.adapters import (
    TOWERS as SIDES,
)
from mmtrain.models.adapters import (
    UNNAMED,
    Adapter,
    AdapterBank,
    add_adapter,
    linear_layers,
    merge_adapter,
    train_adapters,
)
from mmtrain.models.network import Network
from mmtrain.towers import ImageTower, SharedText, TextTower

Projection = Literal["linear", "mlp", "none"]
TOWERS = ("image", "text", "image_projection", "text_projection", "modalities", "modality_projections")
TRAINED = (*TOWERS, "absent", "observed")  # the modules of an ImageTextModel
Composition = Literal["sum", "product"]


class ImageTextModel(Network):
    """Images and captions of any language as rows of unit length in one space.

    Args:
        image: The image tower; None makes a model of texts alone.
        text: The text tower; "shared" lets the image tower read texts that a tokenizer renders as images.
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
        composition: What a query of several inputs is: the normalised sum of their rows, or their product, which Symile
            trains and which is not normalised.
        prompts: What stands before texts of a role, query or passage.
        adapters: Low-rank adapters by name, beside a base that is frozen; see `mmtrain.models.adapters`.

    Raises:
        ValueError: when projection is none and a tower's width is not D, a shared tower is missing, an input that may
            be missing is none of the model's, or an adapter fits no layer.
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
        composition: Composition = "sum",
        prompts: Mapping[str, str] | None = None,
        adapters: Mapping[str, Adapter | Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__()
        self.shared = isinstance(text, str)
        if isinstance(text, str):
            if text != "shared" or image is None:
                raise ValueError(f"model.text: got {text!r}, expected a text tower, or shared beside an image tower")
            text = SharedText(image)
        self.image, self.text = image, text
        self.reads_by_language = text.reads_by_language
        self.dimension = dimension
        self.projection = projection
        self.buckets = buckets
        self.image_projection = None if image is None else _projection(projection, "image", image.width, dimension)
        self.text_projection = _projection(projection, "text", self.text.width, dimension)
        self.modalities = nn.ModuleDict(dict(modalities or {}))
        self.modality_projections = nn.ModuleDict(
            {name: _projection(projection, name, tower.width, dimension) for name, tower in (modalities or {}).items()}
        )
        inputs = {"image", "text", *self.modalities}
        if unknown := [name for name in missing if name not in inputs]:
            raise ValueError(f"model.missing: got {', '.join(unknown)}, expected some of {', '.join(sorted(inputs))}")
        if composition not in ("sum", "product"):
            raise ValueError(f"model.composition: got {composition!r}, expected sum or product")
        self.missing, self.layer_norm, self.composition = list(missing), layer_norm, composition
        self.absent = nn.ParameterDict({name: nn.Parameter(torch.randn(dimension)) for name in missing})
        self.observed = nn.ParameterDict({name: nn.Parameter(torch.zeros(dimension)) for name in missing})
        self.set_prompts(prompts or {})
        self.micro_batch: int | None = None
        self.divided = False  # whether the processes hold a part of each block's weights (FSDP2)
        self.lora: dict[str, int] = {}
        self.bank = AdapterBank(self)
        self.add_lora(lora or {})
        self.add_adapters(adapters or {})

    def arguments(self) -> dict[str, object]:
        """The constructor's arguments, for `mmtrain.models.spec.spec_of`."""
        return {
            "image": self.image,
            "text": "shared" if self.shared else self.text,
            "dimension": self.dimension,
            "projection": self.projection,
            "modalities": dict(self.modalities.items()),
            "lora": self.lora,
            "buckets": self.buckets,
            "missing": self.missing,
            "layer_norm": self.layer_norm,
            "composition": self.composition,
            "prompts": dict(self.prompts),
            "adapters": self.bank.described(),
        }

    def train(self, mode: bool = True) -> "ImageTextModel":
        """Training mode, in which the base of adapters stays in evaluation mode."""
        super().train(mode and not self.bank.settings)
        if self.bank.settings:
            train_adapters(self, mode)
        return self

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

    def add_lora(self, ranks: Mapping[str, int]) -> None:
        """Freezes towers and puts an adapter without a name into each, of these ranks.

        Raises:
            ValueError: for another side, a rank below 1, or a tower without linear layers.
        """
        for side, rank in ranks.items():
            if side not in SIDES or rank < 1:
                raise ValueError(f"model.lora: got {side}: {rank}, expected image or text with a rank from 1")
            if (tower := getattr(self, side)) is None:
                continue
            if not (layers := linear_layers(tower)):
                raise ValueError(f"model.lora: {side}: {type(tower).__name__} has no linear layers to adapt")
            add_adapter(tower, UNNAMED, Adapter(rank), layers)
        self.lora = dict(ranks)

    def merge_lora(self) -> None:
        """Adds the adapters without a name, where there are any, to the weights they stand beside."""
        if self.lora:
            merge_adapter(self, UNNAMED)
            self.lora = {}

    def add_adapters(self, adapters: Mapping[str, Adapter | Mapping[str, Any]]) -> None:
        """Freezes all and adds adapters by name.

        Raises:
            ValueError: beside adapters without a name, or for one that fits no layer.
        """
        if self.lora and adapters:
            raise ValueError(f"model.lora: got {self.lora} beside model.adapters; expected one of them")
        for name, adapter in adapters.items():
            self.bank.add(name, adapter, strict=self.image is not None)
        self.train(self.training)

    def merge_adapters(self, name: str | None = None) -> None:
        """Makes the towers plain ones, with this adapter in their weights, or none, and leaves the others."""
        merge_adapter(self, name)
        self.bank = AdapterBank(self)

    def encode_image(self, images: Tensor, adapters: Tensor | None = None) -> Tensor:
        """images [N, ...], adapters int64 [N] as `Batch.adapters` -> float [N, D], unit rows."""
        return self._read(self._image_rows, self.bank.of_rows(images, adapters), images)

    def encode_text(
        self, tokens: Tensor, mask: Tensor, languages: Tensor | None = None, adapters: Tensor | None = None
    ) -> Tensor:
        """tokens [N, L, ...], mask bool [N, L], languages and adapters int64 [N] -> float [N, D], unit rows."""
        if languages is None:
            languages = torch.full((len(tokens),), -1, device=tokens.device)
        own = self.bank.of_rows(tokens, adapters, languages)
        lengths = mask.sum(1)
        order = lengths.argsort(stable=True)
        rows = []
        for part in order.chunk(self.buckets if len(tokens) > self.buckets else 1):
            longest = max(int(lengths[part[-1]]), 1)
            inputs = tokens[part, :longest], mask[part, :longest], languages[part]
            rows.append(self._read(self.text_rows, None if own is None else own[part], *inputs))
        return torch.cat(rows)[order.argsort()]

    def text_rows(self, tokens: Tensor, mask: Tensor, languages: Tensor | None) -> Tensor:
        """`encode_text`, float [N, D], in one piece whatever the captions' lengths: what a graph can be traced from."""
        return self._rows("text", self.text_projection(self.text(tokens, mask, languages)[0]))

    def encode_modality(self, name: str, values: Tensor, adapters: Tensor | None = None) -> Tensor:
        """values [N, ...] of a further modality, adapters int64 [N] -> float [N, D], unit rows."""
        tower, projection = self.modalities[name], self.modality_projections[name]
        own = self.bank.of_rows(values, adapters)
        return self._read(lambda part: self._rows(name, projection(tower(part)[0])), own, values)

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
        assert self.image is not None and self.image_projection is not None
        image_tower = self.image
        own = self.bank.of_rows(images, adapters[0]), self.bank.of_rows(tokens, adapters[1], languages)
        of_images = self._read(lambda part: _pooled_first(*image_tower(part)), own[0], images)
        of_texts = self.text_tokens(tokens, mask, languages, adapters[1])
        pooled = of_images[:, 0].contiguous(), of_texts[:, 0].contiguous()
        return (
            self._rows("image", self.bank.encode(self.image_projection, own[0], pooled[0])),
            self._rows("text", self.bank.encode(self.text_projection, own[1], pooled[1])),
            of_images,
            of_texts,
        )

    def text_tokens(self, tokens: Tensor, mask: Tensor, languages: Tensor, adapters: Tensor | None = None) -> Tensor:
        """Token features of texts [M, 1+L, Wt], the pooled feature first."""
        own = self.bank.of_rows(tokens, adapters, languages)
        return self._read(lambda *part: _pooled_first(*self.text(*part)), own, tokens, mask, languages)

    def _read(self, encode: Callable[..., Tensor], adapters: Tensor | None, *inputs: Tensor) -> Tensor:
        """`in_parts`, each row by its own adapter."""
        if adapters is None:
            return self.in_parts(encode, *inputs)
        return self.in_parts(lambda own, *part: self.bank.encode(encode, own, *part), adapters, *inputs)

    def in_parts(self, encode: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """`encode(*inputs)` [N, ...] of inputs [N, ...], in parts of `micro_batch` where there is one."""
        if self.micro_batch is None or len(inputs[0]) <= self.micro_batch:
            return encode(*inputs)
        return micro_batched(encode, *inputs, micro_batch=self.micro_batch)

    def _image_rows(self, images: Tensor) -> Tensor:
        if self.image is None or self.image_projection is None:
            raise ValueError("model.image: this model was built for texts alone")
        return self._rows("image", self.image_projection(self.image(images)[0]))

    def _rows(self, name: str, projected: Tensor) -> Tensor:
        return self._unit(projected + self.observed[name] if name in self.missing else projected)

    def _unit(self, rows: Tensor) -> Tensor:
        # float32 at least: half precision leaves rows that are not of unit length
        rows = rows if rows.dtype == torch.float64 else rows.float()
        return functional.normalize(functional.layer_norm(rows, rows.shape[-1:]) if self.layer_norm else rows, dim=-1)


def _pooled_first(pooled: Tensor, tokens: Tensor) -> Tensor:
    return torch.cat([pooled.unsqueeze(1), tokens], 1)


def _projection(kind: Projection, side: str, width: int, dimension: int) -> nn.Module:
    if kind == "linear":
        return nn.Linear(width, dimension, bias=False)
    if kind == "mlp":
        return nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, dimension))
    if kind != "none":
        raise ValueError(f"projection: got {kind!r}, expected linear, mlp or none")
    if width != dimension:
        raise ValueError(f"projection none needs {side} features of width {dimension}, the tower gives {width}")
    return nn.Identity()
