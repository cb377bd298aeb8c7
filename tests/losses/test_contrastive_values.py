"""clip, 1-to-K and SigLIP equal slow loops over pairs, whatever is missing, repeated or cut into tiles."""

from collections.abc import Iterator

import pytest
import slow_losses as slow
import torch
from drawing import agrees, batches
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

import losses
from losses.engine import tiles

DTYPES = st.sampled_from([torch.float32, torch.float64])


@pytest.fixture(autouse=True, scope="module")
def tiny_tiles() -> Iterator[None]:
    """Tiles smaller than the batches, so that every test crosses their edges."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "CPU_TILE", (2, 5))
        yield


@settings(max_examples=80, deadline=None)
@given(batches(), DTYPES)
def test_one_to_k_balanced(case, dtype):
    agrees(
        lambda image, texts, scale: losses.one_to_k_loss(
            *(image, texts, scale, case["given_present"]),
            image_ids=case["image_ids"],
            text_ids=case["text_ids"],
            paired=case["paired"],
            **case["further"],
        ),
        lambda image, texts, scale: slow.one_to_k(image, texts, scale, case),
        *(case["image"], case["texts"], case["scale"]),
        dtype=dtype,
        weight=case["scale"],
    )


@settings(max_examples=30, deadline=None)
@given(batches(), DTYPES)
def test_one_to_k_published(case, dtype):
    case["present"] = torch.ones_like(case["present"])
    agrees(
        lambda image, texts, scale: losses.one_to_k_loss(
            *(image, texts, scale),
            weighting="published",
            image_ids=case["image_ids"],
            text_ids=case["text_ids"],
            paired=case["paired"],
            **case["further"],
        ),
        lambda image, texts, scale: slow.one_to_k(image, texts, scale, case, "published"),
        *(case["image"], case["texts"], case["scale"]),
        dtype=dtype,
        weight=case["scale"],
    )


@settings(max_examples=40, deadline=None)
@given(batches(), DTYPES)
def test_clip(case, dtype):
    case["present"], texts, case["paired"] = torch.ones_like(case["present"][:, :1]), case["texts"][:, :1], None
    case["further"] = {"distractors": None, "distractors_present": None}
    text_ids = case["text_ids"]
    case["text_ids"] = None if text_ids is None else text_ids[:, :1]
    agrees(
        lambda image, texts, scale: losses.clip_loss(
            *(image, texts[:, 0], scale),
            image_ids=case["image_ids"],
            text_ids=None if text_ids is None else text_ids[:, 0],
        ),
        lambda image, texts, scale: slow.one_to_k(image, texts, scale, case),
        *(case["image"], texts, case["scale"]),
        dtype=dtype,
        weight=case["scale"],
    )


@settings(max_examples=60, deadline=None)
@given(batches(), DTYPES)
def test_siglip(case, dtype):
    agrees(
        lambda image, texts, scale, bias: losses.siglip_loss(
            *(image, texts, scale, bias, case["given_present"]),
            image_ids=case["image_ids"],
            text_ids=case["text_ids"],
            **case["further"],
        ),
        lambda image, texts, scale, bias: slow.siglip(image, texts, scale, bias, case),
        *(case["image"], case["texts"], case["scale"], case["bias"]),
        dtype=dtype,
        weight=case["scale"],
    )


def test_clip_is_cross_entropy_towards_the_diagonal():
    image, text = torch.nn.functional.normalize(torch.randn(2, 9, 4), dim=2)
    logits, diagonal = 10 * image @ text.T, torch.arange(9)
    expected = (
        torch.nn.functional.cross_entropy(logits, diagonal) + torch.nn.functional.cross_entropy(logits.T, diagonal)
    ) / 2
    torch.testing.assert_close(losses.clip_loss(image, text, 10.0), expected)
    torch.testing.assert_close(losses.one_to_k_loss(image, text[:, None], 10.0), expected)
    torch.testing.assert_close(
        losses.siglip_loss(image, text, 10.0, -2.0), losses.siglip_loss(image, text[:, None], 10.0, -2.0)
    )


def test_known_values_of_uninformative_rows():
    """All logits equal: i2t is log BK, t2i log B; the published weighting divides the second by K once more."""
    B, K = 4, 3
    image, texts = torch.ones(B, 1), torch.ones(B, K, 1)
    log = torch.tensor([B * K, B]).log()
    torch.testing.assert_close(losses.one_to_k_loss(image, texts, 5.0), log.sum() / 2)
    torch.testing.assert_close(
        losses.one_to_k_loss(image, texts, 5.0, weighting="published"), log[0] / 2 + log[1] / (2 * K)
    )


def test_an_image_without_captions_stays_a_negative_for_texts():
    image = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    texts = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
    loss = losses.one_to_k_loss(image, texts, 1.0, torch.tensor([[True], [False]]))
    torch.testing.assert_close(loss, torch.tensor(-0.4).exp().log1p() / 2)  # i2t 0, t2i log(1 + e^(0.6 - 1))


def test_a_pair_that_is_none_gives_two_negatives():
    """Image 1 and its caption: the caption of image 0 tells its own image from both, image 0 its caption from both."""
    image = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    texts = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
    loss = losses.one_to_k_loss(image, texts, 1.0, paired=torch.tensor([True, False]))
    torch.testing.assert_close(loss, torch.tensor([-1.0, -0.4]).exp().log1p().mean())


@pytest.mark.parametrize("K", [1, 3])
@pytest.mark.parametrize("name", ["siglip_loss", "one_to_k_loss", "pivot_ranking_loss"])
def test_an_id_of_a_row_is_that_of_all_its_captions(name: str, K: int) -> None:
    random = torch.Generator().manual_seed(0)
    image, texts = (
        functional.normalize(torch.randn(*shape, generator=random), dim=-1) for shape in ((6, 8), (6, K, 8))
    )
    arguments = {"siglip_loss": (10.0, -3.0), "one_to_k_loss": (10.0,), "pivot_ranking_loss": ("cosine", 0.5, True)}[
        name
    ]
    ids, loss = torch.tensor([0, 1, 0, 2, 3, 1]), getattr(losses, name)
    by_row = loss(image, texts, *arguments, text_ids=ids)
    assert by_row == loss(image, texts, *arguments, text_ids=ids[:, None].expand(6, K))
    assert by_row < loss(image, texts, *arguments)
    with pytest.raises(ValueError, match="text_ids"):
        loss(image, texts, *arguments, text_ids=ids[:5])
