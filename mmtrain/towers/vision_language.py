"""One tower for pictures, texts and both: a vision-language model of transformers."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmtrain.towers.pooling import Pool, Pooling
from mmtrain.towers.pretrained import pretrained_folder, read_settings
from mmtrain.towers.tower import ImageTower, TextTower
from mmtrain.towers.transformers_weights import described_config, network_of

TYPE = "qwen2_5_vl"
PROCESSOR = "preprocessor_config.json"  # beside the weights: the mean and deviation of pixels


class VisionLanguageTower(ImageTower):
    """Qwen2.5-VL (Bai et al. 2025), read from the last hidden states of its language model, as jina-embeddings-v4 does
    (Günther et al. 2025, section 4). `text: shared` makes it the text tower too.

    A picture is a sequence of its start, its patches and its end; a text is its tokens; both on one canvas are the
    pictures and then the text. No input sees another.

    Args:
        pretrained: A hub name, NAME or NAME@COMMIT, or a local folder (weights and config); None for random weights of
            `config`. No code that comes with it is run.
        config: A transformers config as a mapping with model_type qwen2_5_vl; used when `pretrained` is None.
        pooling: Of all positions of an input: mean, last, max, cls or attention.
        frozen: Keep the weights as they are.

    forward(images uint8 [N, 3, H, W] or float in [0, 1]) normalises as the model's own processor does and gives the
    features of the patches; height and width are multiples of two patches' sides.

    Raises:
        ValueError: for a model of another type, or as `mmtrain.towers.transformers_weights.network_of`.
    """

    network: Any
    mean: Tensor
    deviation: Tensor
    prefix_tokens = 0

    def __init__(
        self,
        pretrained: str | None = None,
        config: dict[str, Any] | None = None,
        pooling: Pool = "mean",
        frozen: bool = False,
    ) -> None:
        super().__init__(frozen)
        from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

        self.network, settings = network_of("image", pretrained, config, _factory_of)
        normalisation = {"image_mean": OPENAI_CLIP_MEAN, "image_std": OPENAI_CLIP_STD}
        if pretrained is not None and (file := pretrained_folder(pretrained) / PROCESSOR).is_file():
            normalisation |= read_settings(file)
        self.pretrained, self.config, self.pooling = None, described_config(settings), pooling
        self.width = settings.text_config.hidden_size
        self.pool = Pooling(pooling, self.width)
        vision = settings.vision_config
        self.patch, self.merged, self.frames = vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size
        self.ends = settings.vision_start_token_id, settings.vision_end_token_id
        self.register_buffer("mean", torch.tensor(normalisation["image_mean"]).view(-1, 1, 1))
        self.register_buffer("deviation", torch.tensor(normalisation["image_std"]).view(-1, 1, 1))
        self.apply_frozen()

    @property
    def vocabulary_size(self) -> int:
        """Token ids that it has embeddings of."""
        return self.network.language_model.embed_tokens.num_embeddings

    def forward(
        self, images: Tensor | None, tokens: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Pooled features [N, W], and those of the patches or tokens [N, T, W].

        Args:
            images: A picture each [N, 3, H, W]; before texts k pictures each [N, k, 3, H, W], or none.
            tokens: int64 [N, L], of texts.
            mask: bool [N, L].
        """
        parts = []
        if images is not None:
            parts.append(self._pictures(images if images.ndim == 5 else images[:, None]))
        if tokens is not None and mask is not None:
            parts.append(self._words(tokens, mask, int(parts[0][2].max()) + 1 if parts else 0))
        embedded, there = (torch.cat([part[i] for part in parts], 1) for i in (0, 1))
        features = self._features(embedded, there, torch.cat([part[2] for part in parts], 2))
        return self.pool(features, there), features[:, 1:-1] if tokens is None else features

    def _features(self, embedded: Tensor, mask: Tensor, places: Tensor) -> Tensor:
        """The last hidden states [N, T, W] of embeddings [N, T, W], mask bool [N, T] and places int64 [3, N, T]."""
        # not the whole network, which remembers places of one call for the next, and takes a text's token of that name
        # for a picture
        return self.network.language_model(
            inputs_embeds=embedded, attention_mask=mask.long(), position_ids=places, use_cache=False
        ).last_hidden_state

    def _words(self, tokens: Tensor, mask: Tensor, first: int) -> tuple[Tensor, Tensor, Tensor]:
        """Embeddings [N, L, W], mask bool [N, L] and places [3, N, L] of texts; one without tokens is a single zero."""
        embedded = self.network.language_model.embed_tokens(tokens).masked_fill(~mask[..., None], 0)
        mask = torch.cat([mask[:, :1] | ~mask.any(1, keepdim=True), mask[:, 1:]], 1)
        return embedded, mask, (first + mask.cumsum(1) - 1).clamp(min=0).expand(3, -1, -1)

    def _pictures(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Embeddings [N, T, W], mask bool [N, T] and places [3, N, T] of pictures [N, k, 3, H, W] in a row."""
        count, several = images.shape[:2]
        patches, grid = self._patches(images.flatten(0, 1))
        grids = torch.tensor([grid], device=images.device).expand(count * several, -1)
        seen = torch.stack(self.network.get_image_features(patches, grids).pooler_output)  # [N k, P, W]
        start, end = self.network.language_model.embed_tokens(torch.tensor(self.ends, device=images.device))
        start, end = (each.to(seen.dtype).expand(len(seen), 1, -1) for each in (start, end))
        embedded = torch.cat([start, seen, end], 1).unflatten(0, (count, several)).flatten(1, 2)
        kinds = functional.pad(grids.new_ones(1, seen.shape[1]), (1, 1)).repeat(1, several)  # 1: a patch
        places, _ = self.network.get_rope_index(kinds, kinds, image_grid_thw=grids[:several])
        mask = torch.ones(embedded.shape[:2], dtype=torch.bool, device=images.device)
        return embedded, mask, places.expand(-1, count, -1)

    def _patches(self, images: Tensor) -> tuple[Tensor, list[int]]:
        """Pixels [M, 3, H, W] as the patches [M * h * w, features] that the network takes, and the grid [1, h, w].

        The patches that become one token stand together, and each is repeated as if the picture were a film.
        """
        if images.dtype == torch.uint8:
            images = images.to(self.mean.dtype) / 255
        side, merged = self.patch, self.merged
        pixels = (images - self.mean) / self.deviation
        squares = pixels.unflatten(3, (-1, merged, side)).unflatten(2, (-1, merged, side))
        patches = squares.permute(0, 2, 5, 3, 6, 1, 4, 7)  # [M, h / merged, w / merged, merged, merged, 3, side, side]
        film = patches.unsqueeze(6).expand(*[-1] * 6, self.frames, -1, -1)
        return film.flatten(5).flatten(0, 4), [1, images.shape[2] // side, images.shape[3] // side]

    def check_shape(self, shape: tuple[int, ...]) -> None:
        step = self.patch * self.merged
        if len(shape) != 3:
            raise ValueError(
                "data.images: this tower reads no pictures of free size; datamodules.ImagePipeline gives others"
            )
        if shape[-1] % step:
            raise ValueError(
                f"data.images.size: got {shape[-1]}, expected a multiple of {step}, of {self.merged} patches"
            )

    def unread_by_texts(self) -> nn.Module:
        return self.network.visual

    def checkpoint_activations(self) -> None:
        self.network.gradient_checkpointing_enable({"use_reentrant": False})


class VisionLanguageText(TextTower):
    """The text side of a vision-language tower. It has no weights of its own.

    Args:
        tower: The tower, which owns the weights.
    """

    def __init__(self, tower: VisionLanguageTower) -> None:
        super().__init__()
        self._tower = (tower,)  # not a submodule: the weights are counted, saved and trained once
        self.width, self.vocabulary_size = tower.width, tower.vocabulary_size

    def forward(self, tokens: Tensor, mask: Tensor, languages: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._tower[0](None, tokens, mask)


def _factory_of(settings: Any) -> Any:
    from transformers import AutoModel

    if settings.model_type != TYPE:
        raise ValueError(f"it is of type {settings.model_type}, expected {TYPE}")
    return AutoModel
