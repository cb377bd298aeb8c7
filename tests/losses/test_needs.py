"""What an objective says of itself: what it reads, what knowing nothing costs, and what a wrapper passes on."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import losses
from losses.objective import ALL_FIELDS, needs_of

PAIRS = {"image", "texts"}
TEXTS = {"query", "positive"}
NEEDS = {  # what it reads, and whether it says so by needs_tokens too
    losses.ClipLoss: (PAIRS, False),
    losses.CosentLoss: (TEXTS | {"score"}, False),
    losses.InfoNceLoss: (TEXTS, False),  # unless it is told otherwise, as the others that compare fields
    losses.ItmLoss: (PAIRS | {"tokens"}, True),
    losses.LateInteractionLoss: (TEXTS | {"multi"}, False),
    losses.ListDistillationLoss: (TEXTS | {"negatives", "scores"}, False),
    losses.M3lLoss: (PAIRS, False),
    losses.MatryoshkaLoss: (PAIRS, False),  # until it is told what it wraps
    losses.OneToKLoss: (PAIRS, False),
    losses.PatrLoss: (PAIRS, False),
    losses.PivotRankingLoss: (PAIRS, False),
    losses.ScoreDistillationLoss: (TEXTS | {"multi"}, False),
    losses.SiglipLoss: (PAIRS, False),
    losses.SymileLoss: (PAIRS | {ALL_FIELDS}, False),
}


class Told(losses.Objective):
    """Reads labels and tokens, and remembers what it was told."""

    needs = frozenset({"image", "texts", "labels"})
    needs_tokens = True
    similarity = "asymmetric"

    def __init__(self) -> None:
        super().__init__()
        self.models, self.steps = [], 0

    def connect(self, model: object) -> None:
        self.models.append(model)

    def after_step(self) -> None:
        self.steps += 1

    def chance(self, images: int, captions: float) -> float:
        return images + captions

    def logged(self) -> dict[str, Tensor]:
        return {"steps": torch.tensor(self.steps)}


def unit(*shape: int) -> Tensor:
    return functional.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(0)), dim=-1)


def test_every_objective_says_what_it_reads() -> None:
    exported = {getattr(losses, name) for name in losses.__all__}
    kinds = {kind for kind in exported if isinstance(kind, type) and issubclass(kind, losses.Objective)}
    assert kinds - {losses.Objective} == set(NEEDS)
    for kind, (needs, needs_tokens) in NEEDS.items():
        assert (kind.needs, kind.needs_tokens) == (needs, needs_tokens), kind


def test_needs_tokens_is_one_more_need() -> None:
    assert needs_of(Told()) == {"image", "texts", "labels", "tokens"}
    assert needs_of(losses.ItmLoss(nn.Identity())) == {"image", "texts", "tokens"}
    assert needs_of(losses.ClipLoss()) == PAIRS


OTHERS = losses.ItmLoss, losses.MatryoshkaLoss


@pytest.mark.parametrize(
    "kind", [kind for kind, (needs, _) in NEEDS.items() if "image" in needs and kind not in OTHERS]
)
def test_a_missing_picture_or_caption_is_named(kind: type) -> None:
    with pytest.raises(ValueError, match="image: the samples have no picture"):
        kind()(losses.Embeddings(None, unit(4, 2, 8)))
    with pytest.raises(ValueError, match="texts: the samples have no captions"):
        kind()(losses.Embeddings(unit(4, 8), None))


@pytest.mark.parametrize("kind", [kind for kind, (needs, _) in NEEDS.items() if "query" in needs])
def test_a_missing_field_is_named(kind: type) -> None:
    with pytest.raises(ValueError, match="query: the samples have no such (field|token rows), but"):
        kind()(losses.Embeddings(None, unit(4, 2, 8), modalities={"answer": unit(4, 8)}))


@pytest.mark.parametrize(
    "objective",
    [
        losses.ClipLoss(),
        losses.OneToKLoss(),
        losses.MatryoshkaLoss(losses.OneToKLoss(), [2, 4], [1.0, 0.5]),
    ],
    ids=["clip", "one_to_k", "matryoshka"],
)
@pytest.mark.parametrize("K", [1, 3])
def test_chance_is_the_loss_of_equal_scores(objective: losses.Objective, K: int) -> None:
    alike = losses.Embeddings(torch.eye(4)[0].expand(6, 4), torch.eye(4)[0].expand(6, K, 4))
    assert objective(alike).item() == pytest.approx(objective.chance(6, K), rel=1e-5)


def test_chance_knows_the_published_weighting() -> None:
    alike = losses.Embeddings(torch.eye(4)[0].expand(6, 4), torch.eye(4)[0].expand(6, 3, 4))
    objective = losses.OneToKLoss(weighting="published")
    assert objective(alike).item() == pytest.approx(objective.chance(6, 3), rel=1e-5)


def test_chance_counts_the_captions_that_are_there() -> None:
    present = torch.tensor([[True, False], [True, True], [False, True], [True, False]])
    alike = losses.Embeddings(torch.eye(4)[0].expand(4, 4), torch.eye(4)[0].expand(4, 2, 4), present)
    objective = losses.OneToKLoss()
    assert objective(alike).item() == pytest.approx(objective.chance(4, 5 / 4), rel=1e-5)
    assert objective.chance(16, 0.5) == math.log(16)  # fewer captions than images


def test_chance_is_not_claimed_where_it_is_not_known() -> None:
    class Own(losses.Objective):
        pass

    unknown = [Own(), losses.PivotRankingLoss(), losses.SymileLoss(), losses.ItmLoss(nn.Identity())]
    for objective in [*unknown, losses.MatryoshkaLoss(losses.SiglipLoss(), [4])]:
        assert objective.chance(16, 1.0) is None, objective


def test_matryoshka_needs_what_it_wraps() -> None:
    for wrapped in (Told(), losses.ItmLoss(nn.Identity()), losses.SymileLoss(), losses.ClipLoss()):
        once = losses.MatryoshkaLoss(wrapped, [4])
        assert needs_of(once) == once.needs == needs_of(wrapped)
        assert once.needs_tokens == wrapped.needs_tokens
        assert needs_of(losses.MatryoshkaLoss(once, [2])) == needs_of(wrapped)


def test_matryoshka_compares_as_it_wraps() -> None:
    assert losses.PivotRankingLoss().similarity == "asymmetric"
    for similarity in ("asymmetric", "cosine"):
        assert losses.MatryoshkaLoss(losses.PivotRankingLoss(similarity), [4]).similarity == similarity
    assert losses.MatryoshkaLoss(Told(), [4]).similarity == "asymmetric"
    assert losses.MatryoshkaLoss(losses.ClipLoss(), [4]).similarity == "cosine"


def test_matryoshka_passes_on_what_it_is_told() -> None:
    told, model = Told(), object()
    wrapper = losses.MatryoshkaLoss(losses.MatryoshkaLoss(told, [4, 8]), [2, 4])
    wrapper.connect(model)
    wrapper.after_step()
    wrapper.after_step()
    assert told.models == [model] and told.steps == 2
    assert wrapper.logged()["steps"] == 2
    assert wrapper.chance(3, 2.0) == 4 * 5.0  # two prefixes of two prefixes


def test_matryoshka_connects_a_fusion_and_bounds_a_temperature() -> None:
    class Fusion(nn.Module):
        def connect(self, model: object) -> None:
            self.model = model

    fusion, model = Fusion(), object()
    losses.MatryoshkaLoss(losses.ItmLoss(fusion), [4]).connect(model)
    assert fusion.model is model
    wrapper = losses.MatryoshkaLoss(losses.OneToKLoss(scale=1000.0), [4])
    wrapper.after_step()
    assert wrapper.objective.log_scale.exp().item() == pytest.approx(100.0)
    assert wrapper.logged()["scale"].item() == pytest.approx(100.0)


def temperatures() -> list:
    wrapped = {
        "clip": losses.ClipLoss,
        "one_to_k": losses.OneToKLoss,
        "siglip": losses.SiglipLoss,
        "matryoshka": lambda scale: losses.MatryoshkaLoss(losses.OneToKLoss(scale=scale), [4, 8]),
    }
    return [pytest.param(make, id=name) for name, make in wrapped.items()]


def log_scale(objective: losses.Objective) -> nn.Parameter:
    [parameter] = [parameter for name, parameter in objective.named_parameters() if name.endswith("log_scale")]
    return parameter


@pytest.mark.parametrize(("beyond", "bound"), [(1000.0, 100.0), (0.1, 1.0)])
@pytest.mark.parametrize("make", temperatures())
def test_a_temperature_beyond_its_bound_comes_back(make, beyond: float, bound: float) -> None:
    # rows of chance want a lower multiplier, captions that are their pictures' own rows a higher one
    image, others = unit(12, 8).split(6)
    batch = losses.Embeddings(image, (others if beyond > bound else image)[:, None])
    objective, at_bound = make(scale=beyond), make(scale=bound)
    for each in (objective, at_bound):
        each(batch).backward()
    gradient = log_scale(objective).grad
    torch.testing.assert_close(gradient, log_scale(at_bound).grad)  # that of the bound, not of the value beyond it
    assert gradient.item() * (beyond - bound) > 0
    step = 1.5 * abs(math.log(beyond / bound)) / gradient.abs().item()
    with torch.no_grad():
        log_scale(objective).sub_(step * gradient)
    objective.after_step()
    inside = objective.logged()["scale"].item()
    assert inside < bound if beyond > bound else inside > bound
