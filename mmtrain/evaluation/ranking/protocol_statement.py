"""What was ranked against what, and how it was counted: the protocol block of metrics.json, as data and in words."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mmtrain.evaluation.ranking.tiles import Similarity


@dataclass(frozen=True)
class PoolCount:
    """Pools that are ranked by themselves."""

    count: int
    smallest: int  # images
    largest: int  # images
    without_caption: int  # pools without any query

    def __str__(self) -> str:
        sizes = f"{self.smallest:,}" if self.smallest == self.largest else f"{self.smallest:,} to {self.largest:,}"
        return f"{self.count:,} pools of {sizes} images" if self.count > 1 else f"{sizes} chosen images"


@dataclass(frozen=True)
class Statement:
    """How ranks were taken."""

    captions: Literal["all", "first"]  # of an image and language: whether all count, or the first
    similarity: Similarity
    one_pool: bool  # an image's captions of one language are ranked among the captions of all languages
    duplicates: Mapping[str, bool]  # "images", "texts": whether duplicates were declared
    excluded: Mapping[
        str, Mapping[str, int]
    ]  # direction -> pair or language -> queries without an answer in their pool
    pools: PoolCount | None = None  # where pools are ranked by themselves
    graded: bool = False  # whether text to image is by grades of relevance

    def pools_as_json(self, captions: Mapping[str, int]) -> dict[str, Any]:
        """What each direction is ranked against, and how large the pools are; captions counts those of a language."""
        answers = "captions of all languages" if self.one_pool else "captions of the language"
        if self.pools is None:
            own = {} if self.one_pool else {"captions": dict(captions)}
            return {"text_to_image": "all images", "image_to_text": answers} | own
        return {
            "text_to_image": f"the images of its own pool ({self.pools})",
            "image_to_text": f"{answers} in its own pool",
            "count": self.pools.count,
            "images": [self.pools.smallest, self.pools.largest],
            "without_caption": self.pools.without_caption,
        }


def unequal_pools(protocol: Mapping[str, Any]) -> list[str]:
    """Sentences where a mean is over pools of different sizes, of which the smaller are easier."""
    sentences = []
    if captions := protocol["pools"].get("captions"):  # older files lack it
        least, most = min(captions, key=captions.get), max(captions, key=captions.get)
        if captions[least] < captions[most]:
            sentences.append(
                f"Image to text: the pools differ, from {captions[least]:,} captions ({least}) to {captions[most]:,}"
                f" ({most}); a smaller pool is easier, and the mean is over all of them."
            )
    smallest, largest = protocol["pools"].get("images", (0, 0))
    if smallest < largest:
        sentences.append(f"The pools differ, from {smallest:,} to {largest:,} images; a smaller one is easier.")
    return sentences


def in_words(protocol: Mapping[str, Any]) -> list[str]:
    """The "protocol" of metrics.json as sentences for a reader who wants to compare the figures with others."""
    images, texts, used = protocol["images"], protocol["texts"], protocol["texts_used"]
    languages = protocol["languages"]
    sentences = [
        f"{images:,} images and {used:,} captions in {languages} language{'s' * (languages != 1)}"
        + (f" ({texts - used:,} further captions left out)." if used < texts else "."),
        "Every caption of an image counts, as query and as answer."
        if protocol["captions"] == "all"
        else "Only the first caption of an image in each language counts.",
        f"Text to image: a caption is ranked against {protocol['pools']['text_to_image']}. Image to text: an image "
        f"that has a caption in the language is ranked against the {protocol['pools']['image_to_text']}.",
        *unequal_pools(protocol),
        "Recall is any-positive: a query is a hit at k when at least one right answer is among the first k.",
        f"Search is exact ({protocol['index']} index), by {protocol['similarity']} similarity. Ties count against the "
        f"model: a rank is 1 plus the wrong answers that score at least as high as the best right one, after rounding "
        f"to {protocol['tie_tolerance']:.6f}.",
    ]
    if any(protocol["duplicates"].values()):
        declared = " and ".join(kind for kind, present in protocol["duplicates"].items() if present)
        sentences.append(f"Answers among the declared duplicates ({declared}) count as right.")
    if protocol["images_without_caption"]:
        sentences.append(f"{protocol['images_without_caption']:,} images have no caption; they stay in the pool.")
    for pair, left_out in protocol["excluded"]["text_to_text"].items():
        if left_out:
            sentences.append(f"{pair}: {left_out:,} queries have no right answer in the pool and are left out.")
    bootstrap = protocol["bootstrap"]
    if bootstrap["samples"]:
        sentences.append(
            f"Intervals hold 95 % of {bootstrap['samples']:,} bootstrap resamples of the images "
            f"(seed {bootstrap['seed']})."
        )
    variance = protocol["mean_rank_variance"]
    compared, left_out = variance["images_compared"]["text_to_image"], variance["images_left_out"]["text_to_image"]
    sentences.append(
        f"Rank variance compares the 0-based ranks of one image in its languages (first caption of each, ddof 0): "
        f"{compared:,} images have two languages or more, {left_out:,} do not and are left out."
    )
    return sentences
