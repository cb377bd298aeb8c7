"""Symile equals slow loops over tuples, for every combination and for the shuffling that its generator draws."""

from collections.abc import Iterator
from itertools import product

import pytest
import slow_losses as slow
import torch
from drawing import agrees, batches
from hypothesis import given, settings
from hypothesis import strategies as st

import losses
from losses import symile
from losses.engine import tiles


@pytest.fixture(autouse=True, scope="module")
def small_parts() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "CPU_TILE", (2, 5))
        patch.setattr(symile, "TUPLES_AT_ONCE", 7)
        yield


def equal(case: dict):
    def same(i: int, j: int) -> bool:
        by_image = case["image_ids"] is not None and case["image_ids"][i] == case["image_ids"][j]
        by_text = case["text_ids"] is not None and bool(torch.isin(case["text_ids"][i], case["text_ids"][j]).any())
        return i == j or bool(by_image) or by_text

    return same


@settings(max_examples=40, deadline=None)
@given(batches(), st.sampled_from([torch.float32, torch.float64]), st.booleans())
def test_all_combinations(case, dtype, four):
    third = case["texts"].flip(0)[:, -1]
    modalities = [case["image"][:5], case["texts"][:5, 0], third[:5], *([case["image"].flip(0)[:5]] if four else [])]
    B, M = len(modalities[0]), len(modalities)
    if four:
        modalities, B = [rows[:3] for rows in modalities], min(B, 3)
    tuples = [list(product(range(B), repeat=M - 1))] * M
    ids = {name: None if case[name] is None else case[name][:B] for name in ("image_ids", "text_ids")}
    agrees(
        lambda scale, *rows: losses.symile_loss(list(rows), scale, "all", **ids),
        lambda scale, *rows: slow.symile(list(rows), scale, tuples, equal(ids)),
        *(case["scale"], *modalities),
        dtype=dtype,
        weight=case["scale"],
    )


@settings(max_examples=40, deadline=None)
@given(batches(), st.sampled_from([torch.float32, torch.float64]), st.integers(0, 99))
def test_shuffled(case, dtype, seed):
    modalities = [case["image"], case["texts"][:, 0], case["texts"].flip(0)[:, -1]]
    B, with_ids = len(case["image"]), case["image_ids"] is not None or case["text_ids"] is not None
    shuffles = symile._shuffles(3, B, torch.Generator().manual_seed(seed), None, torch.device("cpu"))

    def slow_loss(scale, *rows):
        # the j-th tuple is a negative of every anchor but the j-th: that place holds the anchor's own tuple
        by_anchor = []
        for i in range(B):
            tuples = [
                [tuple(int(shuffles[a, m, j]) for m in range(3) if m != a) for j in range(B) if j != i]
                for a in range(3)
            ]
            by_anchor.append(tuples)
        same = equal(case) if with_ids else lambda i, j: False
        total = 0 * scale
        for i in range(B):
            total = total + slow.symile(list(rows), scale, by_anchor[i], same, only=i)
        return total

    agrees(
        lambda scale, *rows: losses.symile_loss(
            *(list(rows), scale, "shuffled", torch.Generator().manual_seed(seed)),
            image_ids=case["image_ids"],
            text_ids=case["text_ids"],
        ),
        slow_loss,
        *(case["scale"], *modalities),
        dtype=dtype,
        weight=case["scale"],
    )


def test_two_modalities_are_refused():
    rows = torch.ones(3, 1)
    with pytest.raises(ValueError, match="embeddings: got 2 modalities, expected at least 3"):
        losses.symile_loss([rows, rows], 1.0)
