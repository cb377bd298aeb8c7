"""Image-text matching: the mean over rows, and negatives drawn by similarity from what may be drawn."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import losses


def test_itm_loss_is_cross_entropy():
    logits, labels = torch.randn(7, 2, dtype=torch.float64, requires_grad=True), torch.tensor([0, 1, 1, 0, 0, 1, 0])
    expected = sum(logits[n].logsumexp(0) - logits[n, labels[n]] for n in range(7)) / 7
    value = losses.itm_loss(logits, labels)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(torch.autograd.grad(value, logits), torch.autograd.grad(expected, logits))
    assert losses.itm_loss(logits[:0], labels[:0]) == 0
    assert all(losses.itm_loss(logits, labels.to(kind)) == value for kind in (torch.bool, torch.int32))


def test_hard_negatives_follow_the_softmax_of_what_is_left():
    scores = torch.tensor([[5.0, 1.0, 0.0, -1.0]]).expand(20_000, 4)
    positives = torch.tensor([[True, False, False, False]]).expand(20_000, 4)
    drawn = losses.hard_negatives(scores, positives, torch.Generator().manual_seed(0))
    shares = drawn.bincount(minlength=4) / 20_000
    torch.testing.assert_close(shares[1:], torch.tensor([1.0, 0.0, -1.0]).softmax(0), rtol=0, atol=0.02)
    assert shares[0] == 0


def test_a_row_of_positives_has_no_negative():
    positives = torch.tensor([[True, True], [False, True]])
    assert losses.hard_negatives(torch.zeros(2, 2), positives).tolist() == [-1, 0]
    assert losses.hard_negatives(torch.zeros(2, 0), positives[:, :0]).tolist() == [-1, -1]


def test_scores_that_would_underflow_are_still_drawn():
    scores = torch.tensor([[100.0, -3000.0, -3010.0]])
    assert losses.hard_negatives(scores, scores > 0).tolist() == [1]


def test_sums_made_out_of_order_draw_no_positive(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on CUDA, where the running sum may grow by a rounding error between two columns of weight 0."""
    inexact = torch.tensor([0.0, 0.5, 1.0, 1.0])
    monkeypatch.setattr(torch.Tensor, "cumsum", lambda self, dim: inexact.expand_as(self))
    positives = torch.tensor([[True, True, False, True]]).expand(50, 4)
    drawn = losses.hard_negatives(torch.zeros(50, 4), positives, torch.Generator().manual_seed(0))
    assert drawn.unique().tolist() == [2]


