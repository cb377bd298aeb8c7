"""Objectives: the functions with parameters of their own, over one Embeddings."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import losses


def embeddings(B: int = 6, K: int = 2, D: int = 8, present: Tensor | None = None) -> losses.Embeddings:
    random = torch.Generator().manual_seed(0)
    return losses.Embeddings(
        image=functional.normalize(torch.randn(B, D, generator=random), dim=1),
        texts=functional.normalize(torch.randn(B, K, D, generator=random), dim=2),
        present=present,
    )


def test_each_objective_is_its_function():
    batch = embeddings()
    scale = 1 / 0.07
    by_slot = [losses.clip_loss(batch.image, batch.texts[:, k], scale) for k in range(2)]
    expected = {
        losses.ClipLoss(): sum(by_slot) / 2,
        losses.OneToKLoss(): losses.one_to_k_loss(batch.image, batch.texts, scale),
        losses.OneToKLoss(weighting="published"): losses.one_to_k_loss(
            batch.image, batch.texts, scale, weighting="published"
        ),
        losses.SiglipLoss(): losses.siglip_loss(batch.image, batch.texts, 10.0, -math.log(6 * 2 - 1)),
        losses.SiglipLoss(bias=-10.0): losses.siglip_loss(batch.image, batch.texts, 10.0, -10.0),
        losses.PivotRankingLoss("cosine", parallel=True): losses.pivot_ranking_loss(
            batch.image, batch.texts, "cosine", parallel=True
        ),
        losses.SymileLoss(negatives="all"): losses.symile_loss(
            [batch.image, *batch.texts.unbind(1)], math.exp(-0.3), "all"
        ),
    }
    for objective, value in expected.items():
        torch.testing.assert_close(objective(batch), value, msg=str(objective))


@pytest.mark.parametrize("parallel", [False, True])
def test_pivot_compares_captions_of_one_language(parallel):
    languages = torch.tensor([[0, 1], [1, 0]]).repeat(3, 1)
    batch = replace(embeddings(), languages=languages)
    expected = losses.pivot_ranking_loss(batch.image, batch.texts, parallel=parallel, languages=languages)
    torch.testing.assert_close(losses.PivotRankingLoss(parallel=parallel)(batch), expected)
    by_slot = losses.PivotRankingLoss(parallel=parallel)(embeddings())
    assert not torch.allclose(expected, by_slot)  # slot k is not language k here


def test_clip_averages_over_the_slots_that_hold_captions():
    present = torch.tensor([[True, False]]).expand(6, 2)
    batch = embeddings(present=present)
    torch.testing.assert_close(losses.ClipLoss()(batch), losses.clip_loss(batch.image, batch.texts[:, 0], 1 / 0.07))


@pytest.mark.parametrize("start", [0.1, 1000.0])
def test_the_temperature_stays_in_range_and_keeps_its_gradient(start):
    objective = losses.OneToKLoss(scale=start)
    assert objective(embeddings()) == losses.OneToKLoss(scale=min(max(start, 1), 100))(embeddings())
    objective(embeddings()).backward()
    assert objective.log_scale.exp().item() == pytest.approx(start)  # forward changes no parameter
    assert objective.log_scale.grad.abs() > 0
    objective.after_step()
    assert objective.log_scale.exp().item() == pytest.approx(min(max(start, 1), 100))
    assert objective.logged()["scale"].item() == pytest.approx(min(max(start, 1), 100))


def test_symiles_temperature_is_not_clamped():
    objective = losses.SymileLoss(scale=1000.0)
    objective(embeddings())
    assert objective.log_scale.exp().item() == pytest.approx(1000.0)


def test_a_frozen_temperature_does_not_train():
    assert not any(parameter.requires_grad for parameter in losses.SiglipLoss(learnable=False).parameters())


def test_siglips_first_training_batch_sets_the_bias_once():
    objective = losses.SiglipLoss()
    objective.eval()(embeddings(B=3))  # a sanity check before training
    objective.train()(embeddings(B=6))
    assert objective.bias.item() == pytest.approx(-math.log(11))
    objective(embeddings(B=4))
    assert objective.bias.item() == pytest.approx(-math.log(11))
    with torch.no_grad():
        objective.bias.fill_(-1.5)
    resumed = losses.SiglipLoss()
    resumed.load_state_dict(objective.state_dict())
    resumed(embeddings())
    assert resumed.bias.item() == -1.5


def test_rows_that_are_not_unit_are_refused_at_first():
    batch = embeddings()
    batch.texts = batch.texts * 3
    with pytest.raises(ValueError, match="texts: a row of length 3, expected rows of unit length"):
        losses.ClipLoss()(batch)
    batch.present = torch.zeros(6, 2, dtype=torch.bool)  # absent captions may be anything
    assert losses.OneToKLoss()(batch) == 0


def test_matryoshka_sums_over_normalised_prefixes():
    batch = embeddings(D=8)
    value = losses.MatryoshkaLoss(losses.OneToKLoss(), [3, 8], [2.0, 0.5])(batch)
    image, texts = functional.normalize(batch.image[:, :3], dim=1), functional.normalize(batch.texts[..., :3], dim=2)
    expected = (
        2 * losses.one_to_k_loss(image, texts, 1 / 0.07) + losses.one_to_k_loss(batch.image, batch.texts, 1 / 0.07) / 2
    )
    torch.testing.assert_close(value, expected)


def test_matryoshka_wraps_what_wants_more_than_two_modalities():
    batch = embeddings(K=1)
    batch = replace(batch, modalities={"audio": batch.image.flip(0)})
    with pytest.raises(TypeError):
        batch.modalities["video"] = batch.image  # a view: what is written into it would be lost
    objective = losses.MatryoshkaLoss(losses.SymileLoss(), [4, 8])
    objective(batch).backward()
    assert objective.objective.log_scale.grad.isfinite()
    with pytest.raises(ValueError, match="dims: got 9, expected at most the embeddings' width 8"):
        losses.MatryoshkaLoss(losses.ClipLoss(), [9])(batch)


def test_symile_asks_for_every_modality():
    with pytest.raises(ValueError, match="present: 12 captions missing"):
        losses.SymileLoss()(embeddings(present=torch.zeros(6, 2, dtype=torch.bool)))


def test_an_objective_of_ones_own_needs_one_method():
    class Alignment(losses.Objective):
        def forward(self, embeddings: losses.Embeddings) -> Tensor:
            return (embeddings.image[:, None] - embeddings.texts).square().sum(2).mean()

    both = nn.ModuleList([Alignment(), losses.OneToKLoss()])
    assert sum(objective(embeddings()) for objective in copy.deepcopy(both)) > 0
    assert Alignment().logged() == {} and not Alignment.needs_tokens
