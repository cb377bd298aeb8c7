"""A teacher that is the student's own average: DINO."""

import torch
from torch import Tensor

from losses.engine.checks import full_precision, working_precision


@full_precision
def softened_cross_entropy(
    student: Tensor,
    teacher: Tensor,
    centre: Tensor,
    student_temperature: float = 0.1,
    teacher_temperature: float = 0.04,
) -> Tensor:
    """- sum_k softmax((teacher - centre) / teacher_temperature)_k log softmax(student / student_temperature)_k

    No gradient reaches teacher and centre.

    Args:
        student: float [..., K].
        teacher: float [..., K].
        centre: float [K].
        student_temperature: positive.
        teacher_temperature: positive.

    Returns:
        float [...].

    Raises:
        ValueError: a centre of another width, or a temperature that is not positive.
    """
    if centre.shape != student.shape[-1:]:
        raise ValueError(f"centre: got shape {list(centre.shape)}, expected {list(student.shape[-1:])}")
    if not (student_temperature > 0 and teacher_temperature > 0):
        raise ValueError(f"temperatures: got {student_temperature} and {teacher_temperature}, expected positive ones")
    student, teacher, centre = working_precision(student, teacher, centre)
    wanted = ((teacher.detach() - centre.detach()) / teacher_temperature).softmax(-1)
    return -(wanted * (student / student_temperature).log_softmax(-1)).sum(-1)


def self_distillation_loss(
    student: Tensor,
    teacher: Tensor,
    centre: Tensor,
    student_temperature: float = 0.1,
    teacher_temperature: float = 0.04,
) -> Tensor:
    """The mean of `softened_cross_entropy` over images and over pairs of a teacher's view and another of the student.

    Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", ICCV 2021, equation 3.

    Args:
        student: float [V, B, K]; views v < T are the teacher's own.
        teacher: float [T, B, K], T at most V.
        centre: float [K].
        student_temperature: positive.
        teacher_temperature: positive.

    Raises:
        ValueError: wrong shapes, no pair of different views, or a temperature that is not positive.
    """
    if student.dim() != 3 or 0 in student.shape:
        raise ValueError(f"student: got shape {list(student.shape)}, expected [V, B, K]")
    V, B, K = student.shape
    if teacher.dim() != 3 or not 1 <= len(teacher) <= V or teacher.shape[1:] != (B, K) or V == 1:
        raise ValueError(
            f"teacher: got shape {list(teacher.shape)}, expected [T, {B}, {K}], T from 1 to {V}, V at least 2"
        )
    temperatures = student_temperature, teacher_temperature
    pairs = [(t, v) for t in range(len(teacher)) for v in range(V) if v != t]
    return torch.stack([softened_cross_entropy(student[v], teacher[t], centre, *temperatures) for t, v in pairs]).mean()
