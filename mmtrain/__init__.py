"""One image, many languages, one space.

`mmtrain.load(MODEL)` gives an encoder; `mmtrain.ContrastiveModule` trains one, and
`mmtrain.RelationModule` fine-tunes it to say how a text relates to its picture; the command line is `mmtrain --help`.
Names are imported when first used, so that `import mmtrain` is quick and pulls in no Lightning, wandb or faiss.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmtrain.contrastive import ContrastiveModule
    from mmtrain.encoder import Encoder
    from mmtrain.loading import load
    from mmtrain.model import ImageTextModel
    from mmtrain.relation import RelationModule
    from mmtrain.relation_loading import RelationClassifier, load_relation

__all__ = [
    "ContrastiveModule",
    "Encoder",
    "ImageTextModel",
    "RelationClassifier",
    "RelationModule",
    "load",
    "load_relation",
]

_HOMES = {
    "ContrastiveModule": "mmtrain.contrastive",
    "Encoder": "mmtrain.encoder",
    "ImageTextModel": "mmtrain.model",
    "RelationClassifier": "mmtrain.relation_loading",
    "RelationModule": "mmtrain.relation",
    "load": "mmtrain.loading",
    "load_relation": "mmtrain.relation_loading",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mmtrain' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
