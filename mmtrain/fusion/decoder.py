"""A decoder that writes captions: from a picture's un-pooled tokens to the tokens of a text.

Letters: N texts, P image tokens, L text tokens, V ids of the tokenizer, W the decoder's width, b beams.
"""

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from losses.tokens import linear_token_losses
from mmtrain.fusion.encoders import attended, keys_values


class CaptionDecoder(nn.Module):
    """Transformer layers over text tokens, which attend to each other and to a picture's tokens.

    forward(image_tokens [N, P, Wi], languages int64 [N], tokens int64 [N, L], mask bool [N, L], parallel bool [N]) ->
    features [N, 1 + L, W]. The first place reads the language and predicts the first token; each other place reads a
    token and predicts the next, the last one the end (id V). A text in `parallel` has masks in place of its tokens, and
    each place sees them all (CapPa: Tschannen et al., "Image Captioners Are Scalable Vision Learners Too", NeurIPS
    2023). Tokens are those without special ids, see `contents`. Embeddings start with deviation 1 and the output layer
    at 0, as in their code; positions are sines, so that a text may be of any length.

    An objective makes the layers when it knows the towers and the data; what is None here comes from there.

    Args:
        width: W; None for the text tower's.
        layers: None for half the text tower's.
        heads: They divide W; None for W / 64.
        dropout: In all layers.
        image_width: Wi.
        vocabulary_size: V.
        languages: The codes of the languages that it writes, whose numbers `languages` holds.

    Raises:
        ValueError: for a width that the heads do not divide, or fewer than one layer.
    """

    def __init__(
        self,
        width: int | None = None,
        layers: int | None = None,
        heads: int | None = None,
        dropout: float = 0.0,
        image_width: int | None = None,
        vocabulary_size: int | None = None,
        languages: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.width, self.layers, self.heads, self.dropout = width, layers, heads, dropout
        self.image_width, self.vocabulary_size, self.languages = image_width, vocabulary_size, list(languages)
        if image_width is not None and vocabulary_size is not None:
            self.build(vocabulary_size, languages)

    def connect(self, model: Any) -> None:
        """Takes from a model what the arguments leave open."""
        self.image_width = model.image.width
        depth = max(model.text.blocks().values(), default=0) + 1
        self.width = self.width or model.text.width
        self.layers = max(depth // 2, 1) if self.layers is None else self.layers

    def build(self, vocabulary_size: int, languages: Sequence[str]) -> None:
        """Makes the layers; a second time, for the same tokenizer and languages, nothing.

        Raises:
            ValueError: fewer than one layer, or heads that do not divide the width.
        """
        if hasattr(self, "output") and (self.vocabulary_size, self.languages) == (vocabulary_size, list(languages)):
            return
        assert self.width is not None and self.layers is not None and self.image_width is not None
        self.heads = self.heads or max(self.width // 64, 1)
        if self.layers < 1:
            raise ValueError(f"decoder.layers: got {self.layers}, expected at least 1")
        if self.width % self.heads:
            raise ValueError(f"decoder.heads: got {self.heads}, expected a divisor of the width {self.width}")
        self.vocabulary_size, self.languages = vocabulary_size, list(languages)
        self.end, self.masked = vocabulary_size, vocabulary_size + 1
        self.embed = nn.Embedding(vocabulary_size + 2, self.width)
        self.language = nn.ParameterDict({name: nn.Parameter(torch.randn(self.width)) for name in languages})
        self.image_in = nn.Sequential(nn.LayerNorm(self.image_width), nn.Linear(self.image_width, self.width))
        self.blocks: Any = nn.ModuleList(  # which says of its members only that they are modules
            nn.TransformerDecoderLayer(
                self.width, self.heads, 4 * self.width, self.dropout, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(self.layers)
        )
        self.norm = nn.LayerNorm(self.width)
        self.output = nn.Linear(self.width, vocabulary_size + 1, bias=False)
        nn.init.zeros_(self.output.weight)

    def forward(
        self,
        image_tokens: Tensor,
        languages: Tensor,
        tokens: Tensor,
        mask: Tensor,
        parallel: Tensor | None = None,
        absent: Tensor | None = None,
    ) -> Tensor:
        """Features float [N, 1 + L, W]: place l is what the token l is predicted from, the last one the end.

        Args:
            image_tokens: float [N, P, Wi].
            languages: int64 [N], from 0.
            tokens: int64 [N, L].
            mask: bool [N, L], the tokens that there are.
            parallel: bool [N], captions of which it sees no token; None for none.
            absent: bool [N, P], image tokens that there are not; None where all are.
        """
        N, L = tokens.shape
        if parallel is None:
            parallel = tokens.new_zeros(N, dtype=torch.bool)
        read = self.embed(tokens.masked_fill(parallel[:, None] | ~mask, self.masked))
        rows = torch.cat([self._language_rows(languages), read], 1) + sines(1 + L, read)
        later = torch.ones(1 + L, 1 + L, dtype=torch.bool, device=mask.device).triu(1)
        hidden = (later & ~parallel[:, None, None]) | ~torch.cat([mask.new_ones(N, 1), mask], 1)[:, None]
        hidden = hidden.repeat_interleave(self.blocks[0].self_attn.num_heads, 0)
        pictures = self.image_in(image_tokens)
        for block in self.blocks:
            rows = block(rows, pictures, tgt_mask=hidden, memory_key_padding_mask=absent)
        return self.norm(rows)

    def targets(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """What the places of texts are to predict, [N, 1 + L], and which of them count."""
        ids = nn.functional.pad(tokens.masked_fill(~mask, self.end), (0, 1), value=self.end)
        return ids, torch.cat([mask.new_ones(len(mask), 1), mask], 1)

    def log_likelihood(
        self, image_tokens: Tensor, languages: Tensor, tokens: Tensor, mask: Tensor, absent: Tensor | None = None
    ) -> Tensor:
        """log p of whole texts, their ends included, given pictures and languages: [N]; the rest as for `forward`."""
        ids, there = self.targets(tokens, mask)
        features = self(image_tokens, languages, tokens, mask, absent=absent)
        each = linear_token_losses(features[there], self.output.weight, ids[there])
        return -each.new_zeros(there.shape).masked_scatter(there, each).sum(1)

    def write(
        self,
        image_tokens: Tensor,
        languages: Tensor,
        *,
        beams: int = 1,
        longest: int = 64,
        without: Collection[int] = (),
        absent: Tensor | None = None,
    ) -> list[list[int]]:
        """The tokens of a text for each picture: the likeliest token at each place, or what a search of beams finds.

        A search ends with the text whose mean log p a token is the highest.

        Args:
            image_tokens: [N, P, Wi].
            languages: int64 [N].
            beams: b, texts kept at each place; 1 keeps the likeliest alone.
            longest: Tokens of the longest text.
            without: Ids that no text has.
            absent: As for `forward`.
        """
        N, ids = len(image_tokens), self.end + 1
        pictures = self.image_in(image_tokens)
        seen = [keys_values(block.multihead_attn, pictures).repeat_interleave(beams, 0) for block in self.blocks]
        there = None if absent is None else ~absent.repeat_interleave(beams, 0)[:, None, None]
        past = [pictures.new_zeros(N * beams, 0, 2 * pictures.shape[2]) for _ in self.blocks]
        scores = pictures.new_full((N, beams), -torch.inf, dtype=torch.float32)
        scores[:, 0] = 0
        texts = languages.new_zeros(N, beams, 0)
        banned = torch.tensor(sorted(without), dtype=torch.int64, device=pictures.device)
        first = torch.arange(N, device=pictures.device)[:, None] * beams
        places = sines(longest, pictures)
        rows = self._language_rows(languages).repeat_interleave(beams, 0)
        for place in range(longest):
            rows, past = self._step(rows + places[place], past, seen, there)
            logs = self.output(rows[:, 0]).float().index_fill(1, banned, -torch.inf).log_softmax(1).view(N, beams, ids)
            if place:
                ended = texts[:, :, -1:] == self.end
                only_end = torch.full_like(logs[:1, :1], -torch.inf).index_fill(2, texts.new_tensor([self.end]), 0.0)
                logs = torch.where(ended, only_end, logs)
            scores, best = (scores[:, :, None] + logs).flatten(1).topk(beams)
            parent, token = best // ids, best % ids
            texts = torch.cat([texts.gather(1, parent[:, :, None].expand(-1, -1, place)), token[:, :, None]], 2)
            if (token == self.end).all():
                break
            past = [each[(first + parent).flatten()] for each in past]
            rows = self.embed(token.flatten())[:, None]
        best = (scores / ((texts != self.end).sum(2) + 1)).argmax(1)
        return [[id for id in text if id != self.end] for text in texts[torch.arange(N), best].tolist()]

    def _step(
        self, rows: Tensor, past: list[Tensor], seen: list[Tensor], there: Tensor | None
    ) -> tuple[Tensor, list[Tensor]]:
        """One more place [N, 1, W] behind those whose keys and values are given; without dropout."""
        now = []
        for block, before, picture in zip(self.blocks, past, seen, strict=True):
            normed = block.norm1(rows)
            now.append(torch.cat([before, keys_values(block.self_attn, normed)], 1))
            rows = rows + attended(block.self_attn, normed, now[-1])
            rows = rows + attended(block.multihead_attn, block.norm2(rows), picture, there)
            rows = rows + block.linear2(block.activation(block.linear1(block.norm3(rows))))
        return self.norm(rows), now

    def _language_rows(self, languages: Tensor) -> Tensor:
        """[N, 1, W]."""
        return torch.stack([self.language[name] for name in self.languages])[languages][:, None]


def sines(length: int, like: Tensor) -> Tensor:
    """Positions [length, W] as sines and cosines (Vaswani et al. 2017, section 3.5), for rows [..., W]."""
    half = (like.shape[-1] + 1) // 2
    rates = 10000 ** -(torch.arange(half, device=like.device) / half)
    angles = torch.arange(length, device=like.device)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], 1)[:, : like.shape[-1]].to(like.dtype)


def contents(tokens: Tensor, mask: Tensor, special: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens [N, L] and mask without special ids, which stand for no text; what is left moves together."""
    there = mask & ~torch.isin(tokens, special)
    order = there.int().argsort(dim=1, descending=True, stable=True)[:, : max(int(there.sum(1).max()), 1)]
    return tokens.gather(1, order), there.gather(1, order)
