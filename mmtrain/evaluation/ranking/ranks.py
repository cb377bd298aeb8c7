"""The exact rank of every query in both directions, and between languages.

A rank is the number of wrong items that score at least as high as the best right one (0-based here, 1-based in
reports): a tie goes against us. Scores tie when they are equal after rounding to `TIE_TOLERANCE`. Every pair is scored;
memory grows with N + M only.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from mmtrain.evaluation.ranking.checks import checked_embeddings, checked_images, checked_languages, checked_token_rows
from mmtrain.evaluation.ranking.protocol_statement import Statement
from mmtrain.evaluation.ranking.queries import Collection, QueryRanks
from mmtrain.evaluation.ranking.relevance import Relevance
from mmtrain.evaluation.ranking.tiles import TIE_TOLERANCE, Rows, Similarity
from mmtrain.evaluation.ranking.token_rows import TokenRows

Embeddings = np.ndarray | Tensor | TokenRows | Sequence[np.ndarray]

Direction = Literal["text_to_image", "image_to_text"]
DIRECTIONS: tuple[Direction, Direction] = ("text_to_image", "image_to_text")
ALL_DIRECTIONS = (*DIRECTIONS, "text_to_text")


@dataclass(frozen=True)
class RetrievalRanks:
    """Ranks of captions [M] and images [N], by language and direction, with what was ranked under which protocol."""

    images: int
    languages: list[str]
    image_of_text: np.ndarray  # [M], of all captions
    language_of_text: np.ndarray  # [M]
    texts_of: dict[str, np.ndarray]  # the indices of the captions that took part, by language
    relevance: Relevance
    recall_at: tuple[int, ...]
    text_to_image: dict[str, QueryRanks]
    image_to_text: dict[str, QueryRanks]
    text_to_text: dict[str, QueryRanks]  # by "de->en"
    statement: Statement

    @property
    def protocol(self) -> dict[str, Any]:
        """What was ranked against what, as metrics.json has it."""
        statement = self.statement
        return {
            "captions": statement.captions,
            "images": self.images,
            "texts": len(self.image_of_text),
            "texts_used": sum(map(len, self.texts_of.values())),
            "languages": len(self.languages),
            "index": "flat",
            "ties": "pessimistic",
            "tie_tolerance": TIE_TOLERANCE,
            "similarity": statement.similarity,
            "relevance": "text to image by grades, image to text any positive" if statement.graded else "any positive",
            "pools": statement.pools_as_json({name: len(texts) for name, texts in self.texts_of.items()}),
            "duplicates": dict(statement.duplicates),
            "images_without_caption": self.images - len(np.unique(self.image_of_text)),
            "excluded": {direction: dict(queries) for direction, queries in statement.excluded.items()},
        }

    def of(self, direction: Direction) -> dict[str, QueryRanks]:
        """The ranks of a direction by language."""
        return self.text_to_image if direction == "text_to_image" else self.image_to_text

    def by_image(self, direction: Direction) -> np.ndarray:
        """0-based ranks float64 [N, K] of the first caption in each language, NaN where there is none."""
        table = np.full((self.images, len(self.languages)), np.nan)
        for column, language in enumerate(self.languages):
            ranks = self.of(direction)[language]
            first = np.unique(ranks.image, return_index=True)[1]
            table[ranks.image[first], column] = ranks.rank[first]
        return table


def rank_retrieval(
    image_embeddings: Embeddings,
    text_embeddings: Embeddings,
    image_of_text: Sequence[int] | np.ndarray | Tensor,
    language_of_text: Sequence[str] | np.ndarray,
    *,
    recall_at: Sequence[int] = (1, 5, 10),
    captions: Literal["all", "first"] = "all",
    similarity: Similarity = "cosine",
    pool: Literal["language", "all"] = "language",
    text_to_text: Sequence[tuple[str, str]] = (),
    languages: Sequence[str] | None = None,
    image_groups: Sequence[int] | np.ndarray | None = None,
    text_groups: Sequence[int] | np.ndarray | None = None,
    device: torch.device | str = "cpu",
) -> RetrievalRanks:
    """Rank every caption's image among all images, and every image's captions among the captions of one language.

    image_embeddings [N, D], text_embeddings [M, D]: finite rows of any floating type. For cosine they are brought to
    unit length here, and a row of zeros scores 0 with everything; for "asymmetric" the image is the specific side
    (between languages, the query is). For "late" an item is many rows [tokens, d] of unit length, compared as they are
    (`TokenRows`, or a list of arrays): the caption asks, its tokens' largest products with the image's are averaged.
    image_of_text [M] gives each caption's image, language_of_text [M] its language.

    captions "first" keeps an image's first caption in each language. pool "all" ranks an image's captions of one
    language among the captions of all languages (those of the same image are never wrong). text_to_text lists (query,
    pool) languages; queries without a right caption in the pool are left out and counted. languages chooses and orders
    (default: all, sorted). image_groups [N] and text_groups [M] declare duplicates: an answer from the same group is
    right. nDCG is taken at max(recall_at). Raises ValueError for NaN, other widths, indices out of range and empty
    pools.
    """
    recall_at = tuple(sorted(recall_at))
    if not recall_at or recall_at[0] < 1:
        raise ValueError(f"recall_at is {recall_at}; give whole numbers of at least 1, such as (1, 5, 10)")
    for name, value, accepted in (
        ("captions", captions, ("all", "first")),
        ("similarity", similarity, ("cosine", "asymmetric", "late")),
        ("pool", pool, ("language", "all")),
    ):
        if value not in accepted:
            raise ValueError(f"{name} is {value!r}; accepted are {' and '.join(map(repr, accepted))}")
    check: Callable[..., tuple[Rows, Rows]] = checked_token_rows if similarity == "late" else checked_embeddings
    images, texts = check(image_embeddings, text_embeddings)
    image_of_text = checked_images(image_of_text, len(texts), len(images))
    language_of_text, languages = checked_languages(language_of_text, len(texts), languages, text_to_text)

    texts_of = {}
    for language in languages:
        of_language = np.flatnonzero(language_of_text == language)
        if captions == "first":
            of_language = np.sort(of_language[np.unique(image_of_text[of_language], return_index=True)[1]])
        texts_of[language] = of_language
    collection = Collection(
        images=images,
        texts=texts,
        image_of_text=image_of_text,
        texts_of=texts_of,
        relevance=Relevance.of(image_of_text, len(images), image_groups, text_groups),
        similarity=similarity,
        one_pool=pool == "all",
        depth=recall_at[-1],
        device=device,
    )
    cross = {language: collection.cross_modal(language) for language in languages}
    pairs = {f"{query}->{answer}": collection.between(query, answer) for query, answer in text_to_text}
    statement = Statement(
        captions=captions,
        similarity=similarity,
        one_pool=collection.one_pool,
        duplicates={"images": image_groups is not None, "texts": text_groups is not None},
        excluded={"text_to_text": {name: left_out for name, (_, left_out) in pairs.items()}},
    )
    return RetrievalRanks(
        images=len(images),
        languages=languages,
        image_of_text=image_of_text,
        language_of_text=language_of_text,
        texts_of=texts_of,
        relevance=collection.relevance,
        recall_at=recall_at,
        text_to_image={language: ranks for language, (ranks, _) in cross.items()},
        image_to_text={language: ranks for language, (_, ranks) in cross.items()},
        text_to_text={name: ranks for name, (ranks, _) in pairs.items()},
        statement=statement,
    )
