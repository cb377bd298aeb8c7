"""A teacher that is the student's own average, and the prototypes that both are compared by.

Letters: B pictures, T views of each, N pictures of several views, W tower width, K prototypes.
"""

import copy
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from datamodules.batch import Batch
from losses import Embeddings, Objective
from losses.engine.distributed import default_group, global_sum, rank_and_size, total
from mmtrain.models.image_text import ImageTextModel
from mmtrain.towers import ImageTower

BOTTLENECK = 256  # width of the rows that are compared with prototypes
CENTRE_MOMENTUM = 0.9


class PrototypeHead(nn.Module):
    """Three layers, rows of unit length, and their cosines with K prototypes of unit length (Caron et al. 2021).

    forward(features [..., W]) -> [..., K].
    """

    def __init__(self, width: int, hidden: int, prototypes: int) -> None:
        super().__init__()
        sizes = ((width, hidden), (hidden, hidden), (hidden, BOTTLENECK))
        layers = [nn.Linear(*size) for size in sizes]
        for layer in layers:
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        self.layers = nn.Sequential(layers[0], nn.GELU(), layers[1], nn.GELU(), layers[2])
        self.prototypes = nn.Parameter(torch.randn(prototypes, BOTTLENECK))

    def forward(self, features: Tensor) -> Tensor:
        return functional.normalize(self.layers(features), dim=-1) @ functional.normalize(self.prototypes, dim=-1).T


class AverageTeacher(nn.Module):
    """A moving average of the image tower, which reads each batch once.

    Args:
        tower: The student's.
        start: The first step that it teaches in.
        momentum: What a step keeps of it.
    """

    def __init__(self, tower: ImageTower, start: int, momentum: float) -> None:
        super().__init__()
        self.start, self.momentum = start, momentum
        self.student = [tower]  # a list, whose members torch does not take for parts
        self.tower = copy.deepcopy(tower).requires_grad_(False)
        self.tower.frozen = True
        self.tower.eval()
        self._read: tuple[Callable[[], Batch | None], dict[str, tuple[Tensor, Tensor]]] = (lambda: None), {}

    @torch.no_grad()
    def forward(self, batch: Batch, name: str) -> tuple[Tensor, Tensor]:
        """Pooled features [T, B, W] and tokens [T, B, P, W] of a field of pictures."""
        if self._read[0]() is not batch:
            self._read = weakref.ref(batch), {}
        if name not in self._read[1]:
            pixels = views_of(batch, name)
            pooled, tokens = self.tower(pixels.flatten(0, 1))
            self._read[1][name] = pooled.unflatten(0, pixels.shape[:2]), tokens.unflatten(0, pixels.shape[:2])
        return self._read[1][name]


TEACHERS: weakref.WeakKeyDictionary[ImageTextModel, AverageTeacher] = weakref.WeakKeyDictionary()


