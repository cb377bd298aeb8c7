"""What each process of the distributed tests does: every loss on its share, beside one process with the whole batch."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

import losses
from losses.engine.distributed import fetch, gather, global_sum, shared_gathers

B, K, D = 8, 3, 5


class Batch:
    """The global batch; `share` is the part of one process. The last process of four has no caption at all."""

    def __init__(self) -> None:
        random = torch.Generator().manual_seed(5)
        self.image = torch.randn(B, D, generator=random, dtype=torch.float64)
        self.texts = torch.randn(B, K, D, generator=random, dtype=torch.float64)
        self.present = torch.rand(B, K, generator=random) < 0.6
        self.present[-B // 4 :] = False
        self.languages = torch.randint(0, 2, (B, K), generator=random)
        self.image_ids = torch.tensor([0, 1, 2, 3, 0, 5, 1, 7])
        self.text_ids = torch.randint(0, 9, (B, K), generator=random)
        self.paired = torch.tensor([True, True, False, False, True, False, True, True])

    def share(self, rank: int, size: int) -> "Batch":
        part = object.__new__(Batch)
        part.__dict__ = {name: value.chunk(size)[rank] for name, value in self.__dict__.items()}
        return part


def unit(rows: Tensor) -> Tensor:
    return functional.normalize(rows, dim=-1)


def contrastive_cases() -> dict[str, Callable]:
    """Losses of unit rows, a batch, scale, bias and a group."""

    def ids(batch: Batch) -> dict[str, Tensor]:
        return {"image_ids": batch.image_ids, "text_ids": batch.text_ids}

    def ids2(batch: Batch) -> dict[str, Tensor]:
        return {"image_ids": batch.image_ids, "text_ids": batch.text_ids[:, :2]}

    def symile(negatives: str, with_ids: bool) -> Callable:
        def loss(image, texts, batch, scale, bias, group):
            kwargs = {"image_ids": batch.image_ids, "text_ids": batch.text_ids} if with_ids else {}
            # all processes take the first one's numbers, whatever theirs are
            generator = torch.Generator().manual_seed(3 if group is None else 3 + dist.get_rank(group))
            return losses.symile_loss(
                [image, *texts[:, :2].unbind(1)], scale, negatives, generator, group=group, **kwargs
            )

        return loss

    def pivot(similarity: str, negatives: str) -> Callable:
        def loss(image, texts, batch, scale, bias, group):
            return losses.pivot_ranking_loss(
                *(image, texts, similarity, None, True, batch.present, batch.languages, negatives),
                group=group,
                **ids(batch),
            )

        return loss

    return {
        "clip": lambda i, t, b, s, z, g: losses.clip_loss(i, t[:, 0], s, group=g),
        "clip, ids": lambda i, t, b, s, z, g: losses.clip_loss(
            *(i, t[:, 0], s), group=g, image_ids=b.image_ids, text_ids=b.text_ids[:, 0]
        ),
        "1-to-K": lambda i, t, b, s, z, g: losses.one_to_k_loss(i, t, s, b.present, group=g),
        "1-to-K, ids": lambda i, t, b, s, z, g: losses.one_to_k_loss(i, t, s, b.present, group=g, **ids(b)),
        "1-to-K, some unpaired": lambda i, t, b, s, z, g: losses.one_to_k_loss(
            *(i, t, s, b.present), group=g, paired=b.paired, **ids(b)
        ),
        "1-to-K, published": lambda i, t, b, s, z, g: losses.one_to_k_loss(i, t, s, weighting="published", group=g),
        "1-to-K, far logits": lambda i, t, b, s, z, g: losses.one_to_k_loss(i, t, 400 * s, b.present, group=g),
        "siglip": lambda i, t, b, s, z, g: losses.siglip_loss(i, t, s, z, b.present, group=g),
        "siglip, ids": lambda i, t, b, s, z, g: losses.siglip_loss(i, t, s, z, b.present, group=g, **ids(b)),
        "pivot, asymmetric": pivot("asymmetric", "sum"),
        "pivot, cosine": pivot("cosine", "sum"),
        "pivot, asymmetric, hardest": pivot("asymmetric", "hardest"),
        "pivot, cosine, hardest": pivot("cosine", "hardest"),
        "pivot, hardest, one picture": lambda i, t, b, s, z, g: losses.pivot_ranking_loss(
            *(i, t, "cosine"), present=b.present, negatives="hardest", image_ids=0 * b.image_ids, group=g
        ),
        "symile, shuffled": symile("shuffled", False),
        "symile, shuffled, ids": symile("shuffled", True),
        "symile, all": symile("all", False),
        "symile, all, ids": symile("all", True),
        "1-to-K, distractors": lambda i, t, b, s, z, g: losses.one_to_k_loss(
            *(i, t[:, :1], s), group=g, distractors=t[:, 1:], distractors_present=b.present[:, 1:]
        ),
        "siglip, distractors": lambda i, t, b, s, z, g: losses.siglip_loss(
            *(i, t[:, :1], s, z), group=g, distractors=t[:, 1:], distractors_present=b.present[:, 1:]
        ),
        "pivot, distractors": lambda i, t, b, s, z, g: sum(
            losses.pivot_ranking_loss(
                *(i, t[:, :2], "cosine"), negatives=kind, group=g, distractors=t[:, 2:], **ids2(b)
            )
            for kind in ("sum", "hardest")
        ),
        "InfoNCE": lambda i, t, b, s, z, g: losses.info_nce_loss(*(i, t[:, 0], s, t[:, 1:], b.present[:, 1:]), group=g),
        "InfoNCE, ids": lambda i, t, b, s, z, g: losses.info_nce_loss(
            *(i, t[:, 0], s, t[:, 1:], b.present[:, 1:]),
            query_ids=b.image_ids,
            target_ids=b.text_ids[:, 0],
            negative_ids=b.text_ids[:, 1:],
            group=g,
        ),
        "InfoNCE, own, one way": lambda i, t, b, s, z, g: losses.info_nce_loss(
            *(i, t[:, 0], s, t[:, 1:]), both=False, negatives_of="own", query_ids=b.image_ids, group=g
        ),
        "InfoNCE, guided": lambda i, t, b, s, z, g: losses.info_nce_loss(
            *(i, t[:, 0], s, t[:, 1:], b.present[:, 1:]),
            guide=losses.GuideRows(unit(b.image), unit(b.texts[:, 0]), unit(b.texts[:, 1:]), 0.4),
            group=g,
        ),
        "CoSENT": lambda i, t, b, s, z, g: losses.cosent_loss((i * t[:, 0]).sum(1), b.text_ids[:, 0] / 2, s, g),
        "distillation": lambda i, t, b, s, z, g: sum(
            losses.distillation_loss(i, t[:, 0], kind, s, group=g) for kind in ("cosine", "mse", "similarities")
        ),
        "distillation, other sides": lambda i, t, b, s, z, g: losses.distillation_loss(
            *(i, t[:, 0], "similarities", s), student_other=t[:, 1], teacher_other=t[:, 2], group=g
        ),
        "late interaction": lambda i, t, b, s, z, g: losses.late_interaction_loss(
            *(t, b.present, torch.stack([i, t[:, 0]], 1), torch.ones(len(i), 2, dtype=torch.bool), s), group=g
        ),
        "late interaction, ids and negatives": lambda i, t, b, s, z, g: losses.late_interaction_loss(
            *(t, b.present, torch.stack([i, t[:, 0]], 1), torch.ones(len(i), 2, dtype=torch.bool), s),
            group=g,
            negatives=torch.stack([t, t.flip(2)], 2),
            negative_mask=torch.stack([b.present, b.present.flip(1)], 2),
            query_ids=b.image_ids,
            item_ids=b.text_ids[:, 0],
            negative_ids=b.text_ids,
        ),
        "tokens": lambda i, t, b, s, z, g: losses.token_loss(s * t, b.text_ids % D, b.present, g),
        "tokens of a layer": lambda i, t, b, s, z, g: losses.linear_token_loss(
            s * t, torch.eye(D + 1, D, dtype=t.dtype), b.text_ids % D, b.present, g
        ),
        "gather, einsum": lambda i, t, b, s, z, g: gathered(i, t, s, g, lambda x, y: torch.einsum("id,jd->ji", x, y)),
        "gather, permute": lambda i, t, b, s, z, g: gathered(i, t, s, g, lambda x, y: x.T @ y.cos()),
        "gather, diagonal": lambda i, t, b, s, z, g: gathered(i, t, s, g, lambda x, y: torch.diagonal(x @ y.T)),
    }


def gathered(image: Tensor, texts: Tensor, scale: Tensor, group, mix: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """A function of the gathered rows through an op whose gradient is not contiguous; each process gives its part."""
    everyone, captions = gather(image, group), gather(texts, group)[:, 0]
    whole = (scale * mix(everyone, captions)).sin().sum()
    return global_sum(whole / (1 if group is None else group.size()), group)


def gradients(case: Callable, batch: Batch, group) -> dict[str, Tensor]:
    """Value and gradients of two linear towers, scale, bias and the rows themselves."""
    random = torch.Generator().manual_seed(1)
    towers = [torch.randn(D, D, generator=random, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    scale = torch.tensor(7.0, dtype=torch.float64, requires_grad=True)
    bias = torch.tensor(-2.0, dtype=torch.float64, requires_grad=True)
    image, texts = unit(batch.image @ towers[0]), unit(batch.texts @ towers[1])
    leaves = [*towers, scale, bias, image, texts]
    value = case(image, texts, batch, scale, bias, group)
    grads = torch.autograd.grad(value, leaves, allow_unused=True, materialize_grads=True)
    names = ["image tower", "text tower", "scale", "bias", "image rows", "text rows"]
    return {"value": value.detach()} | dict(zip(names, grads, strict=True))


def compare(case: Callable, whole: Batch, group) -> dict[str, float]:
    """The largest relative difference between one process and the group, after averaging as DDP does."""
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    alone, ours = gradients(case, whole, None), gradients(case, whole.share(rank, size), group)
    errors = {}
    for name, right in alone.items():
        if name.endswith("rows"):
            mine = ours[name] / size
            right = right.chunk(size)[rank]
        else:
            mine = ours[name].clone()
            dist.all_reduce(mine, group=group)
            mine /= size
        errors[name] = (
            ((mine - right).norm() / right.norm().clamp(min=1e-12)).item() if right.norm() else mine.norm().item()
        )
        if name == "value":  # and every process has it
            errors["own value"] = ((ours[name] - right).abs() / right.abs().clamp(min=1)).item()
    worst = torch.tensor(list(errors.values()), dtype=torch.float64)
    dist.all_reduce(worst, op=dist.ReduceOp.MAX, group=group)
    return dict(zip(errors, worst.tolist(), strict=True))


class Towers(nn.Module):
    """Two linear towers and objectives, as a training module would hold them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.image, self.text = nn.Linear(D, D).double(), nn.Linear(D, D).double()
        self.objectives = nn.ModuleList(
            [
                losses.ClipLoss(),
                losses.OneToKLoss(),
                losses.SiglipLoss(),
                losses.PivotRankingLoss(parallel=True),
                losses.MatryoshkaLoss(losses.OneToKLoss(), [2, 4]),
                losses.OneToKLoss(distractors="negatives"),
                losses.InfoNceLoss(negatives="negatives"),
                losses.CosentLoss(learnable=True),
                losses.ListDistillationLoss(scale=3.0, learnable=True),
                losses.LateInteractionLoss(),
                losses.ScoreDistillationLoss(scale=3.0, learnable=True),
                losses.M3lLoss(text="positive", alike=0.6),
                losses.PatrLoss(text="positive", margin=1.0),
            ]
        ).double()

    def forward(self, batch: Batch) -> Tensor:
        texts = unit(self.text(batch.texts))
        there = batch.text_ids % 4 > 0
        there[:, 0] = True
        embeddings = losses.Embeddings(
            image=unit(self.image(batch.image)),
            texts=texts,
            present=batch.present,
            languages=batch.languages,
            image_ids=batch.image_ids,
            text_ids=batch.text_ids,
            fields={
                "query": losses.FieldEmbeddings(texts[:, :1]),
                "positive": losses.FieldEmbeddings(unit(texts[:, 1:2] + texts[:, :1]), ids=batch.text_ids[:, :1]),
                "negatives": losses.FieldEmbeddings(texts[:, 2:], there[:, 2:]),
            },
            multi={
                "query": losses.MultiEmbeddings(texts[:, None], there[:, None]),
                "positive": losses.MultiEmbeddings(
                    unit(2 * texts[:, :1] - texts.flip(1))[:, None], there.flip(1)[:, None]
                ),
            },
            scores={"score": batch.text_ids[:, 0] / 2, "scores": batch.text_ids[:, :2].double()},
        )
        return sum(objective(embeddings) for objective in self.objectives)


