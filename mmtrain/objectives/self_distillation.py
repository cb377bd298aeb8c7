"""What an average of the image tower sees in a whole picture, learned from its crops."""

import torch
from torch import Tensor

from datamodules.batch import Batch
from losses import self_distillation_loss
from mmtrain.models.image_text import ImageTextModel
from mmtrain.objectives.average import AverageTaught, views_of


class SelfDistillation(AverageTaught):
    """`losses.self_distillation_loss` between views of a picture: the teacher sees global ones, the student all.

    As in SILC (Naeem et al., ECCV 2024) and SigLIP 2 (Tschannen et al. 2025), which have one global view, momentum
    fixed, and train the contrast on the picture as it is. Views are fields, such as

        data.fields:
          global: {class_path: datamodules.Crops, init_args: {images: {init_args: {size: 256, scale: [0.4, 1.0]}}}}
          local: {class_path: datamodules.Crops, init_args: {count: 8, images: {init_args: {size: 96, ...}}}}

    A tower that has position embeddings of one size needs {dynamic_img_size: true} among its options.

    Args:
        views: Field of the T global views.
        crops: Field of the local ones.
        prototypes: K.
        hidden: Width of the head's layers.
        start: The step, from 0, in which it begins.
        momentum: What a step keeps of the teacher.
        temperatures: Of student and teacher.
    """

    def __init__(
        self,
        views: str = "global",
        crops: str = "local",
        prototypes: int = 65536,
        hidden: int = 2048,
        start: int = 0,
        momentum: float = 0.996,
        temperatures: tuple[float, float] = (0.1, 0.04),
    ) -> None:
        super().__init__(views, prototypes, hidden, start, momentum, temperatures)
        self.crops = crops
        self.needs = self.unencoded = frozenset({views, crops})

    def learn(self, batch: Batch, model: ImageTextModel) -> Tensor:
        whole, crops = views_of(batch, self.views), views_of(batch, self.crops)
        if crops.shape[-1] > whole.shape[-1]:
            raise ValueError(
                f"data.fields.{self.crops}: crops of {crops.shape[-1]} pixels, larger than the {whole.shape[-1]} of"
                f" {self.views}"
            )
        taught = self.taught(self.teacher(batch, self.views)[0])
        # of a single global view the student learns nothing: the teacher's stands in its place
        own = [self._said_of(whole, model)] if len(whole) > 1 else [taught]
        student = torch.cat([*own, self._said_of(crops, model)])
        return self_distillation_loss(student, taught, self.centre, *self.temperatures)

    def _said_of(self, pixels: Tensor, model: ImageTextModel) -> Tensor:
        """What the student says of pictures [V, B, 3, H, W]: [V, B, K]."""
        tower = self.teacher.student[0]
        pooled = model.in_parts(lambda part: tower(part)[0], pixels.flatten(0, 1))
        return self.head(pooled).unflatten(0, pixels.shape[:2])
