"""Which captions a training is fed with: metadata, matching, balancing, filters."""

from typing import TYPE_CHECKING

from datamodules.lazy import lazy

if TYPE_CHECKING:
    from datamodules.curation.filters import CaptionFilter, Filter, Ids, Length, PictureFilter, SpokenLanguage
    from datamodules.curation.near import NearCaption, NearPicture, SamePicture
    from datamodules.curation.proper_nouns import ProperNouns

__getattr__, __all__ = lazy(
    __name__,
    {
        "datamodules.curation.filters": (
            "CaptionFilter",
            "Filter",
            "Ids",
            "Length",
            "PictureFilter",
            "SpokenLanguage",
        ),
        "datamodules.curation.near": ("NearCaption", "NearPicture", "SamePicture"),
        "datamodules.curation.proper_nouns": ("ProperNouns",),
    },
)
