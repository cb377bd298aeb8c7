"""Text towers: any transformers encoder, a byte GRU, word GRUs one a language, and the image tower itself."""

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from datamodules.tokenizers.fonts import PAPER
from mmtrain.towers.pooling import Pool, Pooling
from mmtrain.towers.tower import ImageTower, TextTower
from mmtrain.towers.transformers_weights import described_config, keep_positions, network_of, positions


class TransformersTower(TextTower):
    """Any text encoder of transformers, read from its last hidden states.

    Args:
        pretrained: A hub name, NAME or NAME@COMMIT, or a local folder (weights and config); None for random weights of
            `config`. No code that comes with it is run.
        config: A transformers config as a mapping with its model_type, e.g. {model_type: xlm-roberta, hidden_size: 64};
            used when `pretrained` is None.
        pooling: cls, mean, max, last (causal models) or attention.
        frozen: Keep the weights as they are.

    Raises:
        ValueError: when neither or both are given, transformers cannot read them, or weights are missing.
    """

    network: Any

    def __init__(
        self,
        pretrained: str | None = None,
        config: dict[str, Any] | None = None,
        pooling: Pool = "mean",
        frozen: bool = False,
    ) -> None:
        super().__init__(frozen)
        from transformers import AutoModel, AutoModelForTextEncoding

        def factory_of(settings: Any) -> Any:
            text_only = type(settings) in AutoModelForTextEncoding._model_mapping
            return AutoModelForTextEncoding if text_only else AutoModel

        self.network, settings = network_of("text", pretrained, config, factory_of, unused=("pooler.",))
        if getattr(self.network, "pooler", None) is not None:
            self.network.pooler = None  # never used here, and DDP waits for gradients of every parameter
        self.pretrained = None
        self.config = described_config(settings)
        self.pooling = pooling
        text = settings.get_text_config()
        self.width, self.vocabulary_size = text.hidden_size, text.vocab_size
        self.positions = positions(self.network)
        self.register_load_state_dict_pre_hook(keep_positions)
        self.pool = Pooling(pooling, self.width)
        self.apply_frozen()

    def forward(self, tokens: Tensor, mask: Tensor, languages: Tensor | None = None) -> tuple[Tensor, Tensor]:
        features = self.network(input_ids=tokens, attention_mask=mask.long()).last_hidden_state
        return self.pool(features, mask), features

    def checkpoint_activations(self) -> None:
        self.network.gradient_checkpointing_enable({"use_reentrant": False})


