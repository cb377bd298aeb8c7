"""Figures of a batch, on cases done by hand."""

import math

import pytest
import torch

from losses import Embeddings
from mmtrain.training.monitoring.diagnostics import gradient_norm, space_diagnostics


def test_a_perfect_batch_of_two_by_hand() -> None:
    image = torch.eye(2)
    figures = space_diagnostics(Embeddings(image=image, texts=image.unsqueeze(1)))
    # the own caption at cosine 1, the other at 0; the two rows of either side at squared distance 2
    assert figures["margin"] == 1 and figures["alignment"] == 0 and figures["modality_gap"] == 0
    assert figures["uniformity_image"].item() == pytest.approx(-4) == figures["uniformity_text"].item()
    assert figures["captions_per_image"] == 1


def test_absent_captions_are_passed_over() -> None:
    image = torch.eye(3)
    texts = torch.stack([torch.eye(3)[[1, 2, 0]], torch.eye(3)], dim=1)  # slot 0 is wrong, slot 1 right
    present = torch.tensor([[False, True], [False, True], [False, False]])
    figures = space_diagnostics(Embeddings(image=image, texts=texts, present=present))
    assert figures["alignment"] == 0 and figures["captions_per_image"].item() == pytest.approx(2 / 3)


def test_too_few_rows_give_the_same_names() -> None:
    full = space_diagnostics(Embeddings(image=torch.eye(2), texts=torch.eye(2).unsqueeze(1)))
    alone = space_diagnostics(Embeddings(image=torch.eye(2)[:1], texts=torch.eye(2)[:1].unsqueeze(1)))
    assert full.keys() == alone.keys() and math.isnan(alone["margin"])


def test_gradient_norm() -> None:
    module = torch.nn.Linear(2, 1)
    assert gradient_norm(module) is None
    module.weight.grad, module.bias.grad = torch.tensor([[3.0, 0.0]]), torch.tensor([4.0])
    assert gradient_norm(module) == 5
