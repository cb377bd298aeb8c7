"""One image, many languages, one space.

`mmtrain.load(MODEL)` gives an encoder; `mmtrain.ContrastiveModule` trains one; the command line is `mmtrain --help`.
Names are imported when first used, so that `import mmtrain` is quick and pulls in no Lightning, wandb or faiss.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmtrain.contrastive import ContrastiveModule
    from mmtrain.loading import Encoder, load
    from mmtrain.model import ImageTextModel

__all__ = ["ContrastiveModule", "Encoder", "ImageTextModel", "load"]

_HOMES = {
    "ContrastiveModule": "mmtrain.contrastive",
    "Encoder": "mmtrain.loading",
    "ImageTextModel": "mmtrain.model",
    "load": "mmtrain.loading",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mmtrain' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
