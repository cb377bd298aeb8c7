"""Masked words: which tokens are predicted, from what, and in which parts of a step."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from torch import Tensor, nn

import losses
from datamodules import Batch, ByteTokenizer, Field
from mmtrain.fusion import CrossAttentionFusion, MatchingHead, RowFusion
from mmtrain.models.batches import embed_batch
from mmtrain.models.image_text import ImageTextModel
from mmtrain.objectives import MaskedText
from mmtrain.towers import ByteGRU, FeatureTower
from tests.mmtrain.batches import made_batch
from tests.mmtrain.runs import column, weights
from tests.mmtrain.small import fit

DATA = SimpleNamespace(tokenizer=ByteTokenizer(), languages=["en", "lv"])


def batch(**more: Field) -> Batch:
    made = made_batch(torch.randn(4, 6, generator=torch.Generator().manual_seed(0)), L=8, fields=more)
    made.tokens[:, :, 0], made.tokens[:, :, 7] = ByteTokenizer.START, ByteTokenizer.END
    made.tokens[:, :, 1:7].clamp_(min=3)
    made.present[0, 1] = made.present[2] = False
    return made


def objective(made: MaskedText, data: SimpleNamespace = DATA) -> tuple[MaskedText, ImageTextModel]:
    torch.manual_seed(0)
    model = ImageTextModel(FeatureTower(6), ByteGRU(width=8), 16)
    made.connect(model)
    made.prepare(data)
    nn.init.normal_(made.output.weight)
    return made, model


def fused(**options: int) -> MaskedText:
    return MaskedText(CrossAttentionFusion(width=16, layers=1), **options)


def loss_of(made: MaskedText, model: ImageTextModel, whole: Batch) -> Tensor:
    torch.manual_seed(3)
    return made.loss(whole, embed_batch(model, whole, tokens="tokens" in made.needs), model)


def test_of_the_predicted_tokens_most_are_masked_and_special_ones_never() -> None:
    made, _ = objective(MaskedText(share=0.5, most=30))
    lengths = torch.arange(500) % 100
    tokens = torch.randint(3, 259, (500, 102))
    tokens[:, 0], mask = ByteTokenizer.START, torch.arange(102) < lengths[:, None] + 2
    tokens[torch.arange(500), lengths + 1] = ByteTokenizer.END
    read, chosen = made.masked(tokens, mask)
    words = mask & (tokens >= 3)
    assert not (chosen & ~words).any() and torch.equal(read[~chosen], tokens[~chosen])
    expected = (0.5 * lengths).round().clamp(min=1, max=30).minimum(lengths)
    assert torch.equal(chosen.sum(1), expected) and expected[0] == 0
    masked, kept = read[chosen] == ByteTokenizer.PADDING, read[chosen] == tokens[chosen]
    count = int(chosen.sum())
    for share, right in ((masked, 0.8), (kept, 0.1), (~masked & ~kept, 0.1)):  # within five standard deviations
        assert abs(share.float().mean().item() - right) < 5 * (right * (1 - right) / count) ** 0.5 + 1 / 256
    assert read[chosen & (read != ByteTokenizer.PADDING)].min() >= 3


@pytest.mark.parametrize("make", [MaskedText, fused])
def test_the_loss_is_the_mean_over_texts_of_the_mean_over_masked_tokens(make: type) -> None:
    made, model = objective(make())
    whole = batch()
    seen: list[tuple[Tensor, ...]] = []
    masked = made.masked
    made.masked = lambda *inputs: seen.append((*inputs, *masked(*inputs))) or seen[-1][2:]
    loss = loss_of(made, model, whole)
    ((tokens, mask, read, chosen),) = seen
    assert len(tokens) == 3  # one text of each sample that has any
    samples = [0, 1, 3]
    assert all(any(torch.equal(row, each) for each in whole.tokens[b]) for row, b in zip(tokens, samples, strict=True))
    each = []
    for row, b in enumerate(samples):
        text = model.text_tokens(read[row : row + 1], mask[row : row + 1], torch.zeros(1, dtype=torch.int64))
        features = text[:, 1:]
        if made.fusion is not None:
            pooled, image = model.image(whole.images[b : b + 1])
            features = made.fusion.tokens(pooled, image, text[:, 0], text[:, 1:], mask[row : row + 1])[:, 1:]
        logs = made.output(made.transform(features))[0].log_softmax(1)
        places = chosen[row].nonzero()[:, 0].tolist()
        each.append(-sum(logs[place, tokens[row, place]] for place in places) / len(places))
    torch.testing.assert_close(loss, torch.stack(each).mean())
    loss.backward()
    assert all(each.grad is not None for each in made.parameters())
    assert model.text.embed.weight.grad.abs().sum() > 0


def test_a_batch_without_texts_gives_nothing() -> None:
    made, model = objective(fused())
    loss = loss_of(made, model, replace(batch(), present=torch.zeros(4, 2, dtype=torch.bool)))
    loss.backward()
    assert loss.item() == 0 and all(not each.grad.any() for each in made.parameters())


def test_a_field_of_texts_is_read_as_captions_are() -> None:
    whole = batch()
    field = Field("text", whole.tokens, whole.present, whole.token_mask, whole.languages)
    of_captions, model = objective(MaskedText())
    of_field, _ = objective(MaskedText(texts="query"))
    assert of_field.needs == {"query"}
    both = batch(query=field)
    torch.testing.assert_close(loss_of(of_field, model, both), loss_of(of_captions, model, both))


def test_an_objective_shares_the_fusion_of_another() -> None:
    fusion = CrossAttentionFusion(width=16, layers=1)
    itm, shared = losses.ItmLoss(MatchingHead(fusion)), MaskedText("itm")
    shared.meet({"itm": itm, "mlm": shared})
    made, model = objective(shared)
    itm.connect(model)
    assert not any(name.startswith("fusion") for name, _ in made.named_parameters())
    loss_of(made, model, batch()).backward()
    assert all(each.grad is not None for each in fusion.parameters())
    with pytest.raises(ValueError, match=r"MaskedText\.fusion: got mlm, expected a fusion encoder or an objective"):
        MaskedText("mlm").meet({"itm": itm, "mlm": shared})


class WithoutMask(ByteTokenizer):
    @property
    def mask_id(self) -> None:
        return None


@pytest.mark.parametrize(
    ("make", "tokenizer", "says"),
    [
        (MaskedText, WithoutMask(), "MaskedText.mask_id: WithoutMask has no mask token; an id of its 259"),
        (lambda: MaskedText(mask_id=259), ByteTokenizer(), "mask_id: got 259, ByteTokenizer has ids from 0 to 258"),
        (lambda: MaskedText(RowFusion(8)), ByteTokenizer(), "MaskedText.fusion: RowFusion sees no tokens"),
        (lambda: MaskedText(share=0), ByteTokenizer(), "share, most: got 0 and None"),
    ],
)
def test_bad_options_are_one_line(make: type, tokenizer: ByteTokenizer, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        objective(make(), SimpleNamespace(tokenizer=tokenizer, languages=["en"]))
    objective(MaskedText(mask_id=7), SimpleNamespace(tokenizer=WithoutMask(), languages=["en"]))


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    whole, own = batch(), slice(2 * rank, 2 * rank + 2)
    names = ("images", "tokens", "token_mask", "present", "languages", "image_ids", "text_ids", "rows", "sources")
    part = replace(whole, **{name: getattr(whole, name)[own] for name in names}, ids=whole.ids[own])
    made, model = objective(fused())
    made.masked = every_other
    part.present[:, 1] = False
    loss = loss_of(made, model, part)
    loss.backward()
    for parameter in made.parameters():
        dist.all_reduce(parameter.grad)
    torch.save((loss.detach(), [parameter.grad / 2 for parameter in made.parameters()]), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def every_other(tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Nothing random, which differs with the process."""
    chosen = mask & (tokens % 2 == 0) & (tokens > 2)
    return tokens.masked_fill(chosen, 0), chosen


