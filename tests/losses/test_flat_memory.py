"""No loss ever makes a tensor with an element for each pair of rows, forward or backward."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import losses
from losses import asymmetric, maxsim, pivot
from losses.engine import tiles

B, K, D = 256, 4, 8


class LargestTensor(TorchDispatchMode):
    """Remembers the largest number of elements any operation returned."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.elements = max(self.elements, leaf.untyped_storage().nbytes() // leaf.element_size())
        return result


@pytest.fixture(autouse=True)
def small_tiles() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "CPU_TILE", (32, 64))
        patch.setattr(asymmetric, "CPU_BLOCK", 2048)
        patch.setattr(maxsim, "CPU_TILE", 4096)
        patch.setattr(pivot, "SCORES_AT_ONCE", 4096)
        yield


@pytest.mark.parametrize("ids", [False, True])
@pytest.mark.parametrize(
    "loss",
    [
        lambda i, t, p, ids: losses.clip_loss(
            i, t[:, 0], 20.0, **{k: v[..., 0] if v.dim() > 1 else v for k, v in ids.items()}
        ),
        lambda i, t, p, ids: losses.clip_loss(i, t[:, 0], 5000.0),  # the safe path
        lambda i, t, p, ids: losses.one_to_k_loss(i, t, 20.0, p, **ids),
        lambda i, t, p, ids: losses.siglip_loss(i, t, 20.0, -5.0, p, **ids),
        lambda i, t, p, ids: losses.symile_loss([i, t[:, 0], t[:, 1]], 20.0, **ids),
        lambda i, t, p, ids: losses.pivot_ranking_loss(i, t, parallel=True, present=p, **ids),
        lambda i, t, p, ids: losses.pivot_ranking_loss(i, t, "cosine", present=p, negatives="hardest", **ids),
        lambda i, t, p, ids: losses.late_interaction_loss(
            *(t, p, t + i[:, None], p | True, 20.0), query_ids=ids.get("image_ids")
        ),
    ],
    ids=["clip", "clip, safe", "one_to_k", "siglip", "symile", "pivot, asymmetric", "pivot, hardest", "late"],
)
def test_memory_is_linear_in_the_batch(loss, ids):
    image = functional.normalize(torch.randn(B, D), dim=1).requires_grad_()
    texts = functional.normalize(torch.randn(B, K, D), dim=2).requires_grad_()
    numbers = {"image_ids": torch.randint(0, 9, (B,)), "text_ids": torch.randint(0, 9, (B, K))} if ids else {}
    with LargestTensor() as largest:
        loss(image, texts, torch.rand(B, K) < 0.9, numbers).backward()
    assert B * K * D <= largest.elements <= 4 * B * K * D < B * B
    assert image.grad.any() and texts.grad.any()


def test_memory_is_linear_in_the_vocabulary():
    words, N, L = 2048, 16, 16
    features, weight = torch.randn(N, L, D, requires_grad=True), torch.randn(words, D, requires_grad=True)
    tokens, mask = torch.randint(0, words, (N, L)), torch.rand(N, L) < 0.9
    with LargestTensor() as largest:
        losses.linear_token_loss(features, weight, tokens, mask).backward()
    assert largest.elements == words * D < N * L * words / 8 and weight.grad.any() and features.grad.any()
