"""No input of unit rows makes a NaN or an infinity, and wrong input is refused in one line."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import losses
from losses.engine.pairs import Pairs
from losses.engine.tiles import lowest, tiled_logsumexp

LOSSES = {
    "one_to_k": lambda i, t, s, p, ids: losses.one_to_k_loss(i, t, s, p, image_ids=ids),
    "clip": lambda i, t, s, p, ids: losses.clip_loss(i, t[:, 0], s, image_ids=ids),
    "siglip": lambda i, t, s, p, ids: losses.siglip_loss(i, t, s, -10.0, p, image_ids=ids),
    "asymmetric": lambda i, t, s, p, ids: losses.pivot_ranking_loss(i, t, present=p, parallel=True, image_ids=ids),
    "hardest": lambda i, t, s, p, ids: losses.pivot_ranking_loss(
        *(i, t, "cosine", None, True, p), negatives="hardest", image_ids=ids
    ),
    "symile": lambda i, t, s, p, ids: losses.symile_loss([i, *t.unbind(1)], s, image_ids=ids),
    "symile all": lambda i, t, s, p, ids: losses.symile_loss([i, *t.unbind(1)], s, "all", image_ids=ids),
}


def extremes() -> dict[str, tuple[Tensor, Tensor, Tensor | None, Tensor | None]]:
    image, texts = functional.normalize(torch.randn(6, 4), dim=1), functional.normalize(torch.randn(6, 2, 4), dim=2)
    same = torch.eye(4)[:1]
    nothing = torch.zeros(6, 2, dtype=torch.bool)
    return {
        "plain": (image, texts, None, None),
        "nothing present": (image, texts, nothing, None),
        "one caption": (image, texts, nothing.index_put((torch.tensor(2), torch.tensor(1)), torch.tensor(True)), None),
        "identical rows": (same.expand(6, 4), same.expand(6, 2, 4), None, None),
        "opposite pairs": (same.expand(6, 4), -same.expand(6, 2, 4), None, None),
        "orthogonal pairs": (same.expand(6, 4), torch.eye(4)[1].expand(6, 2, 4), None, None),
        "perfect pairs": (torch.eye(4), torch.eye(4)[:, None].expand(4, 2, 4), None, None),
        "batch of one": (image[:1], texts[:1], None, None),
        "all the same picture": (image, texts, None, torch.zeros(6, dtype=torch.int64)),
    }


@pytest.mark.parametrize("scale", [1.0, 100.0, 5000.0])
@pytest.mark.parametrize("kind", extremes())
@pytest.mark.parametrize("loss", LOSSES)
def test_nothing_makes_a_nan(loss, kind, scale):
    image, texts, present, ids = extremes()[kind]
    leaves = [image.clone().requires_grad_(), texts.clone().requires_grad_(), torch.tensor(scale, requires_grad=True)]
    value = LOSSES[loss](*leaves, present, ids)
    assert value.isfinite()
    for gradient in torch.autograd.grad(value, leaves, allow_unused=True, materialize_grads=True):
        assert gradient.isfinite().all()


def test_nothing_present_is_zero_with_zero_gradients():
    image, texts, present, _ = extremes()["nothing present"]
    image, texts = image.requires_grad_(), texts.requires_grad_()
    for name in ("one_to_k", "asymmetric", "hardest"):
        value = LOSSES[name](image, texts, 10.0, present, None)
        gradients = torch.autograd.grad(value, [image, texts])
        assert value == 0 and not any(gradient.any() for gradient in gradients)


def test_a_well_learned_pair_keeps_its_small_gradient():
    """softplus(negatives - positive) where log-sum-exp minus positive would have rounded to 0."""
    image = torch.eye(8).requires_grad_()
    loss = losses.clip_loss(image, torch.eye(8), 30.0)
    torch.testing.assert_close(loss, torch.tensor(7.0) * torch.tensor(-30.0).exp(), rtol=1e-4, atol=0)
    (gradient,) = torch.autograd.grad(loss, image)
    exact = losses.clip_loss(image.double(), torch.eye(8).double(), 30.0)
    (expected,) = torch.autograd.grad(exact, image)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=0)


def test_both_ways_of_summing_agree():
    """Logits between -5000 and 5000 leave the range of a shifted float32 sum; those of float64 need no second way."""
    torch.manual_seed(0)
    rows, columns = functional.normalize(torch.randn(2, 40, 3), dim=2)
    pairs = Pairs(torch.arange(40), torch.arange(40))
    far = [part.double() for part in tiled_logsumexp(rows, columns, torch.tensor(300.0), pairs)]
    near = tiled_logsumexp(rows.double(), columns.double(), torch.tensor(300.0).double(), pairs)
    torch.testing.assert_close(far, list(near), rtol=1e-5, atol=1e-4)


def test_a_row_without_negatives_is_the_lowest():
    pairs = Pairs(torch.tensor([0]), torch.tensor([0]))
    positives, rows, columns = tiled_logsumexp(torch.ones(1, 1), torch.ones(1, 1), torch.tensor(2.0), pairs)
    assert positives.item() == 2.0 and rows.item() == columns.item() == lowest(torch.float32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("loss", LOSSES)
def test_half_precision_rows_are_computed_in_float32(loss, dtype):
    image, texts, *_ = extremes()["plain"]
    image, texts = image.to(dtype), texts.to(dtype)
    torch.manual_seed(1)
    expected = LOSSES[loss](image.float(), texts.float(), 20.0, None, None)
    torch.manual_seed(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = LOSSES[loss](image, texts, 20.0, None, None)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-6)


def test_a_backward_pass_under_autocast_stays_in_float32():
    image, texts, *_ = extremes()["plain"]
    gradients = []
    for enabled in (False, True):
        leaf = image.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            losses.one_to_k_loss(leaf, texts, 20.0).backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-6)


IMAGE, TEXTS = torch.ones(4, 1), torch.ones(4, 2, 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: losses.one_to_k_loss(IMAGE, TEXTS, 0.0), "scale: got 0, expected a positive number"),
        (lambda: losses.clip_loss(IMAGE, IMAGE, -1.0), "scale: got -1, expected a positive number"),
        (lambda: losses.clip_loss(IMAGE, IMAGE, torch.ones(2)), r"scale: got shape \[2\], expected one number"),
        (lambda: losses.clip_loss(IMAGE, IMAGE, float("nan")), "scale: got nan"),
        (lambda: losses.clip_loss(IMAGE, IMAGE[:3], 1.0), r"text: got shape \[3, 1\], expected that of image \[4, 1\]"),
        (lambda: losses.one_to_k_loss(IMAGE, TEXTS[:, :0], 1.0), r"texts: got shape \[4, 0, 1\].*K at least 1"),
        (lambda: losses.one_to_k_loss(IMAGE[0], TEXTS, 1.0), r"image: got shape \[1\], expected \[B, D\]"),
        (lambda: losses.one_to_k_loss(IMAGE, TEXTS, 1.0, torch.ones(4, 3) > 0), r"present: .*\[4, 3\].*\[4, 2\]"),
        (lambda: losses.one_to_k_loss(IMAGE, TEXTS, 1.0, torch.ones(4, 2)), "present: got torch.float32"),
        (lambda: losses.one_to_k_loss(IMAGE, TEXTS, 1.0, torch.zeros(4, 2) > 0, "published"), "present: 8 captions"),
        (lambda: losses.one_to_k_loss(IMAGE, TEXTS, 1.0, weighting="paper"), "weighting: got 'paper', expected one of"),
        (lambda: losses.siglip_loss(IMAGE, TEXTS, 1.0, torch.ones(3)), r"bias: got shape \[3\]"),
        (lambda: losses.siglip_loss(IMAGE, TEXTS, 1.0, 0.0, image_ids=torch.ones(4)), "image_ids: got torch.float32"),
        (lambda: losses.pivot_ranking_loss(IMAGE, TEXTS, "dot"), "similarity: got 'dot', expected one of asymmetric"),
        (lambda: losses.pivot_ranking_loss(IMAGE, TEXTS, margin=-1.0), "margin: got -1.0, expected at least 0"),
        (lambda: losses.symile_loss([IMAGE, IMAGE, IMAGE[:2]], 1.0), r"embeddings\[2\]: got shape \[2, 1\]"),
        (lambda: losses.itm_loss(IMAGE, torch.ones(4).long()), r"logits: got shape \[4, 1\], expected \[N, 2\]"),
        (lambda: losses.hard_negatives(torch.ones(2, 3), torch.ones(2, 2) > 0), r"positives: .*\[2, 2\].*\[2, 3\]"),
        (lambda: losses.asymmetric_similarity(IMAGE, torch.ones(4, 2)), r"b: got shape \[4, 2\], expected \[M, 1\]"),
        (lambda: losses.MatryoshkaLoss(losses.ClipLoss(), []), r"dims: got \[\]"),
        (lambda: losses.ClipLoss(scale=0.0), "scale: got 0.0"),
        (lambda: losses.micro_batched(torch.sin, IMAGE, micro_batch=0), "micro_batch: got 0, expected at least 1"),
    ],
)
def test_wrong_input_is_named(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("captions", [1, 5], ids=["sums out of range", "sums in range"])
def test_gradients_of_large_logits_cancel(captions: int) -> None:
    """Images that are all alike tell a caption nothing: its softmax adds up to 1, however large the logits."""
    image, texts = torch.ones(5, 1), torch.ones(5, 1, 1, requires_grad=True)
    loss = losses.one_to_k_loss(image, texts, 100.0, torch.arange(5)[:, None] < captions)
    (gradient,) = torch.autograd.grad(loss, texts)
    assert gradient.norm() < 1e-5