@pytest.mark.system
def test_two_processes_equal_one(tmp_path: Path) -> None:
    multiprocessing.start_processes(work, (str(tmp_path),), nprocs=2, start_method="spawn")
    made, model = objective(fused())
    made.masked = every_other
    whole = batch()
    whole.present[:, 1] = False
    loss = loss_of(made, model, whole)
    loss.backward()
    for rank in range(2):
        value, gradients = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(value, loss.detach())
        for ours, parameter in zip(gradients, made.parameters(), strict=True):
            torch.testing.assert_close(ours, parameter.grad, rtol=1e-4, atol=1e-6)


def test_a_run_masks_words_with_the_picture_and_shares_its_fusion(shards: Path, tmp_path: Path) -> None:
    fusion = "{class_path: mmtrain.fusion.CrossAttentionFusion, init_args: {width: 16, layers: 1}}"
    head = f"{{class_path: mmtrain.fusion.MatchingHead, init_args: {{fusion: {fusion}}}}}"
    itm = f"{{class_path: losses.ItmLoss, init_args: {{positive: hard, fusion: {head}}}}}"
    masked = "{class_path: mmtrain.objectives.MaskedText, init_args: {fusion: itm, share: 0.4}}"
    objectives = f"{{contrast: {{class_path: losses.OneToKLoss}}, itm: {itm}, cmlm: {masked}}}"
    assert fit(shards, tmp_path, "--trainer.max_steps=4", f"--model.objectives={objectives}") == 0
    assert column(tmp_path, "train/cmlm")[0] == pytest.approx(5.55, abs=0.1)  # log 259
    names = weights(tmp_path)
    assert "objectives.cmlm.output.weight" in names and "objectives.cmlm.fusion.norm.weight" not in names
