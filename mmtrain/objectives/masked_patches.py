"""What an average of the image tower sees in the patches that the student does not see."""

import torch
from torch import Tensor, nn

from datamodules.batch import Batch
from losses.engine.distributed import default_group, rank_and_size
from losses.self_distillation import softened_cross_entropy
from mmtrain.models.image_text import ImageTextModel
from mmtrain.objectives.average import AverageTaught, views_of


class MaskedPatches(AverageTaught):
    """`losses.softened_cross_entropy` of patches: half of the student's are a learned token behind the patch embedding,
    and what it makes of them is compared with what the teacher makes of the same patches of the whole view.

    iBOT (Zhou et al., ICLR 2022), as in TIPS (Maninis et al., ICLR 2025) and SigLIP 2 (Tschannen et al. 2025).

    Args:
        views: Field of the global views, see `SelfDistillation`.
        prototypes: K.
        hidden: Width of the head's layers.
        start: The step, from 0, in which it begins.
        momentum: What a step keeps of the teacher; beside `SelfDistillation` that of its teacher, for both have one.
        temperatures: Of student and teacher.
    """

    def __init__(
        self,
        views: str = "global",
        prototypes: int = 8192,
        hidden: int = 2048,
        start: int = 0,
        momentum: float = 0.996,
        temperatures: tuple[float, float] = (0.1, 0.04),
    ) -> None:
        super().__init__(views, prototypes, hidden, start, momentum, temperatures)

    def connect(self, model: ImageTextModel) -> None:
        """Makes the token too. Raises ValueError for a tower without patches."""
        super().connect(model)
        tower = self.teacher.student[0]
        if tower.prefix_tokens is None:
            raise ValueError(
                f"MaskedPatches: model.image: {getattr(tower, 'name', type(tower).__name__)} has no patches; expected a"
                " vision transformer of timm"
            )
        self.token = nn.Parameter(0.02 * torch.randn(tower.width))

    def learn(self, batch: Batch, model: ImageTextModel) -> Tensor:
        tower, pixels = self.teacher.student[0], views_of(batch, self.views)
        first = tower.prefix_tokens
        patches = self.teacher(batch, self.views)[1].flatten(0, 1)[:, first:]
        mask = self._mask(len(batch), len(pixels), patches.shape[1]).to(patches.device)
        seen = model.in_parts(lambda part, own: tower.masked(part, own, self.token)[1], pixels.flatten(0, 1), mask)[
            :, first:
        ]
        if seen.shape != patches.shape:
            raise ValueError(
                f"MaskedPatches: the student has {seen.shape[1]} patches, the teacher {patches.shape[1]}; expected no"
                " patch_drop_rate among model.image.options"
            )
        wanted = self.taught(patches[mask])
        return softened_cross_entropy(self.head(seen[mask]), wanted, self.centre, *self.temperatures).mean()

    def _mask(self, B: int, T: int, P: int) -> Tensor:
        """bool [T B, P]: which patches the student does not see, the same ones however many processes there are."""
        rank, size = rank_and_size(default_group())
        random = torch.Generator().manual_seed(int(self.step))
        order = torch.rand(size * B, T, P, generator=random).argsort(2).argsort(2)
        return (order.chunk(size)[rank] < max(1, P // 2)).transpose(0, 1).flatten(0, 1)
