"""InfoNCE with negatives against a loop over pairs in float64: values and gradients, ids and absent negatives."""

import pytest
import torch
from torch.nn import functional

import losses

B, N, D = 6, 3, 5


def unit(*shape: int) -> torch.Tensor:
    return functional.normalize(torch.randn(*shape, dtype=torch.float64), dim=-1)


def by_loops(
    queries, targets, scale, negatives, present, both, negatives_of, query_ids, target_ids, negative_ids, guide=None
):
    forward, backward = [], []
    for i in range(len(queries)):

        def apart(j, i=i):
            return j == i or not (
                (query_ids is not None and query_ids[j] == query_ids[i])
                or (target_ids is not None and target_ids[j] == target_ids[i])
            )

        def alike(query, other, i=i):  # more than the guide's own pair
            own = 0 if guide is None else guide.queries[i] @ guide.targets[i] - guide.margin
            return guide is not None and query @ other > own

        positive = scale * queries[i] @ targets[i]
        row = [
            scale * queries[i] @ targets[j]
            for j in range(len(targets))
            if apart(j) and (j == i or guide is None or not alike(guide.queries[i], guide.targets[j]))
        ]
        for j in range(len(queries)) if negatives is not None else ():
            for k in range(negatives.shape[1]):
                other = j != i and (negatives_of == "own" or (query_ids is not None and query_ids[j] == query_ids[i]))
                same = negative_ids is not None and target_ids is not None and negative_ids[j, k] == target_ids[i]
                if guide is not None and alike(guide.queries[i], guide.negatives[j, k]):
                    continue
                if (present is None or present[j, k]) and not other and not same:
                    row.append(scale * queries[i] @ negatives[j, k])
        forward.append(torch.stack(row).logsumexp(0) - positive)
        column = [
            scale * queries[j] @ targets[i]
            for j in range(len(queries))
            if apart(j) and (j == i or guide is None or not alike(guide.queries[j], guide.targets[i]))
        ]
        backward.append(torch.stack(column).logsumexp(0) - positive)
    forward, backward = torch.stack(forward).mean(), torch.stack(backward).mean()
    return (forward + backward) / 2 if both else forward


@pytest.mark.parametrize("both", [True, False])
@pytest.mark.parametrize("negatives_of", ["all", "own"])
@pytest.mark.parametrize("ids", ["", "q", "t", "qtn"])
@pytest.mark.parametrize("masked", [True, False])
def test_it_is_the_loop(both, negatives_of, ids, masked):
    torch.manual_seed(len(ids) + both)
    present = torch.rand(B, N) < 0.6 if masked else None
    options = {
        "query_ids": torch.tensor([0, 1, 2, 0, 4, 5]) if "q" in ids else None,
        "target_ids": torch.tensor([7, 1, 2, 3, 1, 5]) if "t" in ids else None,
        "negative_ids": torch.randint(0, 9, (B, N)) if "n" in ids else None,
    }
    leaves = [unit(B, D), unit(B, D), torch.tensor(9.0, dtype=torch.float64), unit(B, N, D)]
    for leaf in leaves:
        leaf.requires_grad_()
    ours = losses.info_nce_loss(*leaves, present, both=both, negatives_of=negatives_of, **options)
    right = by_loops(*leaves, present, both, negatives_of, **options)
    torch.testing.assert_close(ours, right)
    for mine, its in zip(torch.autograd.grad(ours, leaves), torch.autograd.grad(right, leaves), strict=True):
        torch.testing.assert_close(mine, its)


@pytest.mark.parametrize("tile", [(2, 3), (1024, 4096)])
@pytest.mark.parametrize("both", [True, False])
@pytest.mark.parametrize("negatives_of", ["all", "own"])
@pytest.mark.parametrize("with_ids", [True, False])
def test_a_guide_leaves_out_what_it_finds_alike(tile, both, negatives_of, with_ids, monkeypatch):
    monkeypatch.setattr("losses.engine.tiles.CPU_TILE", tile)
    torch.manual_seed(both)
    guide = losses.GuideRows(unit(B, 4), unit(B, 4), unit(B, N, 4), margin=0.3)
    guide.targets = functional.normalize(guide.targets + guide.queries, dim=1)
    present = torch.rand(B, N) < 0.8
    ids = torch.tensor([0, 1, 2, 0, 4, 5]) if with_ids else None
    leaves = [unit(B, D), unit(B, D), torch.tensor(9.0, dtype=torch.float64), unit(B, N, D)]
    for leaf in leaves:
        leaf.requires_grad_()
    ours = losses.info_nce_loss(
        *leaves, present, both=both, negatives_of=negatives_of, query_ids=ids, target_ids=ids, guide=guide
    )
    right = by_loops(*leaves, present, both, negatives_of, ids, ids, None, guide)
    unguided = by_loops(*leaves, present, both, negatives_of, ids, ids, None)
    assert not torch.isclose(right, unguided)
    torch.testing.assert_close(ours, right)
    for mine, its in zip(torch.autograd.grad(ours, leaves), torch.autograd.grad(right, leaves), strict=True):
        torch.testing.assert_close(mine, its)


