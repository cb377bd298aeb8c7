"""Objectives over fields, scores and token rows: each is its function, and what it reads is what it says."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import losses

B, N, L, D = 6, 3, 4, 8


def unit(*shape: int) -> Tensor:
    return functional.normalize(torch.randn(*shape, dtype=torch.float64), dim=-1)


@pytest.fixture
def batch() -> losses.Embeddings:
    torch.manual_seed(0)
    there = torch.rand(B, N) < 0.6
    scores = torch.randn(B, 1 + N, dtype=torch.float64)
    scores[:, 1:][~there] = torch.nan
    mask = torch.rand(B, 1, L) < 0.7
    mask[..., 0] = True
    return losses.Embeddings(
        image=unit(B, D),
        texts=unit(B, 2, D),
        image_ids=torch.tensor([0, 1, 2, 3, 0, 5]),
        text_ids=torch.tensor([0, 1, 1, 3, 4, 5])[:, None].repeat(1, 2),
        fields={
            "query": losses.FieldEmbeddings(unit(B, 1, D)),
            "positive": losses.FieldEmbeddings(unit(B, 1, D)),
            "negatives": losses.FieldEmbeddings(unit(B, N, D), there),
        },
        multi={
            "query": losses.MultiEmbeddings(unit(B, 1, L, D), mask),
            "positive": losses.MultiEmbeddings(unit(B, 1, L, D)),
        },
        scores={"score": torch.randn(B, dtype=torch.float64), "scores": scores},
    )


def rows(batch: losses.Embeddings, name: str) -> Tensor:
    return batch.fields[name].rows[:, 0]


def test_each_is_its_function(batch: losses.Embeddings) -> None:
    q, p, negatives = rows(batch, "query"), rows(batch, "positive"), batch.fields["negatives"]
    tokens, items = batch.multi["query"], batch.multi["positive"].rows[:, 0]
    mask, every = tokens.mask[:, 0], torch.ones(B, L, dtype=torch.bool)
    late = losses.late_interaction(tokens.rows[:, 0], mask, items, every, mean=True)
    there = torch.cat([every[:, :1], negatives.present], 1)
    further = {"distractors": negatives.rows, "distractors_present": negatives.present}
    pairs = batch.image, batch.texts
    ids = {"image_ids": batch.image_ids, "text_ids": batch.text_ids}
    expected = {
        losses.CosentLoss(scale=9.0): losses.cosent_loss((q * p).sum(1), batch.scores["score"], 9.0),
        losses.ListDistillationLoss(scale=3.0): losses.list_distillation_loss(
            q, torch.cat([p[:, None], negatives.rows], 1), batch.scores["scores"], 3.0, there
        ),
        losses.LateInteractionLoss(scale=9.0): losses.late_interaction_loss(tokens.rows[:, 0], mask, items, every, 9.0),
        losses.ScoreDistillationLoss(scale=9.0): losses.score_distillation_loss(q @ p.T, late, 9.0),
        losses.OneToKLoss(scale=9.0, distractors="negatives"): losses.one_to_k_loss(*pairs, 9.0, **ids, **further),
        losses.SiglipLoss(9.0, -2.0, distractors="negatives"): losses.siglip_loss(*pairs, 9.0, -2.0, **ids, **further),
        losses.PivotRankingLoss("cosine", distractors="negatives"): losses.pivot_ranking_loss(
            *pairs, "cosine", **ids, **further
        ),
    }
    for objective, value in expected.items():
        torch.testing.assert_close(objective.double()(batch), value, msg=str(objective), rtol=1e-6, atol=1e-6)


def test_a_distractor_that_is_a_caption_is_none(batch: losses.Embeddings) -> None:
    assert batch.text_ids is not None
    distracted, ids = losses.OneToKLoss(distractors="negatives"), torch.full((B, N), 99)
    batch.fields["negatives"].ids = ids
    assert distracted(batch) > (alone := losses.OneToKLoss()(batch))
    ids[:] = batch.text_ids[-1, 0]
    assert distracted(batch) == alone


@pytest.mark.parametrize(
    ("objective", "function"),
    [
        (losses.M3lLoss(alike=0.3), losses.m3l_loss),
        (losses.PatrLoss(margin=1.2, alike=0.3), lambda *each: losses.patr_loss(*each, 1.2)),
    ],
)
def test_triplets_take_the_nearest_wrong_text(objective, function, batch: losses.Embeddings) -> None:
    image, texts = batch.image.requires_grad_(), batch.texts.requires_grad_()
    text = texts[:, 0]
    alone = []
    for i in range(B):
        others = [
            j
            for j in range(B)
            if j != i
            and batch.image_ids[j] != batch.image_ids[i]
            and batch.text_ids[j, 0] != batch.text_ids[i, 0]
            and text[i] @ text[j] <= 0.3
        ]
        if others:
            hardest = max(others, key=lambda j: image[i] @ text[j])
            alone.append(function(image[i, None], text[i, None], text[hardest, None]))
    value, right = objective(batch), torch.stack(alone).mean()
    torch.testing.assert_close(value, right)
    for ours, its in zip(*(torch.autograd.grad(each, [image, texts]) for each in (value, right)), strict=True):
        torch.testing.assert_close(ours, its)
    nothing = replace(batch, image_ids=torch.zeros(B, dtype=torch.int64))
    value = objective(nothing)
    assert value == 0 and not torch.autograd.grad(value, image)[0].any()


def test_temperatures_are_fixed_or_learned(batch: losses.Embeddings) -> None:
    learned = [losses.LateInteractionLoss(), losses.CosentLoss(learnable=True), losses.InfoNceLoss()]
    for objective in learned:
        objective.double()(batch).backward()
        assert objective.log_scale.grad.isfinite()
    for kind in (losses.CosentLoss, losses.ListDistillationLoss, losses.ScoreDistillationLoss):
        assert not list(filter(lambda each: each.requires_grad, kind().parameters()))


def test_matryoshka_cuts_fields_and_token_rows(batch: losses.Embeddings) -> None:
    def cut(given: Tensor) -> Tensor:
        return functional.normalize(given[..., :3], dim=-1)

    fields = {name: replace(each, rows=cut(each.rows)) for name, each in batch.fields.items()}
    multi = {name: replace(each, rows=cut(each.rows)) for name, each in batch.multi.items()}
    shorter = replace(batch, image=None, texts=None, fields=fields, multi=multi)
    batch = replace(batch, image=None, texts=None)
    for make in (losses.InfoNceLoss, losses.ListDistillationLoss, losses.LateInteractionLoss, losses.CosentLoss):
        wrapped = losses.MatryoshkaLoss(make(), [3, D], [2.0, 0.5])
        torch.testing.assert_close(wrapped(batch), 2 * make()(shorter) + 0.5 * make()(batch))
    wider = replace(batch, multi={"query": losses.MultiEmbeddings(unit(B, 1, L, 9))})
    for given in (batch, wider):  # token rows count only where they are read
        with pytest.raises(ValueError, match=f"dims: got 9, expected at most the embeddings' width {D}"):
            losses.MatryoshkaLoss(losses.CosentLoss(), [9])(given)


def test_late_interaction_takes_ids_and_negatives(batch: losses.Embeddings) -> None:
    negatives = batch.fields["negatives"]
    mask = torch.rand(B, N, L) < 0.7
    batch.multi["negatives"] = losses.MultiEmbeddings(unit(B, N, L, D), mask)
    query_ids, target_ids = torch.arange(B) // 2, torch.arange(B) // 3
    batch.fields["query"].ids, batch.fields["positive"].ids = query_ids[:, None], target_ids[:, None]
    negatives.ids = torch.arange(B * N).view(B, N) % 5
    tokens, items = batch.multi["query"], batch.multi["positive"].rows[:, 0]
    expected = losses.late_interaction_loss(
        *(tokens.rows[:, 0], tokens.mask[:, 0], items, torch.ones(B, L, dtype=torch.bool), 9.0),
        negatives=batch.multi["negatives"].rows,
        negative_mask=mask & negatives.present[..., None],
        query_ids=query_ids,
        item_ids=target_ids,
        negative_ids=negatives.ids,
    )
    objective = losses.LateInteractionLoss(negatives="negatives", scale=9.0).double()
    assert objective.needs == {"query", "positive", "negatives", "multi"}
    assert objective.chance(4, 1.0) is None
    torch.testing.assert_close(objective(batch), expected, rtol=1e-6, atol=1e-6)


def test_one_space_in_two_forms_is_a_weighted_sum(batch: losses.Embeddings) -> None:
    dense = losses.MatryoshkaLoss(losses.InfoNceLoss(), [3, D])
    jina = [(dense, 1.0), (losses.LateInteractionLoss(), 0.5), (losses.ScoreDistillationLoss(), 0.1)]
    rows = [batch.fields["query"].rows, batch.multi["query"].rows]
    for each in rows:
        each.requires_grad_()
    value = sum(weight * objective.double()(batch) for objective, weight in jina)
    assert all(gradient.any() for gradient in torch.autograd.grad(value, rows))


def test_what_is_wrong_is_said(batch: losses.Embeddings) -> None:
    batch.scores["score"][2] = torch.nan
    with pytest.raises(ValueError, match="scores: got nan, expected finite numbers"):
        losses.CosentLoss()(batch)
    batch.scores["scores"] = batch.scores["scores"][:, :-1]
    with pytest.raises(ValueError, match=r"scores: got shape \[6, 3\], expected \[6, 4\]"):
        losses.ListDistillationLoss()(batch)
    batch.scores.clear()
    with pytest.raises(ValueError, match="score: the samples have no such scores, but none"):
        losses.CosentLoss()(batch)
    with pytest.raises(ValueError, match="texts: the samples have no such token rows, but query, positive"):
        losses.LateInteractionLoss("texts")(batch)
    batch.multi["query"].rows *= 2
    with pytest.raises(ValueError, match="multi.query: a row of length 2, expected rows of unit length"):
        losses.LateInteractionLoss()(batch)
