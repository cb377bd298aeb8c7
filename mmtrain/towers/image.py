"""Image towers: any timm model, and precomputed features."""

import re
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from datamodules.naflex import PLACE, unpacked
from mmtrain.display.messages import first_line
from mmtrain.towers.pooling import Pool, Pooling
from mmtrain.towers.pretrained import is_refused, pretrained_folder, read_settings
from mmtrain.towers.tower import ImageTower


class TimmTower(ImageTower):
    """Any model of timm, without its classifier.

    Args:
        name: timm's architecture name, e.g. vit_base_patch16_224; may be left out when `pretrained` names a hub
            repository or folder, which know their architecture.
        pretrained: None (random weights), a timm tag (vit_base_patch16_224.augreg2_in21k_ft_in1k), a hub repository
            (timm/..., of one commit with @COMMIT behind it), or a local folder with config.json and model.safetensors,
            as timm writes it.
        pooling: "timm" uses the model's own pooling; cls, mean, max, last and attention pool its tokens.
        image_size: Pixels of the square input where it differs from the model's own; position embeddings are resized.
        options: Further arguments of timm.create_model, e.g. {patch_drop_rate: 0.5, embed_dim: 192, depth: 6}.
        frozen: Keep the weights as they are (LiT, Zhai et al. 2022).

    forward(images uint8 [N, 3, H, W] or float in [0, 1]) normalises with the model's own mean and deviation. A NaFlex
    model (naflexvit_..., or a vision transformer with the option use_naflex: true) reads packed patches too, as
    `datamodules.NaFlexPipeline` makes them; the token features behind a picture's last patch are zeros.

    Raises:
        ValueError: for a name timm does not know, or a folder that holds no timm model.
    """

    network: Any
    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        name: str | None = None,
        pretrained: str | None = None,
        pooling: Literal["timm", "cls", "mean", "max", "last", "attention"] = "timm",
        image_size: int | None = None,
        options: dict[str, Any] | None = None,
        frozen: bool = False,
    ) -> None:
        super().__init__(frozen)
        import timm
        from timm.data import resolve_model_data_config

        source, own_options = _timm_source(name, pretrained)
        options = own_options | (options or {})
        if image_size is not None:
            options["img_size"] = image_size
        try:
            self.network = timm.create_model(source, pretrained=pretrained is not None, num_classes=0, **options)
        except (RuntimeError, FileNotFoundError, OSError, TypeError, AssertionError) as error:
            raise ValueError(f"image tower: timm cannot build {source!r}: {first_line(error)}") from error
        self.name = (getattr(self.network, "pretrained_cfg", None) or {}).get("architecture") or source.split(".")[0]
        self.pretrained = None
        self.pooling = pooling
        self.image_size = options.pop("img_size", None)
        # as with `pretrained`: the weights are in, and a checkpoint must not name files
        self.options = {name: value for name, value in options.items() if not is_refused(name, value, options=True)}
        self.width = self.network.num_features if pooling != "timm" else self.network.head_hidden_size
        self.pool = None if pooling == "timm" else Pooling(pooling, self.width)
        if self._patches is not None:
            self.prefix_tokens = getattr(self.network, "num_prefix_tokens", None)
        data = resolve_model_data_config(self.network)
        # saved with the weights: a hub repository may have its own, which the architecture's name does not tell
        self.register_buffer("mean", torch.tensor(data["mean"]).view(1, -1, 1, 1))
        self.register_buffer("deviation", torch.tensor(data["std"]).view(1, -1, 1, 1))
        self.apply_frozen()

    @property
    def reads_patches(self) -> bool:
        """Whether it reads pictures of free size."""
        return hasattr(getattr(self.network, "embeds", None), "patch_size")

    @property
    def _patches(self) -> Any:
        """The layer that gives the embedded patches, not yet their positions; None where there are none."""
        return self.network.embeds.norm if self.reads_patches else getattr(self.network, "patch_embed", None)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if images.ndim == 3:
            return self._of_patches(images)
        features = self.network.forward_features(self._normalised(images))
        tokens = _sequence(features, self.network.num_features)
        if self.pool is None:
            return self.network.forward_head(features, pre_logits=True), tokens
        pooled = self.pool(tokens)
        if self.training:  # times zero: DDP waits for every parameter, and checkpoints hold the model's own head too
            pooled = pooled + 0 * self.network.forward_head(features, pre_logits=True).sum()
        return pooled, tokens

    def _of_patches(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """`forward` of packed patches [N, P, 2 + 3 p^2]."""
        if not self.reads_patches:
            raise ValueError(f"{self.name} reads no pictures of free size; a naflexvit of timm does")
        side, numbers = self.network.embeds.patch_size[0], images.shape[2] - PLACE
        if numbers != 3 * side**2:
            raise ValueError(f"its patches are {side} pixels wide, those of data.images have {numbers} numbers")
        if self.training and self.network.patch_drop is not None:
            raise ValueError("model.image.options: patch_drop_rate does not go with pictures of free size")
        pixels, places, there = unpacked(images)
        longest = max(1, int(there.sum(1).max()))  # what is behind it is nobody's
        pixels, places, there = pixels[:, :longest], places[:, :longest], there[:, :longest]
        values = pixels.to(self.mean.dtype).unflatten(2, (-1, 3)) / 255
        values = (values - self.mean.view(3)) / self.deviation.view(3)
        features = self.network.forward_features(values.flatten(2), places, there)
        tokens = features["patches"]
        there = functional.pad(there, (self.prefix_tokens or 0, 0), value=True)
        if self.pool is None:
            pooled = self.network.forward_head(**features, pre_logits=True)
        else:
            pooled = self.pool(tokens, there)
            if self.training:  # as above
                pooled = pooled + 0 * self.network.forward_head(**features, pre_logits=True).sum()
        tokens = tokens * there.unsqueeze(-1)
        return pooled, functional.pad(tokens, (0, 0, 0, images.shape[1] - longest))

    def places(self, images: Tensor) -> Tensor | None:
        if images.ndim != 3:
            return None
        return functional.pad(unpacked(images)[2], (self.prefix_tokens or 0, 0), value=True)

    def _normalised(self, images: Tensor) -> Tensor:
        """Pixels minus the mean, over the deviation; under autocast in its precision, by one pass over them."""
        if images.is_cuda:
            images = images.contiguous(memory_format=torch.channels_last)  # as its convolutions are fastest
        if not torch.is_autocast_enabled(images.device.type):
            pixels = images.to(self.mean.dtype) / 255 if images.dtype == torch.uint8 else images
            return (pixels - self.mean) / self.deviation
        gain = 1 / (255 * self.deviation if images.dtype == torch.uint8 else self.deviation)
        out = torch.empty_like(images, dtype=torch.get_autocast_dtype(images.device.type))
        return torch.addcmul(-self.mean / self.deviation, images, gain, out=out)

    def masked(self, images: Tensor, mask: Tensor, token: Tensor) -> tuple[Tensor, Tensor]:
        def put(layer: nn.Module, inputs: Any, patches: Tensor) -> Tensor:
            return torch.where(mask.view(*patches.shape[:-1], 1), token.to(patches.dtype), patches)

        hook = self._patches.register_forward_hook(put)
        try:
            return self.forward(images)  # a compiled tower would not know of the hook
        finally:
            hook.remove()

    def blocks(self) -> dict[str, int]:
        """By the model's own matcher, which counts the blocks of all stages."""
        from timm.models import group_parameters

        try:
            matcher = self.network.group_matcher(coarse=False)
        except (AttributeError, AssertionError):
            return super().blocks()
        specs = [each if isinstance(each, list | tuple) else [(each, None)] for each in matcher.values() if each]
        # the patterns of blocks capture numbers; what matches none of them comes last
        numbered = [[spec for spec in group if re.compile(spec[0]).groups] for group in specs]
        groups = group_parameters(self.network, dict(enumerate(numbered)), reverse=True)
        patterns = [pattern for group in numbered for pattern, _ in group]
        return {
            f"network.{name}": number
            for name, number in groups.items()
            if any(re.match(pattern, name) for pattern in patterns)
        }

    @torch.no_grad()
    def check_shape(self, shape: tuple[int, ...]) -> None:
        modes = {module: module.training for module in self.modules()}
        self.eval()  # batch normalisation cannot train on one picture
        try:
            pooled, _ = self.forward(torch.zeros(1, *shape, dtype=torch.uint8, device=self.mean.device))
        except (RuntimeError, AssertionError, ValueError, IndexError) as error:
            why = first_line(error).rstrip(".")
            if len(shape) == 2:
                raise ValueError(f"data.images.patch_size: the image tower cannot read the patches: {why}") from error
            raise ValueError(
                f"data.images.size: the image tower cannot read pictures of {shape[-1]} pixels ({why}); set it, that"
                " of the field or part, or model.image.image_size; for several sizes dynamic_img_size: true among"
                " model.image.options"
            ) from error
        finally:
            for module, mode in modes.items():
                module.training = mode
        if pooled.shape != (1, self.width):
            raise ValueError(
                f"model.image: a picture's pooled features are {list(pooled.shape)}, expected {[1, self.width]}; see"
                " model.image.pooling and model.image.options"
            )

    def checkpoint_activations(self) -> None:
        self.network.set_grad_checkpointing(True)


class FeatureTower(ImageTower):
    """Precomputed features, passed on as they are (Gella et al. 2017: VGG19 features, one linear layer behind them).

    Args:
        width: F, the length of the vectors in the shards' .npy files.
        normalise: Scale each vector to unit length first.
        pooling: Of P token vectors, as `mmtrain embed --tokens` writes them: mean, cls, max, last or attention.

    forward(features float [N, F] or [N, P, F]) -> (pooled [N, F], tokens [N, 1, F] or [N, P, F]).

    Raises:
        ValueError: for another pooling, or features of another width.
    """

    def __init__(self, width: int, normalise: bool = False, pooling: Pool = "mean") -> None:
        super().__init__()
        self.width = width
        self.normalise = normalise
        self.pooling = pooling
        self.pool = Pooling(pooling, width)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if images.ndim not in (2, 3) or images.shape[-1] != self.width:
            shape = tuple(images.shape[1:])
            raise ValueError(f"{self.option}.width: {self.width}, but the shards hold features of shape {shape}")
        tokens = images.float() if images.ndim == 3 else images.float().unsqueeze(1)
        if self.normalise:
            tokens = nn.functional.normalize(tokens, dim=-1)
        return self.pool(tokens), tokens


def _timm_source(name: str | None, pretrained: str | None) -> tuple[str, dict[str, Any]]:
    """What timm.create_model takes, and the arguments that come with the weights."""
    if pretrained is None:
        if name is None:
            raise ValueError("image.name: missing; give a timm architecture, or `pretrained`")
        return name, {}
    if "/" not in pretrained and not Path(pretrained).is_dir():
        return pretrained, {}
    folder = pretrained_folder(pretrained)
    if not (folder / "config.json").is_file():
        raise ValueError(f"image.pretrained: {pretrained} holds no config.json; timm's folders do")
    return f"local-dir:{folder}", read_settings(folder / "config.json").get("model_args") or {}


def _sequence(features: Tensor, channels: int) -> Tensor:
    """[N, P, W] as it is; maps [N, W, h, w] or [N, h, w, W] become [N, h * w, W]; vectors [N, W] one token."""
    if features.ndim == 2:
        return features.unsqueeze(1)
    if features.ndim == 3:
        return features
    if features.shape[1] == channels:
        return features.flatten(2).transpose(1, 2)
    return features.flatten(1, 2)