def test_the_objective_asks_its_guide():
    class Fixed(losses.GuideModel):
        def forward(self, batch, name):
            return losses.FieldEmbeddings(batch[name])

    batch = {"query": unit(B, 1, 4), "positive": unit(B, 1, 4), "negatives": unit(B, N, 4)}
    rows = {name: losses.FieldEmbeddings(unit(B, each.shape[1], D)) for name, each in batch.items()}
    objective = losses.InfoNceLoss(negatives="negatives", guide=Fixed(), guide_margin=0.2)
    guide = losses.GuideRows(batch["query"][:, 0], batch["positive"][:, 0], batch["negatives"], 0.2)
    query, positive, negatives = (each.rows for each in rows.values())
    right = losses.info_nce_loss(query[:, 0], positive[:, 0], 1 / 0.07, negatives, guide=guide)
    embeddings = losses.Embeddings(None, None, fields=rows)
    assert objective.loss(batch, embeddings, None).item() == pytest.approx(right.item(), rel=1e-6)
    assert objective.chance(6, 1.0) is None


def test_without_negatives_it_is_clip():
    rows = unit(B, D), unit(B, D)
    ids = torch.tensor([0, 1, 2, 3, 1, 5])
    clip = losses.clip_loss(*rows, 20.0, image_ids=ids, text_ids=ids)
    assert losses.info_nce_loss(*rows, 20.0, query_ids=ids, target_ids=ids) == pytest.approx(clip.item())
    none = torch.zeros(B, N, dtype=torch.bool)
    assert losses.info_nce_loss(*rows, 20.0, unit(B, N, D), none).item() == pytest.approx(
        losses.clip_loss(*rows, 20.0).item()
    )


def test_arguments_may_be_named_in_any_order():
    image, texts = unit(B, D), unit(B, 2, D)
    named = losses.one_to_k_loss(scale=9.0, texts=texts, image=image)
    assert named.item() == losses.one_to_k_loss(image, texts, 9.0).item()


def test_the_objective_takes_fields_and_texts():
    texts, positive, negative = unit(B, 2, D), unit(B, 1, D), unit(B, N, D)
    present = torch.rand(B, N) < 0.5
    fields = {"positive": losses.FieldEmbeddings(positive), "wrong": losses.FieldEmbeddings(negative, present)}
    embeddings = losses.Embeddings(None, texts, fields=fields)
    objective = losses.InfoNceLoss("texts", negatives="wrong", scale=10.0)
    assert objective.needs == {"texts", "positive", "wrong"}
    right = losses.info_nce_loss(texts[:, 0], positive[:, 0], 10.0, negative, present)
    assert objective(embeddings).item() == pytest.approx(right.item(), rel=1e-6)
    embeddings.present = torch.ones(B, 2, dtype=torch.bool)
    embeddings.present[3, 0] = False
    with pytest.raises(ValueError, match="texts: 1 samples of the batch have none"):
        objective(embeddings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": unit(B, D + 1)}, r"targets: got shape \[6, 6\], expected \[6, 5\]"),
        ({"negatives": unit(B - 1, N, D)}, r"negatives: got shape \[5, 3, 5\], expected \[6, n, 5\]"),
        ({"negatives": None, "present": torch.ones(B, N, dtype=torch.bool)}, "of which there are none"),
        ({"present": torch.ones(B, N + 1, dtype=torch.bool)}, "present: got torch.bool"),
        ({"scale": -1.0}, "scale: got -1"),
        ({"negatives_of": "some"}, "negatives_of: got 'some'"),
        ({"guide": losses.GuideRows(unit(B, 4), unit(B, 4))}, r"guide: got shapes \[6, 4\] and \[6, 0, 4\]"),
    ],
)
def test_what_is_wrong_is_said(change, message):
    arguments = {"queries": unit(B, D), "targets": unit(B, D), "scale": 1.0, "negatives": unit(B, N, D)}
    with pytest.raises(ValueError, match=message):
        losses.info_nce_loss(**(arguments | change))
