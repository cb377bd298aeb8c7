"""Fine-tuning on relations: what it learns, what its parts see, what it refuses, and what evaluation says of it."""

import csv
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import mmtrain
from datamodules import Batch, RelationDataModule
from datamodules.numbers.posts import pack_posts
from datamodules.packing.relations import CLASSES, labels_of
from losses import Embeddings
from mmtrain.cli import main
from mmtrain.commands.evaluate import evaluate
from mmtrain.embedding.predictions import Predictions
from mmtrain.evaluation.measuring.relation import add_four_classes
from mmtrain.evaluation.measuring.reranking import sorted_again
from mmtrain.fusion import ConcatFusion, CrossAttentionFusion
from mmtrain.objectives import TaskLoss
from mmtrain.towers import ByteGRU, TimmTower
from mmtrain.training.relation import RelationModule
from tests.mmtrain.batches import made_batch
from tests.mmtrain.posts import COLOURS, WORDS, finetune, finetuning
from tests.mmtrain.small import ENVIRONMENT, fit


def test_a_run_learns_its_tasks_and_is_measured_in_every_language(
    trained: Path, posts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--languages", "en,lv", "--workers", "0", "--rerank", "3", "--zero_shot", "match"]
    assert main(["evaluate", str(trained), "--data", str(posts), "--out", str(tmp_path), *options]) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    tables = metrics["relation_tasks"]
    assert set(tables) == {"match", "mood"} and metrics["relation"] == tables["match"]
    assert set(metrics["relation"]) == {"en", "lv", "mean"}
    assert tables["mood"]["en"]["macro_f1"] > 90 > tables["mood"]["lv"]["macro_f1"]  # Latvian words were never read
    assert tables["match"]["en"]["macro_f1"] > 70
    english = tables["mood"]["en"]
    assert english["n"] == 42 and set(english["per_class"]) == {"angry", "calm", "sad"}
    low, high = english["macro_f1_ci95"]
    assert low <= english["macro_f1"] <= high
    assert metrics["relation_gap"]["best"] == "en" and metrics["zero_shot"]["similarity"]["mean"]["n"] == 96
    assert metrics["relation_zero_shot"]["similarity"]["en"]["ece"] is None
    assert metrics["rerank"]["k"] == 3 and "R@1_before" in metrics["rerank"]["text_to_image"]["en"]
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    for shown in ("Image-text relations: match", "Image-text relations: mood", "zero-shot by similarity", "The best 3"):
        assert shown in page
    assert page.count("the post's picture") > 3
    said = capsys.readouterr().out
    assert "lv: not trained on; measured by transfer" in said
    assert "match, fine-tuned" in said and "mood, fine-tuned" in said


def test_a_manifest_and_prompts(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measured on JSON Lines whose labels have one class only, which is said; told by prompts in the report."""
    rows = []
    for index in range(6):
        Image.new("RGB", (40, 48), COLOURS[index % 3]).save(tmp_path / f"{index}.png")
        captions = {"en": WORDS["en"][index % 3]}
        labels = {"match": 1, "mood": "calm"}
        rows.append({"id": f"m{index}", "image": f"{index}.png", "captions": captions, "labels": labels})
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    (tmp_path / "prompts.json").write_text(
        json.dumps({"calm": "green", "sad": "blue", "angry": "red"}), encoding="utf-8"
    )
    prompts = ["--zero_shot", "mood", "--prompts", str(tmp_path / "prompts.json")]
    options = ["--data", str(tmp_path / "rows.jsonl"), "--out", str(tmp_path / "out"), "--workers", "0"]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert main(["evaluate", str(trained), *options, *prompts]) == 0
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["relation_tasks"]["mood"]["en"]["missing_classes"] == ["angry", "sad"]
    assert set(metrics["zero_shot"]["prompt"]["en"]["per_class"]) == {"angry", "calm", "sad"}
    said = capsys.readouterr().out
    assert "en: no label of angry, sad; macro F1 is the mean over the classes that occur" in said
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "zero-shot by prompt" in page
    (tmp_path / "prompts.json").write_text(json.dumps({"sad": "blue", "angry": "red"}), encoding="utf-8")
    assert main(["evaluate", str(trained), *options, *prompts]) == 1
    assert "--prompts: no prompt for class 'calm' of mood; it has sad, angry" in capsys.readouterr().err
    assert main(["evaluate", str(trained), *options, "--prompts", str(tmp_path / "prompts.json")]) == 1
    assert "it needs --zero_shot TASK" in capsys.readouterr().err
    assert main(["evaluate", str(trained), "--data", "rows.csv", "--out", str(tmp_path / "out")]) == 1
    assert "mmtrain pack csv makes shards of it" in capsys.readouterr().err


def test_two_binary_heads_say_the_four_classes(tmp_path: Path) -> None:
    shards, run = tmp_path / "posts", tmp_path / "run"
    pack_posts(shards, "val", ["en"], posts=48)
    options = ["--trainer.max_steps=1", "--model.tasks=[represented,adds]"]
    assert finetune(shards, run, *options) == 0
    data = ["--data", str(shards), "--workers", "0"]
    assert main(["evaluate", str(run), *data, "--out", str(tmp_path / "report")]) == 0
    metrics = json.loads((tmp_path / "report" / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["relation_task"] == "represented and adds"
    assert set(metrics["relation_tasks"]) == {"represented", "adds", "represented and adds"}
    assert list(metrics["relation"]["en"]["per_class"]) == list(CLASSES) and metrics["relation"]["en"]["n"] == 48


def test_four_classes_of_two_answers() -> None:
    labels = {"represented": np.array([1, 1, 0, 0, -1]), "adds": np.array([0, 1, 0, 1, 1])}
    said = np.array([[0.3, 0.7], [0.2, 0.8], [0.9, 0.1], [0.6, 0.4], [0.5, 0.5]])
    split = Predictions(np.arange(5), np.zeros(5, int), [], labels, {"represented": said, "adds": said[::-1]})
    classes = {name: ["0", "1"] for name in labels}
    assert add_four_classes(split, classes) == {"represented and adds": list(CLASSES)}
    assert split.labels["represented and adds"].tolist() == [0, 1, 2, 3, -1]
    for row, found in enumerate(split.probabilities["represented and adds"]):
        for relation, probability in enumerate(found):  # what the labels of the class are
            represented, adds = labels_of(relation)["represented"], labels_of(relation)["adds"]
            assert probability == pytest.approx(said[row, represented] * said[4 - row, adds])
    assert add_four_classes(split, classes | {"adds": ["no", "yes"]}) == {}


def test_a_classifier_predicts_from_python(trained: Path) -> None:
    classifier = mmtrain.load_relation(trained)
    assert classifier.classes == {"match": ["0", "1"], "mood": ["angry", "calm", "sad"]}
    pictures = [Image.new("RGB", (40, 40), colour) for colour in COLOURS]
    found = classifier.predict(pictures, ["red", "green", "blue"], "en")
    assert found["mood"].argmax(1).tolist() == [0, 1, 2] and found["match"].shape == (3, 2)
    np.testing.assert_allclose(found["mood"].sum(1), 1, rtol=1e-5)
    with pytest.raises(ValueError, match="3 pictures beside 1 texts"):
        classifier.predict(pictures, ["red"])
    # the towers alone are an encoder as any other
    assert mmtrain.load(trained).encode_text(["red"], "en").shape == (1, 16)


def test_what_is_behind_the_towers_is_shown_and_stays_in_the_run(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(trained)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "mood (angry, calm, sad)" in printed and "CrossAttentionFusion" in printed
    assert main(["export", str(trained), "--out", str(tmp_path / "export")]) == 0
    assert "the network behind it, for relations or matching, stays in the run" in capsys.readouterr().out


def small_module(**options) -> RelationModule:
    torch.manual_seed(0)
    tower = {"patch_size": 16, "embed_dim": 32, "depth": 1, "num_heads": 2}
    image = TimmTower("vit_tiny_patch16_224", image_size=32, options=tower)
    fusion = CrossAttentionFusion(width=16, layers=1, heads=2)
    return RelationModule(image, ByteGRU(width=32), **({"dimension": 16, "fusion": fusion} | options))


def small_batch() -> Batch:
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 255, (4, 3, 32, 32), generator=random, dtype=torch.uint8)
    return made_batch(images, labels={"relation": torch.arange(4) % 2})


def test_itc_sees_no_modality_through_the_other() -> None:
    """Other texts leave the picture's row as it was, other pictures the text's; the fused logits change with both."""
    module, batch = small_module().eval(), small_batch()
    module.head.set_tasks({"relation": ["0", "1"]})
    other = small_batch()
    other.tokens = other.tokens.flip(0)
    before, after = module.embed(batch), module.embed(other)
    torch.testing.assert_close(before.image, after.image, rtol=0, atol=0)
    torch.testing.assert_close(before.texts.flip(0), after.texts)
    posts, slots = batch.present.nonzero(as_tuple=True)
    fused = [module.head.judge(embeddings, posts, slots)["relation"] for embeddings in (before, after)]
    assert not torch.allclose(*fused)
    # no gradient flows from a picture's row into the text tower, nor back
    before.image.sum().backward(retain_graph=True)
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in module.model.text.parameters())
    module.zero_grad()
    before.texts.sum().backward()
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in module.model.image.parameters())


def test_cross_entropy_is_weighted_over_labelled_pairs_only() -> None:
    weights = torch.tensor([2.0, 1.0, 0.5])
    logits = torch.randn(5, 3, requires_grad=True)
    objective = TaskLoss("relation", lambda embeddings: {"relation": logits}, weights)

    def loss(labels: list[int]) -> torch.Tensor:
        rows = torch.nn.functional.normalize(torch.randn(5, 1, 4), dim=-1)
        found = {"relation": torch.tensor(labels)}
        embeddings = Embeddings(rows[:, 0], rows, torch.ones(5, 1, dtype=torch.bool), labels=found)
        return objective.loss(None, embeddings, None)

    labelled = [0, 2, 3]
    expected = torch.nn.functional.cross_entropy(logits[labelled], torch.tensor([0, 2, 1]), weight=weights)
    torch.testing.assert_close(loss([0, -1, 2, 1, -1]), expected)
    nothing = loss([-1] * 5)
    assert nothing == 0 and not torch.autograd.grad(nothing, logits)[0].any()


def test_a_task_is_learned_in_float64() -> None:
    logits = torch.randn(4, 3, dtype=torch.float64)
    objective = TaskLoss("relation", lambda embeddings: {"relation": logits}, torch.ones(3)).double()
    rows, labels = torch.zeros(4, 1, 4), torch.tensor([0, 1, 2, 0])
    embeddings = Embeddings(rows[:, 0], rows, torch.ones(4, 1, dtype=torch.bool), labels={"relation": labels})
    expected = torch.nn.functional.cross_entropy(logits, labels)
    torch.testing.assert_close(objective.loss(None, embeddings, None), expected, rtol=1e-12, atol=0)


def test_the_tower_rate_is_that_of_towers_and_projections() -> None:
    module = small_module(learning_rate=0.5, tower_rate=0.1)
    module.head.set_tasks({"relation": ["0", "1"]})
    rates = {
        parameter: (group["lr"], group["base_lr"])
        for group in module.configure_optimizers().param_groups
        for parameter in group["params"]
    }
    names = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
    assert {name.split(".")[0] for name in names} == {"model", "head", "objectives"}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            rate = 0.05 if name.startswith("model.") else 0.5
            assert rates[parameter] == pytest.approx((rate, rate)), name


def configured(counts: list[int], balanced_task: str | None = None, **options) -> RelationModule:
    """A module whose layers were made for one task with so many training samples of each class."""
    module = small_module(itm=0.0, **options)
    data = RelationDataModule()
    data.classes, data.label_counts, data.balanced_task = {"relation": len(counts)}, {"relation": counts}, balanced_task
    module._trainer = SimpleNamespace(datamodule=data)
    module.configure_model()
    return module


def test_classes_are_weighed_by_their_samples() -> None:
    def weights(balanced_task: str | None) -> list[float]:
        return configured([6, 0, 2], balanced_task).objectives["task/relation"].class_weights.tolist()

    assert weights(None) == weights("mood") == pytest.approx([8 / 12, 0, 8 / 4])
    assert weights("relation") == [1, 1, 1]  # drawn alike, they are not weighed again


def test_a_class_without_a_training_sample_is_never_predicted() -> None:
    module = configured([2, 0, 2]).train()
    optimizer = torch.optim.AdamW(module.head.parameters(), lr=0.1)
    batch = small_batch()
    posts, slots = batch.present.nonzero(as_tuple=True)
    for _ in range(5):
        embeddings = module.embed(batch)
        assert not module.head.judge(embeddings, posts, slots)["relation"].softmax(1)[:, 1].any()
        embeddings = replace(embeddings, labels={"relation": 2 * batch.labels["relation"]})
        loss = module.objectives["task/relation"].loss(batch, embeddings, module.model)
        optimizer.zero_grad()
        loss.backward()
        assert torch.isfinite(loss) and module.head.out[0].bias.grad[1] == 0
        optimizer.step()


def test_validation_without_labels_is_said(posts: Path, shards: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="did not measure val/macro_f1, so no best.ckpt is kept; it measured nothing"):
        assert finetune(posts, tmp_path, "--trainer.max_steps=4", f"--data.val={shards}") == 0
    assert not (tmp_path / "checkpoints" / "best.ckpt").exists()


def test_the_loss_is_the_published_convex_sum(posts: Path, tmp_path: Path) -> None:
    options = ["--trainer.max_steps=2", "--trainer.log_every_n_steps=1", "--trainer.val_check_interval=2"]
    for name, extra, task in (("convex", [], 0.8), ("free", ["--model.convex=false"], 1.0)):
        assert finetune(posts, tmp_path / name, *options, *extra) == 0
        header, row = (tmp_path / name / "metrics.csv").read_text(encoding="utf-8").splitlines()[:2]
        log = {key: float(value) for key, value in zip(header.split(","), row.split(","), strict=True) if value}
        tasks = (log["train/task/match"] + log["train/task/mood"]) / 2
        expected = task * tasks + 0.1 * log["train/itc"] + 0.1 * log["train/itm"]
        assert log["train/loss"] == pytest.approx(expected, rel=1e-4)


def test_a_run_starts_from_a_pretrained_space(
    shards: Path, posts: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fusion = "{class_path: mmtrain.fusion.ConcatFusion, init_args: {width: 24}}"
    head = f"{{class_path: mmtrain.fusion.MatchingHead, init_args: {{fusion: {fusion}}}}}"
    itm = f"{{class_path: losses.ItmLoss, init_args: {{fusion: {head}}}}}"
    objectives = f"{{one_to_k: {{class_path: losses.OneToKLoss}}, itm: {itm}}}"
    assert fit(shards, tmp_path / "space", "--trainer.max_steps=4", f"--model.objectives={objectives}") == 0
    out = tmp_path / "report"
    options = ["--workers", "0", "--rerank", "4", "--out", str(out)]
    assert main(["evaluate", str(tmp_path / "space"), "--data", str(shards), *options]) == 0
    assert json.loads((out / "metrics.json").read_text())["rerank"]["text_to_image"]["mean"]["queries"] > 0
    module = RelationModule(pretrained=str(tmp_path / "space"), frozen=["image"])
    assert isinstance(module.head.fusion, ConcatFusion) and module.head.fusion.width == 24
    space = torch.load(tmp_path / "space" / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    for name, weight in module.model.state_dict().items():
        assert torch.equal(weight, space[f"model.{name}"])
    for name, weight in module.head.fusion.state_dict().items():
        assert torch.equal(weight, space[f"objectives.itm.fusion.fusion.{name}"])
    assert not any(parameter.requires_grad for parameter in module.model.image.parameters())
    assert all(parameter.requires_grad for parameter in module.model.text.parameters())
    # a fusion named in the config starts from those weights too where it is of the same shape, and so does matching
    module = RelationModule(pretrained=str(tmp_path / "space"), fusion=ConcatFusion(width=24))
    for name, weight in module.head.fusion.state_dict().items():
        assert torch.equal(weight, space[f"objectives.itm.fusion.fusion.{name}"])
    assert torch.equal(module.head.matching.weight, space["objectives.itm.fusion.out.weight"])
    with caplog.at_level("INFO"):
        RelationModule(pretrained=str(tmp_path / "space"), fusion=ConcatFusion(width=8))
    assert "the fusion of" in caplog.text and "leave model.fusion out to take it" in caplog.text
    # through the command line, with towers of the same shape in the config
    steps = ["--trainer.max_steps=2", f"--model.pretrained={tmp_path / 'space'}"]
    assert finetune(posts, tmp_path / "tuned", *steps) == 0


def refusal(capsys: pytest.CaptureFixture, *arguments: object) -> str:
    capsys.readouterr()
    assert finetune(*arguments) == 1
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_what_cannot_be_trained_is_said_in_one_line(
    posts: Path, shards: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    step = "--trainer.max_steps=1"
    assert "nobody labelled 'sarcasm'; the training split labels match, mood" in refusal(
        capsys, posts, tmp_path, step, "--model.tasks=[sarcasm]"
    )
    assert "data.train: no sample has a label" in refusal(capsys, shards, tmp_path, step)
    assert "model.itc, model.itm: got 0.6 and 0.5" in refusal(
        capsys, posts, tmp_path, step, "--model.itc=0.6", "--model.itm=0.5"
    )
    assert "does not fit the towers" in refusal(
        capsys, posts, tmp_path, step, f"--model.pretrained={trained}", "--model.text.init_args.width=16"
    )
    assert "data.images.size: 16, but" in refusal(
        capsys, posts, tmp_path, step, f"--model.pretrained={trained}", "--data.images.init_args.size=16"
    )
    assert refusal(capsys, posts, tmp_path, step, "--model.fusion.init_args.heads=5").endswith(
        "fusion.heads: got 5, expected a divisor of the width 64"
    )
    assert "use --model.checkpoint_activations true" in refusal(
        capsys, posts, tmp_path, step, "--trainer.accumulate_grad_batches=2"
    )
    with pytest.raises(ValueError, match="give both towers, or model.pretrained"):
        RelationModule()
    with pytest.raises(ValueError, match="has no matching head"):
        assert finetune(posts, tmp_path / "without", step, "--model.itm=0") == 0
        evaluate(str(tmp_path / "without"), data=str(posts), out=str(tmp_path / "out"), rerank=5, workers=0)


@pytest.mark.system
@pytest.mark.parametrize("extra", [False, True])
def test_two_processes_train_what_one_does(posts: Path, shards: Path, tmp_path: Path, extra: bool) -> None:
    """The same global batch on one process and on two (gloo), without the draws of ITM: the same losses and weights;
    also with posts without labels beside few that have some, of which ITC takes one class.
    """
    labelled = f"{{shards: {posts}, objectives: [itc, task/match, task/mood]}}"
    bare = f"{{shards: {shards}, weight: 7, objectives: [itc]}}"
    options = [f"--data.train=[{labelled}, {bare}]", "--model.itc_on={match: [1]}"] if extra else []
    options += ["--trainer.max_steps=6", "--trainer.log_every_n_steps=2", "--model.itm=0", "--model.dropout=0"]
    options += ["--model.learning_rate=0.0001", "--data.captions_per_image=2"]
    assert finetune(posts, tmp_path / "one", *options, "--data.batch_size=8") == 0
    two = ["--data.batch_size=4", "--trainer.devices=2", "--trainer.strategy=ddp"]
    command = [sys.executable, "-m", "mmtrain.cli", *finetuning(posts, tmp_path / "two", *options, *two)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr[-2000:]
    logs = []
    for name in ("one", "two"):
        with (tmp_path / name / "metrics.csv").open(newline="", encoding="utf-8") as file:
            logs.append([{key: value for key, value in row.items() if value} for row in csv.DictReader(file)])
    for one, both in zip(*logs, strict=True):
        for name in one:
            if name.startswith(("train/", "val/")):
                assert float(both[name]) == pytest.approx(float(one[name]), rel=1e-4), name
    one, both = (
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("one", "two")
    )
    for name, tensor in one.items():
        torch.testing.assert_close(both[name], tensor, atol=1e-4, rtol=1e-3, msg=name)


def test_sorting_the_best_again_by_hand() -> None:
    """Three queries with their best three: lifted by the head, sunk by it, and out of its reach."""
    first = np.array([1, 0, 7])  # ranks by similarity
    right = np.array([[False, True, False], [True, False, False], [False, False, False]])
    again = np.array([[0.1, 0.9, 0.2], [0.5, 0.5, 0.4], [0.3, 0.2, 0.1]])  # a tie counts against the right answer
    np.testing.assert_array_equal(sorted_again(first, right, again), [0, 1, 7])
