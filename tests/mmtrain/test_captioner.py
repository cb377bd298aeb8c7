"""A decoder of captions: trained beside a contrast, loaded, exported, and its texts against a slow search."""

import itertools
import json
import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from PIL import Image
from torch import Tensor, nn

import mmtrain
from datamodules import Batch, ByteTokenizer
from mmtrain.cli import main
from mmtrain.fusion import CaptionDecoder
from mmtrain.fusion.decoder import contents
from mmtrain.models.batches import embed_batch
from mmtrain.models.image_text import ImageTextModel
from mmtrain.objectives import Captioner
from mmtrain.towers import ByteGRU, FeatureTower
from tests.mmtrain.batches import made_batch
from tests.mmtrain.conftest import WORDS
from tests.mmtrain.runs import weights, with_callback
from tests.mmtrain.small import ENVIRONMENT, arguments, fit

V = 9
CAPTIONER = "{contrast: {class_path: losses.OneToKLoss}, writer: {class_path: mmtrain.objectives.Captioner}}"


def decoder(vocabulary: int = V) -> CaptionDecoder:
    """One of random weights, whose output is not 0."""
    torch.manual_seed(0)
    made = CaptionDecoder(16, 2, 2, image_width=6, vocabulary_size=vocabulary, languages=["en", "lv"]).eval()
    nn.init.normal_(made.output.weight)
    return made


def texts(N: int = 4, L: int = 5) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(1)
    lengths = torch.tensor([5, 1, 3, 0])[:N]
    return torch.randint(0, V, (N, L), generator=random), torch.arange(L) < lengths[:, None]


def test_each_place_sees_what_is_written_before_it() -> None:
    made, pictures, languages = decoder(), torch.randn(4, 3, 6), torch.tensor([0, 1, 0, 1])
    tokens, mask = texts()
    features = made(pictures, languages, tokens, mask)
    changed = tokens.clone()
    changed[0, 2] = (changed[0, 2] + 1) % V
    others = made(pictures, languages, changed, mask)
    torch.testing.assert_close(others[0, :3], features[0, :3])
    assert not torch.allclose(others[0, 3], features[0, 3])
    alone = made(pictures[1:2], languages[1:2], tokens[1:2, :1], mask[1:2, :1])  # padding is not read
    torch.testing.assert_close(alone[0], features[1, :2])
    assert not torch.allclose(made(pictures, 1 - languages, tokens, mask)[:, 0], features[:, 0])
    assert not torch.allclose(made(pictures.flip(0), languages, tokens, mask)[:, 0], features[:, 0])


def test_a_text_in_parallel_is_not_read_and_every_place_sees_all() -> None:
    made, pictures, languages = decoder(), torch.randn(4, 3, 6), torch.tensor([0, 1, 0, 1])
    tokens, mask = texts()
    every = torch.ones(4, dtype=torch.bool)
    features = made(pictures, languages, tokens, mask, every)
    torch.testing.assert_close(made(pictures, languages, (tokens + 1) % V, mask, every), features)
    longer = mask.clone()
    longer[2, 3] = True  # the first place sees that there is one more
    assert not torch.allclose(made(pictures, languages, tokens, longer, every)[2, 0], features[2, 0])
    mixed = made(pictures, languages, tokens, mask, torch.tensor([True, False, False, True]))
    torch.testing.assert_close(mixed[0], features[0])
    torch.testing.assert_close(mixed[2], made(pictures, languages, tokens, mask)[2])


def test_likelihood_is_the_sum_over_tokens_and_end() -> None:
    made, pictures, languages = decoder(), torch.randn(4, 3, 6), torch.tensor([0, 1, 0, 1])
    tokens, mask = texts()
    logs = made.output(made(pictures, languages, tokens, mask)).log_softmax(2)
    right = [
        sum((logs[n, i, [*tokens[n][mask[n]].tolist(), V][i]] for i in range(int(mask[n].sum()) + 1)), torch.zeros(()))
        for n in range(4)
    ]
    torch.testing.assert_close(made.log_likelihood(pictures, languages, tokens, mask), torch.stack(right))


def mean_log(made: CaptionDecoder, picture: Tensor, language: int, text: tuple[int, ...]) -> float:
    ids = torch.tensor([text], dtype=torch.int64).view(1, -1)
    whole = made.log_likelihood(picture[None], torch.tensor([language]), ids, torch.ones_like(ids, dtype=torch.bool))
    return whole.item() / (len(text) + 1)


