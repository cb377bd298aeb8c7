"""Losses of teachers, scores and triplets against loops in float64."""

import math

import pytest
import torch
from torch.nn import functional

import losses
from losses.engine import tiles

B, D = 6, 5


def rows(*shape: int) -> torch.Tensor:
    return functional.normalize(torch.randn(*shape, dtype=torch.float64), dim=-1).requires_grad_()


def same(ours: torch.Tensor, right: torch.Tensor, *leaves: torch.Tensor) -> None:
    torch.testing.assert_close(ours, right)
    for mine, its in zip(torch.autograd.grad(ours, leaves), torch.autograd.grad(right, leaves), strict=True):
        torch.testing.assert_close(mine, its)


def divergence(right: torch.Tensor, ours: torch.Tensor) -> torch.Tensor:
    p, q = right.softmax(0), ours.softmax(0)
    return sum(a * (a / b).log() for a, b in zip(p, q, strict=True))


@pytest.mark.parametrize("scores", [[3.0, 1.0, 1.0, 2.0, 5.0, 0.0], [1.0] * 6, [0.0, 1.0, 0.0, 1.0, 0.0, 1.0]])
def test_cosent(scores):
    similarities = torch.randn(6, dtype=torch.float64, requires_grad=True)
    pairs = [
        torch.exp(20 * (similarities[i] - similarities[j])) for i in range(6) for j in range(6) if scores[i] < scores[j]
    ]
    right = torch.log(1 + sum(pairs, similarities.sum() * 0))
    same(losses.cosent_loss(similarities, torch.tensor(scores)), right, similarities)


def test_cosent_of_large_scales_is_finite():
    similarities = torch.tensor([1.0, -1.0, 0.5], requires_grad=True)
    loss = losses.cosent_loss(similarities, torch.tensor([0.0, 1.0, 2.0]), 1000.0)
    assert loss.item() == pytest.approx(2000)
    assert torch.autograd.grad(loss, similarities)[0].isfinite().all()


def test_distillation_of_rows():
    student, teacher = (3 * rows(B, D)).detach().requires_grad_(), rows(B, D).detach()
    cosine = sum(1 - functional.cosine_similarity(s, t, 0) for s, t in zip(student, teacher, strict=True)) / B
    same(losses.distillation_loss(student, teacher), cosine, student)
    squared = sum(((s - t) ** 2).sum() for s, t in zip(student, teacher, strict=True)) / B
    same(losses.distillation_loss(student, teacher, "mse"), squared, student)


@pytest.mark.parametrize("other", [True, False])
def test_distillation_of_similarities(other):
    student, teacher = rows(B, D), rows(B, D + 2).detach()
    student_other, teacher_other = (rows(B, D), rows(B, D + 2).detach()) if other else (student, teacher)
    right = sum(
        divergence(
            torch.stack([7 * teacher[i] @ teacher_other[j] for j in range(B)]),
            torch.stack([7 * student[i] @ student_other[j] for j in range(B)]),
        )
        for i in range(B)
    )
    options = {"student_other": student_other, "teacher_other": teacher_other} if other else {}
    ours = losses.distillation_loss(student, teacher, "similarities", 7.0, **options)
    same(ours, right / B, *{student, student_other})


@pytest.mark.parametrize("masked", [True, False])
def test_list_distillation(masked):
    queries, candidates, scores = rows(B, D), rows(B, 4, D), torch.randn(B, 4, dtype=torch.float64)
    present = torch.ones(B, 4, dtype=torch.bool)
    if masked:
        present = torch.rand(B, 4) < 0.7
        present[2], present[3] = False, True
        scores[2] = torch.nan  # of what is absent
    found = [
        divergence(scores[i, present[i]], 3 * candidates[i, present[i]] @ queries[i])
        for i in range(B)
        if present[i].any()
    ]
    ours = losses.list_distillation_loss(queries, candidates, scores, 3.0, present if masked else None)
    same(ours, sum(found) / len(found), queries, candidates)


def test_score_distillation_reaches_both():
    dense = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    late = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    right = sum(divergence(5 * a, 5 * b) for a, b in zip(dense, late, strict=True)) / 4
    same(losses.score_distillation_loss(dense, late, 5.0), right, dense, late)


