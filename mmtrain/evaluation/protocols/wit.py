"""WIT's own test split (Srinivasan et al. 2021): reference descriptions of some 57,000 images in 108 languages.

All languages' captions are ranked against all images, unlike IGLUE's choice from it (wit/iglue).
"""

from functools import partial

from datamodules.packing import read_wit
from mmtrain.evaluation.protocols.protocol import Protocol, Reference

TEST = Protocol(
    name="wit",
    variant="test",
    read=partial(read_wit, caption_fields=("reference",), join=True),
    images=57_000,  # as the paper rounds it, so that no copy is called complete
    languages=None,
    split="test",
    recall_at=(1, 3, 5),
    comparable=(
        Reference(
            "Srinivasan et al. 2021",
            "R@1, R@3 and R@5 of dual encoders trained on reference, attribution or alternative texts",
            "recalled",
        ),
    ),
)
PROTOCOLS = (TEST,)