def test_a_wide_search_finds_the_best_text_there_is() -> None:
    """Beside all texts of three words and up to two tokens, tried one by one; the search keeps all their beginnings."""
    made, pictures = decoder(vocabulary=3), torch.randn(6, 3, 6)
    every = [text for length in range(3) for text in itertools.product(range(3), repeat=length)]
    with torch.no_grad():
        made.output.weight[3] *= 3  # texts end early
        found = made.write(pictures, torch.arange(6) % 2, beams=40, longest=3)
        ended = [n for n in range(6) if len(found[n]) < 3]
        assert len({tuple(found[n]) for n in ended}) > 1
        for n in ended:
            scores = {text: mean_log(made, pictures[n], n % 2, text) for text in every}
            assert tuple(found[n]) == max(scores, key=scores.__getitem__)
        never = made.write(pictures, torch.arange(6) % 2, beams=2, longest=3, without=(0, 2))
        assert {id for text in never for id in text} == {1}


def test_one_beam_takes_the_likeliest_token_each_time() -> None:
    made, pictures, languages = decoder(), torch.randn(5, 3, 6), torch.tensor([0, 1, 0, 1, 0])
    with torch.no_grad():
        found = made.write(pictures, languages, longest=6)
        for picture, language, text in zip(pictures, languages, found, strict=True):
            ids: list[int] = []
            while len(ids) < 6:
                read = torch.tensor([ids], dtype=torch.int64).view(1, -1)
                features = made(picture[None], language[None], read, torch.ones_like(read, dtype=torch.bool))
                best = int(made.output(features[0, -1]).argmax())
                if best == V:
                    break
                ids.append(best)
            assert text == ids


def test_special_ids_are_no_contents() -> None:
    tokens = torch.tensor([[1, 7, 2, 0], [1, 5, 6, 2], [1, 2, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 0, 0]]).bool()
    ids, there = contents(tokens, mask, torch.tensor([0, 1, 2]))
    assert ids.shape == (3, 2) and [row[own].tolist() for row, own in zip(ids, there, strict=True)] == [[7], [5, 6], []]


# ---- as an objective


def batch() -> Batch:
    made = made_batch(torch.randn(4, 3, 6, generator=torch.Generator().manual_seed(0)), L=6)
    made.tokens[:, :, 0], made.tokens[:, :, 5] = ByteTokenizer.START, ByteTokenizer.END
    made.tokens[:, :, 1:5].clamp_(min=3)
    made.present[0, 1] = made.present[2] = False
    return made


def objective(parallel: float = 0.0) -> tuple[Captioner, ImageTextModel]:
    torch.manual_seed(0)
    model = ImageTextModel(FeatureTower(6), ByteGRU(width=8), 16)
    made = Captioner(CaptionDecoder(16, 1, 2), parallel)
    made.connect(model)
    made.prepare(SimpleNamespace(tokenizer=ByteTokenizer(), languages=["en", "lv"]))
    nn.init.normal_(made.decoder.output.weight)
    return made, model


def loss_of(made: Captioner, model: ImageTextModel, whole: Batch) -> Tensor:
    return made.loss(whole, embed_batch(model, whole, tokens=True), model)


def test_the_loss_is_the_mean_over_captions_of_the_mean_over_tokens() -> None:
    made, model = objective()
    whole = batch()
    tokens = model.image(whole.images)[1]
    each = []
    for b, k in whole.present.nonzero().tolist():
        ids = whole.tokens[b, k, 1:5]
        features = made.decoder(
            tokens[b : b + 1], whole.languages[b, k : k + 1], ids[None], torch.ones(1, 4, dtype=torch.bool)
        )
        logs = made.decoder.output(features[0]).log_softmax(1)
        each.append(-sum(logs[i, id] for i, id in enumerate([*ids.tolist(), 259])) / 5)
    assert len(each) == 5
    torch.testing.assert_close(loss_of(made, model, whole), torch.stack(each).mean())


def test_before_training_all_tokens_are_as_likely() -> None:
    made, model = objective(0.5)
    nn.init.zeros_(made.decoder.output.weight)
    loss = loss_of(made, model, batch())
    assert loss.item() == pytest.approx(math.log(260))
    assert made.decoder.embed.weight.std().item() == pytest.approx(1, abs=0.05)


def test_a_batch_without_captions_gives_nothing() -> None:
    made, model = objective(0.5)
    empty = replace(batch(), present=torch.zeros(4, 2, dtype=torch.bool))
    loss = loss_of(made, model, empty)
    loss.backward()
    assert loss.item() == 0
    assert all(each.grad is not None and not each.grad.any() for each in made.parameters())