def under_ddp(whole: Batch) -> dict[str, float]:
    """A real DDP step of the objectives on four processes; what one process gets comes from `alone_without_group`."""
    model = DistributedDataParallel(Towers())
    loss = model(whole.share(dist.get_rank(), dist.get_world_size()))
    loss.backward()
    return {"value": loss.item()} | {name: p.grad.flatten().tolist() for name, p in model.module.named_parameters()}


def uneven_itm(group) -> dict[str, float]:
    """Processes with different counts of rows, one of them with none."""
    random = torch.Generator().manual_seed(4)
    logits, labels = torch.randn(10, 2, generator=random, dtype=torch.float64), torch.arange(10) % 2
    counts = [3, 0, 6, 1] if group.size() == 4 else [7, 3]
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)
    rank = dist.get_rank(group)
    right = losses.itm_loss(weight * logits, labels)
    (g_right,) = torch.autograd.grad(right, weight)
    value = losses.itm_loss(weight * logits.split(counts)[rank], labels.split(counts)[rank], group=group)
    (g,) = torch.autograd.grad(value, weight)
    dist.all_reduce(g, group=group)
    return {"value": abs(value - right).item(), "weight": abs(g / group.size() - g_right).item()}


class Recorder(nn.Module):
    """A fusion network that remembers what it was asked about."""

    def forward(self, image: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        self.image, self.text = image[:, 0, 0].long(), text[:, 0, 0].long()
        assert bool((mask.sum(1) == 1 + self.text % 2).all())
        return torch.stack([image.sum((1, 2)), text.sum((1, 2))], 1)


def itm_pairs(whole: Batch) -> list[tuple[int, int, bool]]:
    """Image and caption numbers (over all processes) that ItmLoss had judged on this process, and if they match."""
    rank, size = dist.get_rank(), dist.get_world_size()
    part, b = whole.share(rank, size), B // size
    length = 2 + rank  # texts are padded differently on each process
    number = torch.arange(B * K).view(B, K).chunk(size)[rank]
    fusion = Recorder()
    loss = losses.ItmLoss(fusion)(
        losses.Embeddings(
            image=unit(part.image).float(),
            texts=unit(part.texts).float(),
            present=part.present,
            image_ids=part.image_ids,
            text_ids=part.text_ids,
            image_tokens=losses.TokenFeatures(
                (torch.arange(b) + rank * b).float().view(b, 1, 1).expand(b, 2, 4).clone().requires_grad_()
            ),
            text_tokens=losses.TokenFeatures(
                number.float()[..., None, None].expand(b, K, length, 4).clone().requires_grad_(),
                torch.arange(length) <= (number % 2)[..., None],
            ),
        )
    )
    loss.backward()
    return [(i, t, i == t // K) for i, t in zip(fusion.image.tolist(), fusion.text.tolist(), strict=True)]


@contextmanager
def counted_traffic() -> Iterator[Counter[str]]:
    """Counts what this process receives by type and by collective, in numbers and in bytes."""
    counts: Counter[str] = Counter()
    plain = {name: getattr(dist, name) for name in ("all_gather_into_tensor", "all_to_all_single")}

    def counting(name: str) -> Callable:
        def collective(output: Tensor, *args, **kwargs):
            counts[name] += 1
            counts["bytes"] += output.nbytes
            counts[str(output.dtype)] += 1
            return plain[name](output, *args, **kwargs)

        return collective

    for name in plain:
        setattr(dist, name, counting(name))
    try:
        yield counts
    finally:
        for name, function in plain.items():
            setattr(dist, name, function)


def traffic(group) -> dict[str, dict[str, int]]:
    """What losses of K = 8 captions receive from the other process."""
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    random = torch.Generator().manual_seed(6)
    rows = unit(torch.randn(16, 9, 64, generator=random)).chunk(size)[rank]
    image, texts = rows[:, 0].clone().requires_grad_(), rows[:, 1:].clone().requires_grad_()
    found = {"texts": {"bytes": size * texts.nbytes}}
    for name, loss in {
        "1-to-K": lambda: losses.one_to_k_loss(image, texts, 10.0, group=group),
        "siglip": lambda: losses.siglip_loss(image, texts, 10.0, -5.0, group=group),
    }.items():
        with counted_traffic() as counts:
            loss().backward()
        found[name] = dict(counts)
    ids = torch.arange(len(image)) + rank * len(image)
    embeddings = losses.Embeddings(image, texts, image_ids=ids, text_ids=ids[:, None].expand(-1, 8).contiguous())
    objectives = [losses.OneToKLoss(), losses.SiglipLoss(), losses.ClipLoss()]
    objectives.append(losses.MatryoshkaLoss(losses.OneToKLoss(), [16, 32, 64]))
    for wire in (None, torch.bfloat16):
        with counted_traffic() as counts, shared_gathers(wire):
            value = sum(objective(embeddings) for objective in objectives)
        found[f"all as {wire}"] = {**counts, "value": value.item()}
    return found


def fetched(group) -> dict[str, float]:
    """`fetch` beside `gather`, of rows and masks, of another number of them on each process."""
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    random = torch.Generator().manual_seed(7)
    rows = torch.randn(3 * size, 2, 5, generator=random, dtype=torch.float64).chunk(size)[rank].requires_grad_()
    numbers = torch.randint(0, 3 * size, (4 * rank,), generator=random)  # none on the first
    weights = torch.randn(4 * rank, 2, 5, generator=random, dtype=torch.float64)
    ours, right = (take(rows) for take in (lambda x: fetch(x, numbers, group), lambda x: gather(x, group)[numbers]))
    gradients = [torch.autograd.grad((weights * each).sum(), rows)[0] for each in (ours, right)]
    masks = fetch(rows > 0, numbers, group), gather(rows > 0, group)[numbers]
    return {
        "rows": float(not torch.equal(ours, right)),
        "masks": float(not torch.equal(*masks)),
        "gradient": (gradients[0] - gradients[1]).abs().max().item(),
    }


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=4)
    groups = [dist.new_group([0, 1]), dist.new_group([2, 3]), dist.new_group([0, 1, 2, 3])]
    whole = Batch()
    results: dict[str, dict] = {}
    for group in groups:
        if rank in dist.get_process_group_ranks(group):
            for name, case in contrastive_cases().items():
                results[f"{name} on {group.size()}"] = compare(case, whole, group)
            results[f"itm on {group.size()}"] = uneven_itm(group)
            results[f"fetch on {group.size()}"] = fetched(group)
            results[f"traffic on {group.size()}"] = traffic(group)
    results["ddp"] = under_ddp(whole)
    results["itm pairs"] = itm_pairs(whole)
    Path(folder, f"{rank}.json").write_text(json.dumps(results))
    dist.destroy_process_group()
