"""Latent semantic indexing of texts with their translations (Dumais et al. 1997), as a text tower and for others.

A space knows some documents; it keeps the singular vectors of their words, weighted by how rare each is. A text is the
sum of its words' vectors, each times the logarithm of how often it comes. Nothing is trained: seconds on one core.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from scipy.sparse import csr_array
from scipy.sparse.linalg import svds
from torch import Tensor

from datamodules import WordTokenizer
from datamodules.files import write_whole
from datamodules.tokenizers.words import split_words
from mmtrain.models.encoder import Encoder
from mmtrain.models.image_text import ImageTextModel
from mmtrain.towers import TextTower

LONGEST = 4096  # words of a text
NOWHERE = 1e-6
VECTORS, WORDS = "vectors.npy", "words.json"


class WordSpace(TextTower):
    """The tower of a space.

    Args:
        vocabulary_size: Ids of its tokenizer.
        width: Length of a word's vector.
        vectors: The file that `fit_words` wrote; None where the vectors come with a model.
        frozen: Kept for what reads it; nothing in it trains.
    """

    directions: Tensor

    def __init__(self, vocabulary_size: int, width: int, vectors: str | None = None, frozen: bool = True) -> None:
        super().__init__(frozen)
        self.vocabulary_size, self.width, self.vectors = vocabulary_size, width, None
        known = torch.zeros(vocabulary_size, width) if vectors is None else torch.from_numpy(np.load(vectors))
        self.register_buffer("directions", known)

    def forward(self, tokens: Tensor, mask: Tensor, languages: Tensor | None = None) -> tuple[Tensor, Tensor]:
        often = self.directions.new_zeros(len(tokens), self.vocabulary_size)
        often.scatter_add_(1, tokens, mask.to(often.dtype))
        return torch.log1p(often) @ self.directions, self.directions[tokens]


def fit_words(documents: Iterable[Sequence[str]], width: int, folder: Path, seed: int = 0) -> WordTokenizer:
    """Writes words.json and vectors.npy, float32 [ids, width], of documents, each the same in several languages.

    Words that come once are unknown. Returns the tokenizer.
    """
    counted = [sum((Counter(split_words(text)) for text in texts), Counter[str]()) for texts in documents]
    known_in = Counter(word for each in counted for word in each)
    words = [word for word, documents_with in known_in.items() if documents_with > 1]
    write_whole(folder / WORDS, json.dumps({"words": {WordTokenizer.SHARED: words}}, ensure_ascii=False))
    rarity = {word: np.log(len(counted) / known_in[word]) for word in words}
    place = {word: number for number, word in enumerate(words)}
    entries = [
        (row, place[word], np.log1p(often) * rarity[word])
        for row, each in enumerate(counted)
        for word, often in each.items()
        if word in place
    ]
    rows, columns, values = (np.array(column) for column in zip(*entries, strict=True))
    table = csr_array((values, (rows, columns)), (len(counted), len(words)))
    weighted = svds(table, width, random_state=seed)[2].T * np.array([rarity[word] for word in words])[:, None]
    special = np.zeros((WordTokenizer.FIRST_WORD, width))
    special[WordTokenizer.START, 0] = NOWHERE  # a text of unknown words alone has a row too
    np.save(folder / VECTORS, np.concatenate([special, weighted]).astype(np.float32))
    return WordTokenizer(str(folder / WORDS), LONGEST)


def word_encoder(folder: Path) -> Encoder:
    """What `fit_words` wrote as a model of texts alone."""
    tokenizer = WordTokenizer(str(folder / WORDS), LONGEST)
    size, width = np.load(folder / VECTORS).shape
    model = ImageTextModel(None, WordSpace(size, width, str(folder / VECTORS)), width, "none")
    return Encoder(model, tokenizer, None, [], "cosine", str(folder))


def write_static(folder: Path, out: Path) -> None:
    """The same words for sentence-transformers, as the mean of their vectors: how often a word comes counts in full."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    words = json.loads((folder / WORDS).read_text(encoding="utf-8"))["words"][WordTokenizer.SHARED]
    vectors = np.load(folder / VECTORS)[WordTokenizer.FIRST_WORD - 1 :]  # the last of the special ids is unknown's
    ids = {word: number for number, word in enumerate(["[UNK]", *words])}
    tokenizer = Tokenizer(models.WordLevel(ids, "[UNK]"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=vectors)]).save(str(out))
