"""Which captions are right for which images, duplicates included, as sparse tables."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array


@dataclass(frozen=True)
class Relevance:
    """The right answers among N images and M captions.

    A caption is right for its image and for every image declared a duplicate of it; what is right for a caption is
    right for every caption declared a duplicate of that. Nothing more follows: two captions of one image do not become
    duplicates.

    `images` [N, G] and `texts` [M, G] are sparse tables of ones over the G groups of images: image i and caption t
    belong together where their rows meet; two captions describe the same image where theirs do.
    """

    images: csr_array
    texts: csr_array

    @classmethod
    def of(
        cls,
        image_of_text: np.ndarray,
        images: int,
        image_groups: Sequence[int] | np.ndarray | None = None,
        text_groups: Sequence[int] | np.ndarray | None = None,
    ) -> "Relevance":
        """image_of_text int64 [M]; image_groups [N], text_groups [M]: equal numbers mark duplicates, None for none."""
        group_of_image = _groups(image_groups, images, "image_groups", "images")
        image_table = _membership(group_of_image)
        text_table = _membership(group_of_image[image_of_text], image_table.shape[1])
        if text_groups is not None:
            member = _membership(_groups(text_groups, len(image_of_text), "text_groups", "captions"))
            text_table = (member @ (member.T @ text_table)).tocsr()
            text_table.data[:] = 1
        return cls(image_table, text_table)

    def pairs(self, images: np.ndarray, texts: np.ndarray) -> np.ndarray:
        """bool: whether the images and captions of these numbers, arrays of one shape, belong together."""
        shared = self.images[images.ravel()].multiply(self.texts[texts.ravel()])
        return (np.asarray(shared.sum(1)).ravel() > 0).reshape(images.shape)


def _groups(groups: Sequence[int] | np.ndarray | None, count: int, name: str, items: str) -> np.ndarray:
    if groups is None:
        return np.arange(count)
    if len(groups) != count:
        raise ValueError(f"{name} has {len(groups)} entries for {count} {items}; give one group number each")
    return np.unique(np.asarray(groups), return_inverse=True)[1]


def _membership(group_of_item: np.ndarray, groups: int | None = None) -> csr_array:
    count = len(group_of_item)
    groups = int(group_of_item.max()) + 1 if groups is None else groups
    return csr_array((np.ones(count, dtype=np.int32), (np.arange(count), group_of_item)), shape=(count, groups))