class Matches(nn.Module):
    """A fusion network that knows the answer, since tokens carry the number of their image."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(1.0))

    def forward(self, image: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        assert image.shape[0] == text.shape[0] == mask.shape[0] and mask.dtype == torch.bool
        self.image, self.text = image[:, 0, 0], text[:, 0, 0]
        match = (self.image == self.text).float()
        return self.gain * 50 * torch.stack([1 - match, match], 1)


def batch(B: int = 5, K: int = 3, **more: Tensor) -> losses.Embeddings:
    random = torch.Generator().manual_seed(0)
    number = torch.arange(B).float()
    return losses.Embeddings(
        image=functional.normalize(torch.randn(B, 4, generator=random), dim=1),
        texts=functional.normalize(torch.randn(B, K, 4, generator=random), dim=2),
        image_tokens=losses.TokenFeatures(number.view(B, 1, 1).expand(B, 2, 4)),
        text_tokens=losses.TokenFeatures(
            number.view(B, 1, 1, 1).expand(B, K, 3, 4), torch.ones(B, K, 3, dtype=torch.bool)
        ),
        **more,
    )


def test_labels_belong_to_their_pairs():
    objective = losses.ItmLoss(Matches())
    assert objective.needs_tokens and objective.needs == {"image", "texts", "tokens"}
    assert objective(batch()) < 1e-6  # the network that knows is always right
    judged = list(zip(objective.fusion.image.tolist(), objective.fusion.text.tolist(), strict=True))
    assert len(judged) == 15  # 5 pairs, 5 wrong captions, 5 wrong images
    assert all(image == text for image, text in judged[:5]) and all(image != text for image, text in judged[5:])
    assert objective.logged()["images_without_negative"] == 0


def test_the_hardest_is_told_apart_under_autocast():
    """Cosines of 0.999 and 0.998 are equal in bfloat16."""
    for _ in range(10):
        embeddings = batch(B=3, K=1)
        angles = torch.tensor([0.0, 0.999, 0.998]).acos()
        angles[0] = 0.0
        embeddings.image = torch.tensor([[1.0, 0.0, 0.0, 0.0]]).expand(3, 4)
        embeddings.texts = torch.stack([angles.cos(), angles.sin(), 0 * angles, 0 * angles], 1)[:, None]
        objective = losses.ItmLoss(Matches(), scale=1e6)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            objective(embeddings)
        assert objective.fusion.text[3] == 1  # the wrong caption of image 0 is that of image 1


def test_random_negatives_replace_about_half_of_the_captions():
    torch.manual_seed(0)
    objective = losses.ItmLoss(Matches(), negatives="random")
    assert objective(batch(B=300)) < 1e-6
    assert len(objective.fusion.image) == 300
    assert 100 < (objective.fusion.image != objective.fusion.text).sum() < 200


@pytest.mark.parametrize("negatives", ["hard", "random"])
def test_images_without_caption_or_negative_are_left_out(negatives):
    present = torch.ones(5, 3, dtype=torch.bool)
    present[2] = False
    objective = losses.ItmLoss(Matches(), negatives)
    objective(batch(present=present))
    assert not (objective.fusion.text == 2).any()
    same = losses.ItmLoss(Matches(), negatives)
    same(batch(image_ids=torch.zeros(5, dtype=torch.int64)))
    assert len(same.fusion.image) == 5 and (same.fusion.image == same.fusion.text).all()
    assert same.logged()["images_without_negative"] == 5


@pytest.mark.parametrize("negatives", ["hard", "random"])
def test_an_unpaired_image_and_its_captions_meet_only_others(negatives: str) -> None:
    torch.manual_seed(0)
    objective = losses.ItmLoss(Matches(), negatives)
    objective(batch(B=40, paired=torch.arange(40) >= 20))
    image, text = objective.fusion.image, objective.fusion.text
    assert len(image) == (60 if negatives == "hard" else 20) and not ((image == text) & (image < 20)).any()
    assert (text < 20).any() and (image < 20).any() == (negatives == "hard")


class Slots(Matches):
    """Remembers which slots it sees, whose numbers texts carry."""

    def forward(self, image: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        self.slot = text[:, 2, 0].long()
        return super().forward(image, text, mask)


@pytest.mark.parametrize("negatives", ["hard", "random"])
def test_any_present_caption_can_be_the_positive(negatives):
    torch.manual_seed(0)
    present = torch.tensor([True, False, True, True]).expand(300, 4)
    embeddings = batch(B=300, K=4, present=present)
    slots = torch.arange(4.0).view(1, 4, 1).expand(300, 4, 4)
    embeddings.text_tokens.leading = torch.cat([embeddings.text_tokens.leading[:, :, :2], slots[:, :, None]], 2)

    objective = losses.ItmLoss(Slots(), negatives)
    objective(embeddings)
    network = objective.fusion
    drawn = network.slot[:300][network.image[:300] == network.text[:300]].bincount(minlength=4)
    assert drawn[1] == 0 and drawn.sum() >= 100
    # a third each, within five standard deviations
    assert all(abs(drawn[k] - drawn.sum() / 3) < 5 * (drawn.sum() * 2 / 9).sqrt() for k in (0, 2, 3))


def test_a_hard_positive_is_the_language_that_is_least_probable() -> None:
    """Drawn in proportion to how much less probable than the best one a caption is, absent ones left out."""
    torch.manual_seed(0)
    N, cosines = 2000, torch.tensor([0.9, 0.3, 0.5, 0.7])
    embeddings = batch(B=N, K=4, present=torch.tensor([True, False, True, True]).expand(N, 4))
    embeddings.image = torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(N, 4)
    embeddings.texts = torch.stack([cosines, (1 - cosines**2).sqrt(), *torch.zeros(2, 4)], 1).expand(N, 4, 4)
    slots = torch.arange(4.0).view(1, 4, 1).expand(N, 4, 4)
    embeddings.text_tokens.leading = torch.cat([embeddings.text_tokens.leading[:, :, :2], slots[:, :, None]], 2)
    objective = losses.ItmLoss(Slots(), scale=5.0, positive="hard")
    objective(embeddings)
    drawn = objective.fusion.slot[:N].bincount(minlength=4) / N
    weights = (5 * cosines[0]).exp() - (5 * cosines).exp()
    right = weights.masked_fill(torch.tensor([False, True, False, False]), 0.0)
    assert drawn.tolist() == pytest.approx((right / right.sum()).tolist(), abs=0.05)
    alone = batch(present=torch.tensor([True, False, False]).expand(5, 3))
    assert torch.isfinite(objective.fusion.gain) and torch.isfinite(losses.ItmLoss(Matches(), positive="hard")(alone))
    with pytest.raises(ValueError, match="positive: got 'best', expected one of even, hard"):
        losses.ItmLoss(Matches(), positive="best")


def test_missing_tokens_are_named():
    embeddings = batch()
    embeddings.text_tokens.leading_mask = None
    with pytest.raises(ValueError, match="text_tokens: expected both, the texts' with a mask"):
        losses.ItmLoss(Matches())(embeddings)


class Scores(nn.Module):
    """A network over rows and cosines: gain times the cosine, beside what it saw."""

    reads_rows = reads_cosine = True

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(3.0))

    def forward(self, image: Tensor, text: Tensor, mask: Tensor, cosine: Tensor) -> Tensor:
        torch.testing.assert_close(cosine, (image * text).sum((1, 2)))
        assert mask.all() and mask.shape == image.shape[:2]
        return functional.pad(self.gain * cosine[:, None], (1, 0))


@pytest.mark.parametrize("candidates", [1, 3, 40])
def test_lists_are_the_softmax_of_the_right_one_and_the_nearest(candidates: int) -> None:
    """Against a loop over queries; equal image ids and words are no negatives, more candidates than there are do."""
    embeddings = batch(B=6, K=1, image_ids=torch.tensor([0, 1, 2, 2, 4, 5]), text_ids=torch.arange(6)[:, None])
    embeddings.text_ids[5] = 0
    embeddings.image_tokens = embeddings.text_tokens = None
    network = Scores()
    objective = losses.ItmLoss(network, candidates=candidates)
    assert "tokens" not in objective.needs and not objective.needs_tokens
    loss = objective(embeddings)
    alike = {(0, 5), (5, 0), (2, 3), (3, 2)}
    cosines, terms = embeddings.image @ embeddings.texts[:, 0].T, []
    for scores in (cosines, cosines.T):
        for i in range(6):
            wrong = sorted((scores[i, j].item() for j in range(6) if j != i and (i, j) not in alike), reverse=True)
            listed = 3.0 * torch.tensor([scores[i, i].item(), *wrong[:candidates]])
            terms.append(listed.logsumexp(0) - listed[0])
    torch.testing.assert_close(loss, torch.stack(terms).mean())
    loss.backward()
    assert network.gain.grad is not None and network.gain.grad != 0


def test_lists_of_a_batch_without_pairs_train() -> None:
    objective = losses.ItmLoss(Scores(), candidates=2)
    loss = objective(batch(present=torch.zeros(5, 3, dtype=torch.bool)))
    loss.backward()
    assert loss == 0 and objective.fusion.gain.grad == 0


def test_candidates_are_hard() -> None:
    with pytest.raises(ValueError, match="candidates: got 4 beside random negatives, expected at least 1, hard"):
        losses.ItmLoss(Matches(), "random", candidates=4)
