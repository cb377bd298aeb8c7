"""What `mmtrain fit` runs. Names are imported when first used."""

from typing import TYPE_CHECKING

from datamodules.lazy import lazy

if TYPE_CHECKING:
    from mmtrain.training.selection import ActiveSelection

__getattr__, __all__ = lazy(__name__, {"mmtrain.training.selection": ("ActiveSelection",)})
