"""Pivot ranking equals slow loops; the asymmetric similarity has the values of its definition."""

from collections.abc import Iterator

import pytest
import slow_losses as slow
import torch
from drawing import agrees, batches
from hypothesis import given, settings
from hypothesis import strategies as st

import losses
from losses import asymmetric, pivot


@pytest.fixture(autouse=True, scope="module")
def small_parts() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pivot, "SCORES_AT_ONCE", 8)
        patch.setattr(asymmetric, "CPU_BLOCK", 16)
        yield


@settings(max_examples=100, deadline=None)
@given(
    batches(),
    st.sampled_from(["asymmetric", "cosine"]),
    st.sampled_from([None, 0.1, 0.3]),
    st.booleans(),
    st.sampled_from(["sum", "hardest"]),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_pivot_ranking(case, similarity, margin, parallel, negatives, dtype):
    defaults = {"asymmetric": 0.05, "cosine": 0.2}
    agrees(
        lambda image, texts: losses.pivot_ranking_loss(
            *(image, texts, similarity, margin, parallel, case["given_present"], case["languages"], negatives),
            image_ids=case["image_ids"],
            text_ids=case["text_ids"],
            **case["further"],
        ),
        lambda image, texts: slow.pivot(
            *(image, texts, case, similarity, defaults[similarity] if margin is None else margin, parallel, negatives)
        ),
        *(case["image"], case["texts"]),
        dtype=dtype,
        weight=10.0,
    )


def test_asymmetric_similarity_by_hand():
    image, caption = torch.tensor([[0.6, 0.8], [0.8, 0.6]]), torch.tensor([[1.0, 0.0], [-0.6, 0.8]])
    expected = torch.tensor([[-0.16, 0.0], [-0.04, -0.04]])
    torch.testing.assert_close(losses.asymmetric_similarity(image, caption), expected)


def test_asymmetric_gradients_are_those_of_the_definition():
    a, b = torch.randn(5, 3, dtype=torch.float64, requires_grad=True), torch.randn(4, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(losses.asymmetric_similarity, (a, b.requires_grad_()))


def test_parallel_adds_the_ranking_of_captions_by_captions():
    """Captions of one language equal those of the other: both rank alike, so PARALLEL adds the same sum again."""
    texts = torch.nn.functional.normalize(torch.randn(6, 1, 4, dtype=torch.float64), dim=2)
    twice, image = texts.expand(6, 2, 4), texts[:, 0]
    one_language = losses.pivot_ranking_loss(image, texts, "cosine")
    both = losses.pivot_ranking_loss(image, twice, "cosine", parallel=True)
    torch.testing.assert_close(losses.pivot_ranking_loss(image, twice, "cosine"), 2 * one_language)
    torch.testing.assert_close(both, 3 * one_language)  # each ordered pair adds one of the two symmetric directions
