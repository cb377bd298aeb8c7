"""One image, many languages, one space.

`mmtrain.load(MODEL)` gives an encoder; `mmtrain.ContrastiveModule` trains one, and `mmtrain.RelationModule` fine-tunes
it to say how a text relates to its picture; the command line is `mmtrain --help`. Names are imported when first used:
`import mmtrain` needs no torch.
"""

from typing import TYPE_CHECKING

from datamodules.lazy import lazy

if TYPE_CHECKING:
    from mmtrain.models.encoder import Encoder
    from mmtrain.models.image_text import ImageTextModel
    from mmtrain.models.loading import load
    from mmtrain.models.relation_classifier import RelationClassifier, load_relation
    from mmtrain.training.contrastive import ContrastiveModule
    from mmtrain.training.relation import RelationModule

__getattr__, __all__ = lazy(
    __name__,
    {
        "mmtrain.models.encoder": ("Encoder",),
        "mmtrain.models.image_text": ("ImageTextModel",),
        "mmtrain.models.loading": ("load",),
        "mmtrain.models.relation_classifier": ("RelationClassifier", "load_relation"),
        "mmtrain.training.contrastive": ("ContrastiveModule",),
        "mmtrain.training.relation": ("RelationModule",),
    },
)