class ByteGRU(TextTower):
    """A bidirectional GRU over UTF-8 bytes: every language, no download, no vocabulary.

    The backward direction reads each row reversed within its own length: the result does not depend on padding, and
    without packed sequences it can be exported.

    Args:
        width: Length of the pooled vector; half of it for each direction.
        embedding: Length of a byte's embedding.
        layers: Stacked layers.
        pooling: "last" joins the two final states (each direction's last byte); or mean, max, attention.
        dropout: On embeddings and between layers.
        vocabulary_size: Token ids: 256 bytes and the tokenizer's special ones.
        frozen: Keep the weights as they are.

    Raises:
        ValueError: for an odd width.
    """

    def __init__(
        self,
        width: int = 256,
        embedding: int = 64,
        layers: int = 1,
        pooling: Literal["last", "mean", "max", "attention"] = "last",
        dropout: float = 0.0,
        vocabulary_size: int = 259,
        frozen: bool = False,
    ) -> None:
        super().__init__(frozen)
        if width % 2:
            raise ValueError(f"text.width: got {width}, expected an even number: half of it for each direction")
        self.width = width
        self.embedding = embedding
        self.layers = layers
        self.pooling = pooling
        self.dropout = dropout
        self.vocabulary_size = vocabulary_size
        self.embed = nn.Embedding(vocabulary_size, embedding)
        sizes = [embedding] + [width] * (layers - 1)
        self.forwards = nn.ModuleList(nn.GRU(size, width // 2, batch_first=True) for size in sizes)
        self.backwards = nn.ModuleList(nn.GRU(size, width // 2, batch_first=True) for size in sizes)
        self.drop = nn.Dropout(dropout)
        self.pool = None if pooling == "last" else Pooling(pooling, width)
        self._checkpointing = False
        self.apply_frozen()

    def forward(self, tokens: Tensor, mask: Tensor, languages: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if self._checkpointing and self.training:
            return checkpoint(self._encode, tokens, mask, use_reentrant=False)
        return self._encode(tokens, mask)

    def _encode(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        positions = torch.arange(tokens.shape[1], device=tokens.device).unsqueeze(0)
        lengths = mask.sum(1, keepdim=True).clamp(min=1)
        mirror = torch.where(positions < lengths, lengths - 1 - positions, positions)
        features = self.drop(self.embed(tokens))
        for ahead, back in zip(self.forwards, self.backwards, strict=True):
            right, _ = ahead(features)
            index = mirror.unsqueeze(-1)
            left, _ = back(features.gather(1, index.expand(-1, -1, features.shape[-1])))
            left = left.gather(1, index.expand(-1, -1, left.shape[-1]))
            features = self.drop(torch.cat([right, left], dim=-1))
        if self.pool is not None:
            return self.pool(features, mask), features
        half = self.width // 2
        last = features.gather(1, (lengths - 1).unsqueeze(-1).expand(-1, -1, self.width))[:, 0]
        # the backward direction has read its whole row at position 0
        return torch.cat([last[:, :half], features[:, 0, half:]], dim=-1), features

    def checkpoint_activations(self) -> None:
        self._checkpointing = True


class WordGRU(TextTower):
    """One word embedding and one GRU for each language, as in Gella et al. 2017; the last state is the caption.

    Args:
        languages: Number of languages; language index i (Batch.languages) is read by GRU i.
        vocabulary_size: Words of all languages together (the tokenizer's ids).
        width: Length of the final state (1,024 in the paper).
        embedding: Length of a word's embedding (300 in the paper).
        frozen: Keep the weights as they are.
    """

    reads_by_language = True

    def __init__(
        self, languages: int, vocabulary_size: int, width: int = 1024, embedding: int = 300, frozen: bool = False
    ) -> None:
        super().__init__(frozen)
        self.languages = languages
        self.vocabulary_size = vocabulary_size
        self.width = width
        self.embedding = embedding
        self.embed = nn.Embedding(vocabulary_size, embedding)
        self.readers = nn.ModuleList(nn.GRU(embedding, width, batch_first=True) for _ in range(languages))
        self.pool = Pooling("last", width)
        self.apply_frozen()

    def forward(self, tokens: Tensor, mask: Tensor, languages: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if languages is None or bool((languages < 0).any()) or bool((languages >= self.languages).any()):
            raise ValueError(f"WordGRU reads {self.languages} languages by index, got {languages}")
        embeddings = self.embed(tokens)
        features = embeddings.new_zeros(*tokens.shape, self.width)
        for index, reader in enumerate(self.readers):
            rows = (languages == index).nonzero()[:, 0]
            if len(rows):
                features = features.index_copy(0, rows, reader(embeddings[rows])[0].to(features.dtype))
            else:  # one row times zero: DDP waits for every parameter
                features = features + 0 * reader(embeddings[:1])[0].sum()
        return self.pool(features, mask), features

    def blocks(self) -> dict[str, int]:
        return {}  # the readers stand side by side


class SharedText(TextTower):
    """The image tower as a text tower (CLIPPO, Tschannen et al., CVPR 2023). It has no weights of its own.

    forward(tokens uint8 [N, h, side] grey pixels, mask bool [N, h] of the rows used) pads the page below with blank
    rows to the square that the image tower sees; the token features are that tower's, of the whole square.

    Args:
        image: The image tower, which owns the weights.
    """

    vocabulary_size = 2**31  # any pixel is a token

    def __init__(self, image: ImageTower) -> None:
        super().__init__()
        self._image = (image,)  # not a submodule: the weights are counted, saved and trained once
        self.width, self.prefix_tokens = image.width, image.prefix_tokens

    def places(self, tokens: Tensor, mask: Tensor, count: int) -> Tensor:
        """The patches of the rows of patches that text reaches into; all where they are no square."""
        side = math.isqrt(count)
        used = (mask.sum(1) * side / tokens.shape[2]).ceil().clamp(min=1)
        row = torch.arange(count, device=mask.device) // side
        return (row < used[:, None]) | (side * side != count)

    def forward(self, tokens: Tensor, mask: Tensor, languages: Tensor | None = None) -> tuple[Tensor, Tensor]:
        side = tokens.shape[2]
        rows = tokens.masked_fill(~mask[..., None], PAPER)  # absent texts are zeros
        page = functional.pad(rows, (0, 0, 0, side - tokens.shape[1]), value=PAPER)
        return self._image[0](page[:, None].expand(-1, 3, -1, -1))
