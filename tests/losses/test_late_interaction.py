"""Late interaction against loops over tokens, in tiles of any size, and its memory."""

import pytest
import torch
from torch.nn import functional

import losses

N, L, M, P, D = 5, 4, 6, 3, 8


def rows(*shape: int) -> torch.Tensor:
    return functional.normalize(torch.randn(*shape, dtype=torch.float64), dim=-1).requires_grad_()


def masks() -> tuple[torch.Tensor, torch.Tensor]:
    query_mask, item_mask = torch.rand(N, L) < 0.7, torch.rand(M, P) < 0.7
    query_mask[1], item_mask[:, 0] = False, True  # a query without tokens
    return query_mask, item_mask


def by_loops(queries, query_mask, items, item_mask, mean):
    def score(n, m):
        best = [
            max(queries[n, i] @ items[m, p] for p in range(items.shape[1]) if item_mask[m, p])
            for i in range(queries.shape[1])
            if query_mask[n, i]
        ]
        return sum(best, 0 * queries.sum()) / (max(len(best), 1) if mean else 1)

    return torch.stack([torch.stack([score(n, m) for m in range(len(items))]) for n in range(len(queries))])


@pytest.mark.parametrize("mean", [True, False])
@pytest.mark.parametrize("tile", [1, L * P * 3, 2**24])
def test_it_is_the_loop(mean, tile, monkeypatch):
    monkeypatch.setattr("losses.maxsim.CPU_TILE", tile)
    queries, items, (query_mask, item_mask) = rows(N, L, D), rows(M, P, D), masks()
    ours = losses.late_interaction(queries, query_mask, items, item_mask, mean)
    right = by_loops(queries, query_mask, items, item_mask, mean)
    torch.testing.assert_close(ours, right)
    assert not ours[1].any()
    weights = torch.randn(N, M, dtype=torch.float64)
    found, wanted = (torch.autograd.grad((weights * each).sum(), [queries, items]) for each in (ours, right))
    for mine, its in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, its)


@pytest.mark.parametrize("tile", [1, L * P * 3, 2**24])
@pytest.mark.parametrize("further", [False, True])
def test_the_loss_is_the_mean_of_both_cross_entropies(tile, further, monkeypatch):
    monkeypatch.setattr("losses.maxsim.CPU_TILE", tile)
    queries, items, (query_mask, item_mask) = rows(N, L, D), rows(N, P, D), masks()
    item_mask, scale = item_mask[:N], torch.tensor(10.0, dtype=torch.float64, requires_grad=True)
    leaves, given = [queries, items, scale], {}
    logits = scale * by_loops(queries, query_mask, items, item_mask, True)
    backward = logits.T
    if further:
        negatives, mask = rows(N, 2, P + 1, D), torch.rand(N, 2, P + 1) < 0.7
        mask[2, 1], mask[3, 0, 0] = False, True  # one that is not there
        query_ids, item_ids, ids = torch.tensor([0, 1, 0, 3, 4]), torch.tensor([5, 6, 7, 6, 9]), torch.arange(10) - 1
        given = {"negatives": negatives, "negative_mask": mask, "negative_ids": ids.view(N, 2)}
        given |= {"query_ids": query_ids, "item_ids": item_ids}
        leaves.append(negatives)
        there = mask.flatten(0, 1).any(1)
        wrong = scale * by_loops(
            queries, query_mask, negatives.flatten(0, 1)[there], mask.flatten(0, 1)[there], mean=True
        )
        left_out = (query_ids[:, None] == query_ids) | (item_ids[:, None] == item_ids)
        logits = logits.masked_fill(left_out & ~torch.eye(N, dtype=torch.bool), -torch.inf)
        backward = logits.T
        logits = torch.cat([logits, wrong.masked_fill(item_ids[:, None] == ids[there], -torch.inf)], 1)
    own = torch.arange(N)
    right = (functional.cross_entropy(logits, own) + functional.cross_entropy(backward, own)) / 2
    ours = losses.late_interaction_loss(queries, query_mask, items, item_mask, scale, **given)
    torch.testing.assert_close(ours, right)
    for mine, its in zip(*(torch.autograd.grad(each, leaves) for each in (ours, right)), strict=True):
        torch.testing.assert_close(mine, its)


def test_what_is_absent_has_no_part():
    queries, items, (query_mask, item_mask) = rows(N, L, D), rows(N, P, D), masks()
    query_mask[:, 0], item_mask = True, item_mask[:N]
    value = losses.late_interaction_loss(queries, query_mask, items, item_mask, 100.0)
    with torch.no_grad():
        queries[~query_mask], items[~item_mask] = torch.nan, torch.inf
    again = losses.late_interaction_loss(queries, query_mask, items, item_mask, 100.0)
    assert again == value
    for gradient, mask in zip(torch.autograd.grad(again, [queries, items]), (query_mask, item_mask), strict=True):
        assert gradient.isfinite().all() and not gradient[~mask].any()


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_one_pair_alone_and_equal_rows_have_finite_gradients(scale):
    for queries, items in (
        (rows(1, L, D), rows(1, P, D)),
        (rows(1, 1, D).expand(N, L, D), rows(1, 1, D).expand(N, P, D)),
    ):
        masks = (torch.ones(len(queries), length, dtype=torch.bool) for length in (L, P))
        query_mask, item_mask = masks
        value = losses.late_interaction_loss(queries, query_mask, items, item_mask, scale)
        assert value.item() == pytest.approx(torch.tensor(len(queries)).log().item())
        assert all(each.isfinite().all() for each in torch.autograd.grad(value, [queries, items]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"items": torch.ones(M, P, D + 1)}, "items: got rows of 9, expected 8"),
        ({"item_mask": torch.zeros(M, P, dtype=torch.bool)}, "item_mask: item 0 has no token"),
        ({"query_mask": torch.ones(N, L)}, "query_mask: got torch.float32"),
    ],
)
def test_what_is_wrong_is_said(change, message):
    query_mask, item_mask = masks()
    arguments = {"queries": torch.ones(N, L, D), "query_mask": query_mask, "items": torch.ones(M, P, D)}
    with pytest.raises(ValueError, match=message):
        losses.late_interaction(**(arguments | {"item_mask": item_mask} | change))


def test_negatives_need_their_mask():
    queries, items, (query_mask, item_mask) = rows(N, L, D), rows(N, P, D), masks()
    given = (queries, query_mask, items, item_mask[:N], 1.0)
    with pytest.raises(ValueError, match="negative_mask: got None"):
        losses.late_interaction_loss(*given, negatives=rows(N, 2, P, D))
    with pytest.raises(ValueError, match=r"negatives: got shape \[5, 3, 8\], expected \[5, n, Q, 8\]"):
        losses.late_interaction_loss(*given, negatives=rows(N, P, D), negative_mask=item_mask)
    with pytest.raises(ValueError, match="of which there are none"):
        losses.late_interaction_loss(*given, negative_ids=torch.ones(N, 2, dtype=torch.int64))