def test_a_tower_without_patches_is_one_line() -> None:
    made, model = objective()
    with pytest.raises(ValueError, match=r"model\.image: it gives one token a picture"):
        loss_of(made, model, replace(batch(), images=torch.randn(4, 6)))


def test_texts_that_are_pictures_have_no_tokens() -> None:
    class Pages(ByteTokenizer):
        def __call__(self, captions: Sequence[str], languages: Sequence[str]) -> tuple[Tensor, Tensor]:
            ids, mask = super().__call__(captions, languages)
            return ids[..., None].expand(-1, -1, 4), mask

    made, _ = objective()
    with pytest.raises(ValueError, match="data.tokenizer: Pages gives no ids"):
        made.prepare(SimpleNamespace(tokenizer=Pages(), languages=["en"]))


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    whole, own = batch(), slice(2 * rank, 2 * rank + 2)
    found = {}
    for parallel in (0.0, 1.0):
        made, model = objective(parallel)
        names = ("images", "tokens", "token_mask", "present", "languages", "image_ids", "text_ids", "rows", "sources")
        part = replace(whole, **{name: getattr(whole, name)[own] for name in names}, ids=whole.ids[own])
        loss = loss_of(made, model, part)
        loss.backward()
        parameters = [*made.parameters(), *model.image.parameters()]
        for parameter in parameters:
            dist.all_reduce(parameter.grad)
        found[parallel] = loss.detach(), [parameter.grad / 2 for parameter in parameters]
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.system
def test_two_processes_equal_one(tmp_path: Path) -> None:
    multiprocessing.start_processes(work, (str(tmp_path),), nprocs=2, start_method="spawn")
    for parallel in (0.0, 1.0):
        made, model = objective(parallel)
        loss = loss_of(made, model, batch())
        loss.backward()
        for rank in range(2):
            value, gradients = torch.load(tmp_path / f"{rank}.pt")[parallel]
            torch.testing.assert_close(value, loss.detach())
            for ours, parameter in zip(gradients, [*made.parameters(), *model.image.parameters()], strict=True):
                torch.testing.assert_close(ours, parameter.grad, rtol=1e-4, atol=1e-6)


# ---- in a run