def test_self_distillation():
    student = torch.randn(4, B, D, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(2, B, D, dtype=torch.float64, requires_grad=True)
    centre = torch.randn(D, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        wanted = ((teacher - centre) / 0.04).softmax(2)
    terms = [
        -(wanted[t, b] * (student[v, b] / 0.1).log_softmax(0)).sum()
        for t in range(2)
        for v in range(4)
        for b in range(B)
        if v != t
    ]
    ours = losses.self_distillation_loss(student, teacher, centre)
    same(ours, sum(terms) / len(terms), student)
    again = losses.self_distillation_loss(student, teacher, centre)
    assert torch.autograd.grad(again, [teacher, centre], allow_unused=True) == (None,) * 2


def test_tokens_weigh_by_example():
    logits = torch.randn(3, 4, 7, dtype=torch.float64, requires_grad=True)
    tokens, mask = torch.randint(0, 7, (3, 4)), torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]]).bool()
    tokens[0, 2] = -100  # where the mask is false anything may stand
    examples = [
        torch.stack([-logits[n, i].log_softmax(0)[tokens[n, i]] for i in range(4) if mask[n, i]]).mean() for n in (0, 2)
    ]
    same(losses.token_loss(logits, tokens, mask), sum(examples) / 2, logits)
    assert losses.token_loss(logits, tokens, torch.zeros(3, 4, dtype=torch.bool)).item() == 0


@pytest.mark.parametrize("size", [1.0, 300.0])  # of the logits; the larger ones take the engine's slow way
def test_a_loss_whose_logits_come_in_tiles_is_the_plain_one(monkeypatch, size):
    monkeypatch.setattr(tiles, "CPU_TILE", (4, 3))
    features = torch.randn(3, 4, 5, dtype=torch.float64, requires_grad=True)
    weight = (size * torch.randn(7, 5, dtype=torch.float64)).requires_grad_()
    tokens, mask = torch.randint(0, 7, (3, 4)), torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 1, 1]]).bool()
    tokens[0, 2] = -100
    right = losses.token_loss(features @ weight.T, tokens, mask)
    same(losses.linear_token_loss(features, weight, tokens, mask), right, features, weight)
    nothing = losses.linear_token_loss(features, weight, tokens, torch.zeros_like(mask))
    assert nothing.item() == 0 and not any(each.any() for each in torch.autograd.grad(nothing, (features, weight)))
    with pytest.raises(ValueError, match=r"weight: got shape \[7, 4\], expected \[V, 5\]"):
        losses.linear_token_loss(features, weight[:, :4], tokens, mask)


def test_triplets():
    image, text, other = rows(B, D), rows(B, D), rows(B, D)

    def d(a, b):
        return max(1 - a @ b, torch.tensor(1e-6, dtype=torch.float64))

    every = list(zip(image, text, other, strict=True))
    ratios = sum(0.5 * (d(i, t) / d(i, o)) ** 4 + (d(i, t) / d(t, o)) ** 4 for i, t, o in every) / B
    same(losses.m3l_loss(image, text, other), ratios, image, text, other)
    margins = sum(d(i, t) + max(torch.zeros((), dtype=torch.float64), 0.9 - d(i, o)) for i, t, o in every) / B
    same(losses.patr_loss(image, text, other, 0.9), margins, image, text, other)
    assert math.isfinite(losses.m3l_loss(image, text, text).item())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: losses.cosent_loss(torch.zeros(3), torch.tensor([0.0, torch.nan, 1.0])), "scores: got nan"),
        (lambda: losses.cosent_loss(torch.zeros(3), torch.zeros(2)), r"got shapes \[3\] and \[2\]"),
        (lambda: losses.distillation_loss(torch.ones(2, 3), torch.ones(2, 4)), r"teacher: got shape \[2, 4\]"),
        (lambda: losses.distillation_loss(torch.ones(2, 3), torch.ones(2, 3), "kl"), "kind: got 'kl'"),
        (
            lambda: losses.list_distillation_loss(torch.ones(2, 3), torch.ones(2, 4, 3), torch.full((2, 4), torch.inf)),
            "scores: got inf",
        ),
        (
            lambda: losses.list_distillation_loss(torch.ones(2, 3), torch.ones(2, 4, 3), torch.ones(2, 5)),
            r"scores: got shape \[2, 5\], expected \[2, 4\]",
        ),
        (lambda: losses.m3l_loss(torch.ones(2, 3), torch.ones(2, 3), torch.ones(3, 3)), r"other: got shape \[3, 3\]"),
        (
            lambda: losses.self_distillation_loss(torch.ones(1, 2, 3), torch.ones(1, 2, 3), torch.ones(3)),
            "teacher: got",
        ),
    ],
)
def test_what_is_wrong_is_said(call, message):
    with pytest.raises(ValueError, match=message):
        call()
