"""Views of one sample are no negatives of one another, whatever is trained."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import losses
from datamodules import ImagePipeline, ShardDataModule
from mmtrain.models.batches import embed_batch
from mmtrain.models.image_text import ImageTextModel
from mmtrain.towers import ByteGRU, TimmTower

CAPTIONS = ("texts", "present", "languages", "text_ids")


@pytest.fixture(scope="module")
def embeddings(shards: Path) -> losses.Embeddings:
    """One sample in four views, with two captions each."""
    images = ImagePipeline(size=32)
    data = ShardDataModule(str(shards), batch_size=1, views_per_image=4, captions_per_image=2, images=images, workers=0)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    torch.manual_seed(0)
    tower = TimmTower("resnet10t", options={"channels": [8, 8, 8, 8], "stem_width": 8})
    with torch.no_grad():
        found = embed_batch(ImageTextModel(tower, ByteGRU(width=8), 8).eval(), batch)
    assert len(batch) == 4 and (found.image[0] - found.image[1]).norm() > 0
    return replace(found, modalities={"again": found.image})


@pytest.mark.parametrize(
    "objective",
    [
        losses.ClipLoss(),
        losses.OneToKLoss(),
        losses.SiglipLoss(),
        losses.PivotRankingLoss(parallel=True),
        losses.PivotRankingLoss(similarity="cosine", negatives="hardest"),
        losses.SymileLoss(),
    ],
    ids=["clip", "one_to_k", "siglip", "pivot", "hardest", "symile"],
)
def test_the_loss_of_a_sample_in_views_is_the_mean_of_its_views_alone(
    objective: losses.Objective, embeddings: losses.Embeddings
) -> None:
    def of(rows: slice) -> torch.Tensor:
        captions = {name: getattr(embeddings, name)[rows, :1] for name in CAPTIONS}
        modalities = {"again": embeddings.image[rows]}
        ids = embeddings.image_ids[rows]
        return objective(losses.Embeddings(embeddings.image[rows], image_ids=ids, modalities=modalities, **captions))

    together = of(slice(0, 4))  # first, since SigLIP starts from the size of its first batch
    alone = torch.stack([of(slice(view, view + 1)) for view in range(4)])
    torch.testing.assert_close(together, alone.mean())