@pytest.fixture(scope="module")
def run(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("captioner") / "run"
    options = ["--trainer.max_steps=90", "--trainer.val_check_interval=90", "--model.learning_rate=0.01"]
    options += ["--data.languages=[en,lv]", "--data.captions_per_image=2", f"--model.objectives={CAPTIONER}"]
    writer = "--model.objectives.writer.init_args"
    options += [f"{writer}.parallel=0.2", f"{writer}.decoder=mmtrain.fusion.CaptionDecoder"]
    assert fit(shards, folder, *options, f"{writer}.decoder.width=32", f"{writer}.decoder.layers=1") == 0
    return folder


def colours() -> list[Image.Image]:
    return [Image.fromarray(np.full((32, 32, 3), rgb, np.uint8)) for rgb in ((220, 30, 30), (30, 30, 220))]


def test_a_run_writes_captions_in_its_languages(run: Path) -> None:
    encoder = mmtrain.load(run)
    assert encoder.caption(colours(), language="en") == ["red", "blue"]
    assert encoder.caption(colours(), language="lv", beams=3) == [WORDS["lv"][0], WORDS["lv"][2]]
    assert encoder.caption(colours(), language="en", longest=2) == ["re", "bl"]
    assert encoder.caption([], language="en") == []
    assert mmtrain.load(run, dtype=torch.bfloat16).caption(colours(), language="en", beams=2) == ["red", "blue"]
    with pytest.raises(ValueError, match="caption: got one picture, expected a list"):
        encoder.caption(colours()[0], language="en")
    with pytest.raises(ValueError, match=r"caption: language: got fr, the decoder writes en, lv"):
        encoder.caption(colours(), language="fr")
    with pytest.raises(ValueError, match="caption: beams, longest: got 0 and 128, expected at least 1"):
        encoder.caption(colours(), language="en", beams=0)


def test_evaluate_measures_what_is_written(run: Path, shards: Path, tmp_path: Path) -> None:
    assert main(["evaluate", str(run), "--data", str(shards), "--generate", "--out", str(tmp_path)]) == 0
    captions = json.loads((tmp_path / "metrics.json").read_text())["captions"]
    assert captions.keys() == {"en", "lv", "mean"}
    assert captions["lv"]["images"] == 32 and captions["lv"]["exact_match"] > 90 < captions["lv"]["chrf"]
    page = (tmp_path / "report.html").read_text()
    assert "Captions written by the model" in page and f"{captions['lv']['token_f1']:.1f}" in page
    assert "<th>token F1</th>" in page and "<td>32</td>" in page and "<td>32.0</td>" not in page
    assert page.index("Ranks are 1-based") < page.index(">Captions written by the model</h2>")  # the note of recalls


def test_a_decoder_judges_answers(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    rows = []
    for index, picture in enumerate(colours() * 4):
        picture.save(tmp_path / f"{index}.png")
        row = {"id": str(index), "image": f"{index}.png", "captions": {"en": "which?"}, "labels": {"hue": index % 2}}
        rows.append(json.dumps(row))
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    (tmp_path / "prompts.json").write_text('{"0": "red", "1": "blue"}')
    shards = tmp_path / "shards"
    assert main(["pack", "jsonl", str(tmp_path / "rows.jsonl"), "--out", str(shards), "--workers", "1"]) == 0
    command = ["evaluate", str(run), "--data", str(shards), "--out", str(tmp_path / "report"), "--zero_shot", "hue"]
    judged = [*command, "--zero_shot_by", "captioner", "--prompts", str(tmp_path / "prompts.json")]
    assert main(judged) == 0
    tables = json.loads((tmp_path / "report" / "metrics.json").read_text())["zero_shot"]
    assert tables.keys() == {"similarity", "prompt", "captioner"} and tables["captioner"]["en"]["accuracy"] == 100
    capsys.readouterr()
    assert main([*command, "--zero_shot_by", "captioner"]) == 1
    assert "--zero_shot_by: captioner judges the answers of --prompts FILE" in capsys.readouterr().err


def test_an_export_keeps_the_decoder_where_it_is_asked_to(
    run: Path, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    before = mmtrain.load(run).caption(colours(), language="lv")
    assert main(["export", str(run), "--out", str(tmp_path / "with"), "--with", "captioner"]) == 0
    assert mmtrain.load(tmp_path / "with").caption(colours(), language="lv") == before
    assert 'model.caption([picture], language="en")' in (tmp_path / "with" / "README.md").read_text()
    assert main(["export", str(run), "--out", str(tmp_path / "without")]) == 0
    assert not (tmp_path / "without" / "decoder.safetensors").exists()
    with pytest.raises(ValueError, match=r"caption: .* has no decoder; train one with an objective mmtrain.objectives"):
        mmtrain.load(tmp_path / "without").caption(colours(), language="lv")
    capsys.readouterr()
    assert (
        main(["evaluate", str(tmp_path / "without"), "--data", str(shards), "--generate", "--out", str(tmp_path)]) == 1
    )
    assert "--generate: " in capsys.readouterr().err
    assert main(["export", str(tmp_path / "without"), "--out", str(tmp_path / "no"), "--with", "captioner"]) == 1
    assert "--with captioner: " in capsys.readouterr().err
    assert main(["export", str(run), "--out", str(tmp_path / "no"), "--with", "captioner", "--format", "onnx"]) == 1
    assert "--with: only safetensors keeps a captioner, not onnx" in capsys.readouterr().err


def test_a_run_that_was_interrupted_ends_bit_for_bit_alike(shards: Path, tmp_path: Path) -> None:
    options = ["--trainer.max_steps=6", f"--model.objectives={CAPTIONER}", "--checkpoint.every_n_steps=2"]
    options += ["--trainer.precision=bf16-mixed", "--model.objectives.writer.init_args.parallel=0.5"]
    assert fit(shards, tmp_path / "whole", *options) == 0
    assert fit(shards, tmp_path / "parts", *options, with_callback("StopAfter", steps=3)) == 0
    assert fit(shards, tmp_path / "parts", *options, "--ckpt_path=last") == 0
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert whole.keys() == parts.keys() and any("decoder.blocks" in name for name in whole)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


@pytest.mark.system
def test_a_run_of_two_processes_is_that_of_one(shards: Path, tmp_path: Path) -> None:
    """Without a contrast beside it: DDP waits for what the decoder does not read, too."""
    alone = "--model.objectives={writer: {class_path: mmtrain.objectives.Captioner, init_args: {parallel: 0}}}"
    steps = [alone, "--trainer.max_steps=4", "--model.learning_rate=0.001"]
    assert fit(shards, tmp_path / "one", *steps) == 0
    two = ["--data.batch_size=4", "--trainer.devices=2", "--trainer.strategy=ddp"]
    command = [sys.executable, "-m", "mmtrain.cli", *arguments(shards, tmp_path / "two", *steps, *two)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr[-2000:]
    for name, tensor in weights(tmp_path / "one").items():
        torch.testing.assert_close(weights(tmp_path / "two")[name], tensor, atol=1e-4, rtol=1e-3, msg=name)
