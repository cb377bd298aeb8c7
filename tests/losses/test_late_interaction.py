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
    monkeypatch.setattr("losses.maxsim.TILE", tile)
    queries, items, (query_mask, item_mask) = rows(N, L, D), rows(M, P, D), masks()
    ours = losses.late_interaction(queries, query_mask, items, item_mask, mean)
    right = by_loops(queries, query_mask, items, item_mask, mean)
    torch.testing.assert_close(ours, right)
    assert not ours[1].any()
    weights = torch.randn(N, M, dtype=torch.float64)
    found, wanted = (torch.autograd.grad((weights * each).sum(), [queries, items]) for each in (ours, right))
    for mine, its in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, its)


def test_the_loss_is_the_mean_of_both_cross_entropies():
    queries, items, (query_mask, item_mask) = rows(N, L, D), rows(N, P, D), masks()
    item_mask = item_mask[:N]
    logits = 10 * by_loops(queries, query_mask, items, item_mask, True)
    own = torch.arange(N)
    right = (functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)) / 2
    torch.testing.assert_close(losses.late_interaction_loss(queries, query_mask, items, item_mask, 10.0), right)


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