class AverageTaught(Objective):
    """Base of the objectives that learn what an average of the image tower sees: one average for all of a model.

    Until `start` the loss is 0. Then the teacher is a copy of the tower, and the head begins as it was made; behind
    each further step the teachers of tower and head move to the student by 1 - momentum, and the centre to the mean of
    what the teacher said of the pictures of all processes. All of it is in the checkpoint, and in no export.

    Args:
        views: The field of the pictures that the teacher sees.
        prototypes: K.
        hidden: Width of the head's layers.
        start: Step, from 0.
        momentum: 0 to 1, fixed: a teacher that comes to rest learns nothing more of the texts.
        temperatures: Of student and teacher.

    Raises:
        ValueError: for a number out of range.
    """

    def __init__(
        self,
        views: str,
        prototypes: int,
        hidden: int,
        start: int,
        momentum: float,
        temperatures: tuple[float, float],
    ) -> None:
        super().__init__()
        for name, value, least in (("prototypes", prototypes, 1), ("hidden", hidden, 1), ("start", start, 0)):
            if value < least:
                raise ValueError(f"{name}: got {value}, expected at least {least}")
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum: got {momentum}, expected 0 to 1")
        if not min(temperatures) > 0:
            raise ValueError(f"temperatures: got {tuple(temperatures)}, expected positive ones")
        self.views, self.prototypes, self.hidden = views, prototypes, hidden
        self.start, self.momentum, self.temperatures = start, momentum, temperatures
        self.needs = self.unencoded = frozenset({views})
        self.centre: Tensor
        self.step: Tensor
        self.register_buffer("centre", torch.zeros(prototypes))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self._said: list[Tensor] = []  # the mean of what the teacher said in this step, once a part of it

    def connect(self, model: ImageTextModel) -> None:
        """Makes the head, and the teacher unless another objective has.

        Raises:
            ValueError: for a model without pictures, or another start or momentum than the other objective's.
        """
        if model.image is None:
            raise ValueError(f"{type(self).__name__}: the model reads no pictures")
        self.head = PrototypeHead(model.image.width, self.hidden, self.prototypes)
        self.teacher_head = copy.deepcopy(self.head).requires_grad_(False)
        if model.bank.settings:
            raise ValueError(f"{type(self).__name__}: an average of the image tower knows no model.adapters")
        teacher = TEACHERS.get(model)
        self._moved: list[tuple[nn.Module, nn.Module]] = [(self.teacher_head, self.head)]
        if teacher is None:
            self.average = teacher = TEACHERS[model] = AverageTeacher(model.image, self.start, self.momentum)
            self._moved.append((teacher.tower, model.image))
        for name in ("start", "momentum"):
            if getattr(self, name) != getattr(teacher, name):
                raise ValueError(
                    f"{name}: got {getattr(self, name)} beside {getattr(teacher, name)}; objectives share one teacher"
                )
        self._teacher = [teacher]

    @property
    def teacher(self) -> AverageTeacher:
        return self._teacher[0]

    def loss(self, batch: Batch, embeddings: Embeddings, model: Any) -> Tensor:
        if self.step < self.start:  # DDP waits for every parameter
            return torch.stack([0 * each.sum() for each in self.parameters() if each.requires_grad]).sum()
        group = default_group()
        return global_sum(self.learn(batch, model) / rank_and_size(group)[1], group)

    def learn(self, batch: Batch, model: ImageTextModel) -> Tensor:
        """The mean over the pictures of this process."""
        raise NotImplementedError

    @torch.no_grad()
    def taught(self, features: Tensor) -> Tensor:
        """What the teacher says of its features [..., W]: [..., K]."""
        said, group = self.teacher_head(features), default_group()
        mean = said.float().flatten(0, -2).mean(0)
        self._said.append(total(mean, group) / rank_and_size(group)[1])
        return said

    def after_step(self) -> None:
        if self.step >= self.start:
            for teacher, student in self._moved:
                follow(teacher, student, self.momentum)
            for mean in self._said:
                self.centre.lerp_(mean, 1 - CENTRE_MOMENTUM)
        self._said = []
        self.step += 1
        if self.step == self.start:
            follow(self.head, self.teacher_head, 0.0)  # its weights have decayed while nothing trained them
            for teacher, student in self._moved:
                follow(teacher, student, 0.0)


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Moves the weights of one module to those of another by 1 - momentum; statistics are copied."""
    for own, other in zip(teacher.parameters(), student.parameters(), strict=True):
        own.lerp_(other, 1 - momentum)
    for statistic, now in zip(teacher.buffers(), student.buffers(), strict=True):
        statistic.copy_(now)


def views_of(batch: Batch, name: str) -> Tensor:
    """The pictures of a field, view by view: uint8 [T, B, 3, H, W].

    Raises:
        ValueError: for a field that the batch lacks, that holds no pictures or those of free size, or larger ones than
            the batch's own.
    """
    field = batch.fields.get(name)
    if field is None or field.kind != "image":
        raise ValueError(f"data.fields: no pictures called {name}; datamodules.Crops gives views of a sample's own")
    if field.values.ndim != 5:
        raise ValueError(f"data.fields.{name}: pictures of free size have no crops; give it images of ImagePipeline")
    side, own = field.values.shape[-1], batch.images
    if own is not None and own.ndim == 4 and side > own.shape[-1]:
        raise ValueError(f"data.fields.{name}: crops of {side} pixels, larger than the picture's {own.shape[-1]}")
    return field.values.transpose(0, 1)
