"""One image, many languages, one space.

`mmtrain.load(MODEL)` gives an encoder; `mmtrain.ContrastiveModule` trains one, and `mmtrain.RelationModule` fine-tunes
it to say how a text relates to its picture; the command line is `mmtrain --help`. Names are imported when first used:
`import mmtrain` needs no torch.
"""

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING


def _check_neighbours() -> None:
    """A folder of the user's may have the name of a package that came with this one, and be found in its place."""
    here = Path(__file__).parents[1]
    for name in ("datamodules", "losses", "slurm"):
        spec = find_spec(name)
        places = [] if spec is None else [*(spec.submodule_search_locations or ()), spec.origin]
        if places and Path(str(places[0])).resolve() != (here / name).resolve():
            line = (
                f"mmtrain: error: {name} is {places[0]}, not the one in {here}; rename that, or run in another folder"
            )
            is_command = Path(sys.argv[0]).stem in ("-m", "mmtrain")  # -m while the module is looked for
            raise SystemExit(line) if is_command else ImportError(line)


_check_neighbours()
from datamodules.lazy import lazy  # noqa: E402

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
