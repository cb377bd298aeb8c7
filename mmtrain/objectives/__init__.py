"""Objectives with a network of their own, or that read one of the model's."""

from mmtrain.objectives.captioner import Captioner
from mmtrain.objectives.classification import Classification
from mmtrain.objectives.distillation import Distillation
from mmtrain.objectives.masked_patches import MaskedPatches
from mmtrain.objectives.masked_text import MaskedText
from mmtrain.objectives.reconstruction import Reconstruction
from mmtrain.objectives.self_distillation import SelfDistillation
from mmtrain.objectives.task import TaskLoss
from mmtrain.objectives.teacher import Teacher

__all__ = [
    "Captioner",
    "Classification",
    "Distillation",
    "MaskedPatches",
    "MaskedText",
    "Reconstruction",
    "SelfDistillation",
    "TaskLoss",
    "Teacher",
]
