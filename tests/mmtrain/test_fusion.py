"""Fusion encoders: what they see, what they ignore, and what they cannot tell apart."""

import pytest
import torch
from torch import Tensor

import losses
from mmtrain.fusion.encoders import ConcatFusion, CrossAttentionFusion, Fusion, RowFusion, TextToImageAttention, fuse
from mmtrain.fusion.heads import MatchingHead, RelationHead
from mmtrain.models.batches import embed_batch
from mmtrain.models.image_text import ImageTextModel
from mmtrain.models.spec import build, spec_of
from mmtrain.towers import ByteGRU, FeatureTower, TimmTower
from tests.mmtrain.batches import made_batch

KINDS = [CrossAttentionFusion, ConcatFusion, TextToImageAttention]


def pair(N: int = 3, P: int = 4, L: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """Features [N, 1 + P, 8] and [N, 1 + L, 12], and a mask whose i-th row lacks its last i tokens."""
    random = torch.Generator().manual_seed(0)
    mask = torch.arange(1 + L) < 1 + L - torch.arange(N)[:, None]
    return torch.randn(N, 1 + P, 8, generator=random), torch.randn(N, 1 + L, 12, generator=random), mask


def connected(kind: type[Fusion]) -> Fusion:
    torch.manual_seed(0)
    return kind(width=16).connect(8, 12).eval()


@pytest.mark.parametrize("kind", KINDS)
def test_each_fusion_gives_one_vector_a_pair(kind: type[Fusion]) -> None:
    fusion = connected(kind)
    image, text, mask = pair()
    fused = fuse(fusion, image, text, mask)
    assert fused.shape == (3, 16)
    other_image, other_text = fuse(fusion, image.flip(0), text, mask), fuse(fusion, image, text.flip(0), mask)
    assert not torch.allclose(fused[0], other_image[0]) and not torch.allclose(fused[0], other_text[0])


@pytest.mark.parametrize("kind", KINDS)
def test_absent_tokens_do_not_matter(kind: type[Fusion]) -> None:
    fusion = connected(kind)
    image, text, mask = pair()
    changed = torch.where(mask.unsqueeze(-1), text, 100.0)
    torch.testing.assert_close(fuse(fusion, image, changed, mask), fuse(fusion, image, text, mask))


@pytest.mark.parametrize("kind", KINDS)
def test_pairs_do_not_see_each_other(kind: type[Fusion]) -> None:
    fusion = connected(kind)
    image, text, mask = pair()
    alone = torch.cat([fuse(fusion, image[i : i + 1], text[i : i + 1], mask[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(fuse(fusion, image, text, mask), alone)


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_sides_that_meet_are_what_forward_says_of_each_pair(kind: type[Fusion], layers: int) -> None:
    """Every picture with every text; alone, a text has no padding."""
    torch.manual_seed(0)
    fusion = (kind(16, layers) if kind is CrossAttentionFusion else kind(16)).connect(8, 12).eval()
    image, text, mask = pair()
    pairs = [(i, t) for i in range(3) for t in range(3)]
    alone = [fuse(fusion, image[i : i + 1], text[t : t + 1, mask[t]], mask[t : t + 1, mask[t]]) for i, t in pairs]
    i, t = torch.tensor(pairs).T
    images, texts = fusion.image_side(image), fusion.text_side(text, mask)
    met = fusion.meet([each[i] for each in images], [each[t] for each in texts])
    torch.testing.assert_close(met, torch.cat(alone), rtol=1e-6, atol=1e-6)


def test_cross_attention_reads_every_token_of_both() -> None:
    fusion = connected(CrossAttentionFusion)
    image, text, mask = (each.requires_grad_() if each.is_floating_point() else each for each in pair())
    fuse(fusion, image, text, mask).square().sum().backward()
    seen = text.grad.abs().sum(2) > 0
    assert torch.equal(seen, mask)
    assert (image.grad[:, 1:].abs().sum(2) > 0).all()


def test_text_to_image_attention_is_softmax_of_scaled_products() -> None:
    fusion = connected(TextToImageAttention)
    image, text, mask = pair()
    query, keys, values = fusion.query(text[:, 0]), fusion.key(image[:, 1:]), fusion.value(image[:, 1:])
    weights = torch.stack([(keys[n] @ query[n] / 16**0.5).softmax(0) for n in range(3)])
    seen = torch.stack([weights[n] @ values[n] for n in range(3)])
    expected = fusion.out(torch.cat([text[:, 0], seen], 1)).relu()
    torch.testing.assert_close(fuse(fusion, image, text, mask), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_fusion_is_built_again_from_its_description(kind: type[Fusion]) -> None:
    fusion = connected(kind)
    again = build(spec_of(fusion), Fusion)
    assert {name: each.shape for name, each in again.state_dict().items()} == {
        name: each.shape for name, each in fusion.state_dict().items()
    }


def test_widths_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match="fusion.image_width: got 8, but the image tower gives features of 9"):
        connected(ConcatFusion).connect(9, 12)
    with pytest.raises(ValueError, match="fusion.heads: got 3, expected a divisor of the width 16"):
        CrossAttentionFusion(width=16, heads=3)
    with pytest.raises(ValueError, match="fusion.layers: got 0, expected at least 1"):
        CrossAttentionFusion(width=16, layers=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("negatives", ["hard", "random"])
def test_a_matching_head_learns_to_match(kind: type[Fusion], negatives: str) -> None:
    """ITM on pairs whose features are two views of the same eight numbers goes below chance, log 2."""
    torch.manual_seed(1)
    objective = losses.ItmLoss(MatchingHead(kind(width=32).connect(8, 12)), negatives)
    optimiser = torch.optim.Adam(objective.parameters(), lr=0.01)
    view = torch.randn(8, 12) / 8**0.5
    history = []
    for _ in range(80):
        latent = torch.randn(16, 8)
        rows = torch.nn.functional.normalize(latent, dim=1)
        embeddings = losses.Embeddings(
            image=rows,
            texts=rows.unsqueeze(1),
            image_tokens=losses.TokenFeatures(latent.unsqueeze(1).expand(-1, 3, -1)),
            text_tokens=losses.TokenFeatures(
                (latent @ view).view(16, 1, 1, 12).expand(-1, 1, 3, -1), torch.ones(16, 1, 3, dtype=torch.bool)
            ),
        )
        loss = objective(embeddings)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        history.append(loss.item())
    assert sum(history[-10:]) / 10 < sum(history[:10]) / 10 - 0.03


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", ["hard", "random", "task"])
def test_a_batch_without_a_pair_to_judge_trains(kind: type[Fusion], what: str) -> None:
    """Every parameter gets a gradient, of zero: other processes wait for it."""
    image, text, mask = pair()
    fusion, nothing = kind(width=16).connect(8, 12), torch.zeros(3, 1, dtype=torch.bool)
    embeddings = losses.Embeddings(
        image=torch.eye(3),
        texts=torch.eye(3).unsqueeze(1),
        present=nothing,
        image_tokens=losses.TokenFeatures(image),
        text_tokens=losses.TokenFeatures(text.unsqueeze(1), mask.unsqueeze(1) & nothing.unsqueeze(2)),
    )
    if what == "task":
        network = RelationHead(fusion, {"relation": ["no", "yes"]})
        logits = network.judge(embeddings, *nothing.nonzero(as_tuple=True))["relation"]
        assert logits.shape == (0, 2)
        loss = logits.sum()
    else:
        network = losses.ItmLoss(MatchingHead(fusion), what)
        loss = network(embeddings)
    loss.backward()
    assert loss == 0
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and not parameter.grad.any(), name


def test_matching_in_parts_has_the_gradients_of_the_whole() -> None:
    vit = {"patch_size": 16, "embed_dim": 32, "depth": 1, "num_heads": 2}
    model = ImageTextModel(TimmTower("vit_tiny_patch16_224", image_size=32, options=vit), ByteGRU(width=16), 8).train()
    objective = losses.ItmLoss(MatchingHead(CrossAttentionFusion(width=8)))
    objective.connect(model)
    batch = made_batch(torch.randint(0, 255, (5, 3, 32, 32), dtype=torch.uint8))
    found = []
    for model.micro_batch in (None, 2):
        torch.manual_seed(0)  # of the drawn negatives
        model.zero_grad()
        objective(embed_batch(model, batch, tokens=True)).backward()
        found.append({name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None})
    whole, parts = found
    assert whole.keys() == parts.keys() and len(whole) > 20
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, atol=1e-6, rtol=1e-4, msg=name)


@pytest.mark.parametrize("kind", [*KINDS, RowFusion])
def test_a_head_with_a_scale_starts_as_the_cosine(kind: type[Fusion]) -> None:
    head = MatchingHead(kind(width=16), scale=20.0)
    head.connect(ImageTextModel(FeatureTower(8), ByteGRU(width=16), 12))
    image, text, mask = (torch.randn(3, 5, 8), torch.randn(3, 5, 16), torch.ones(3, 5, dtype=torch.bool))
    if head.reads_rows:
        image, text, mask = torch.randn(3, 1, 12), torch.randn(3, 1, 12), mask[:, :1]
    cosine = torch.tensor([0.9, -0.3, 0.1])
    torch.testing.assert_close(head(image, text, mask, cosine), torch.stack([0 * cosine, 20 * cosine], 1))
    again = build(spec_of(head), torch.nn.Module)
    again.load_state_dict(head.state_dict())


def test_a_description_without_a_scale_is_the_head_of_two_classes() -> None:
    spec = spec_of(MatchingHead(connected(ConcatFusion)))
    del spec["init_args"]["scale"]
    head = build(spec, torch.nn.Module)
    assert {name: list(each.shape) for name, each in head.out.state_dict().items()} == {"weight": [2, 16], "bias": [2]}
    assert not head.reads_cosine and not head.reads_rows
    with pytest.raises(ValueError, match="scale: got 0, expected a number above 0"):
        MatchingHead(connected(ConcatFusion), scale=0)
    with pytest.raises(ValueError, match="RowFusion compares rows of one width, got 8 and 12"):
        connected(RowFusion)
