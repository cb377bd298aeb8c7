"""open_clip's training loop beside ours: the same shards, towers, first weights and pictures; equal steps, equal time.

    python -m benchmarks.training --work runs/benchmark_training --steps 300 --seconds 300 --seeds 3

Handwritten numbers in eight languages. Both begin with the same random weights, which we write and open_clip loads: a
timm resnet10t at 64 pixels and a two-layer XLM-R on bytes. open_clip (open_clip_train from PyPI, with the webdataset it
needs in an environment of its own) sees each picture with one caption, and, as K = 4 is not to be had there, each
picture four times with another language each in a batch of four times the size. Ours draws K captions of K languages
for each picture (1-to-K, which is CLIP's loss where K is 1), in one or more views. Learning rate, decay, warm-up and
cosine and augmentation are alike, all in float32. Both are measured by `mmtrain evaluate` on numbers in handwriting
that neither has seen. Time is processor seconds, readers included: a step's is the difference of a long and a short
run, and each loop gets as many steps as fit into the equal time. Seeds are of order, draws and crops; the first weights
stay.
"""

import argparse
import ast
import io
import json
import os
import random
import re
import shutil
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from benchmarks.loader import environment
from benchmarks.runs import CONFIGS, fit_seconds, interval, processor_seconds, say
from datamodules import ImagePipeline, TransformersTokenizer
from mmtrain.cli import main
from mmtrain.export import open_clip_folder, safetensors_folder
from mmtrain.models.encoder import Encoder
from mmtrain.models.image_text import ImageTextModel
from mmtrain.towers import TimmTower, TransformersTower

LANGUAGES = "[de,en,es,fr,ja,lv,ru,tr]"
SIZE, RATE, DECAY, WARMUP = 64, 1e-3, 0.1, 50
SHORT, TIMED = 10, 20  # steps before a step is timed, and those that are
TEXT = {"model_type": "xlm-roberta", "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2}
TEXT |= {"num_attention_heads": 4, "max_position_embeddings": 132, "pad_token_id": 1, "type_vocab_size": 1}
CROP = {"scale": (0.85, 1.0), "ratio": (0.9, 1.1)}


def write_tokenizer(folder: Path) -> None:
    """Bytes with XLM-R's special tokens, as a tokenizer of transformers."""
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate([*special, *alphabet])}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", None, [("<s>", 0), ("</s>", 2)])
    names = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)


def write_start(work: Path) -> None:
    """The weights both begin with, as a folder of ours and one of open_clip's."""
    write_tokenizer(work / "tokenizer")
    tokenizer = TransformersTokenizer(str(work / "tokenizer"), max_length=128)
    torch.manual_seed(0)
    text = TransformersTower(config=TEXT | {"vocab_size": tokenizer.vocabulary_size})
    network = ImageTextModel(TimmTower("resnet10t"), text, 128)
    encoder = Encoder(network, tokenizer, ImagePipeline(size=SIZE, **CROP), [], "cosine", "start", scale=1 / 0.07)
    for folder, writer in (("start", safetensors_folder), ("start_open_clip", open_clip_folder)):
        (work / folder).mkdir(exist_ok=True)
        writer.write(encoder, work / folder)


def write_captions(source: Path, out: Path, each: int) -> None:
    """Shards as open_clip reads them: a picture beside a .txt, each picture `each` times in different languages."""
    out.mkdir(exist_ok=True)
    rng = random.Random(0)
    for path in sorted(source.glob("*.tar")):
        with tarfile.open(path) as old, tarfile.open(out / path.name, "w") as new:
            files = {member.name: old.extractfile(member).read() for member in old.getmembers()}
            for name in [name for name in files if name.endswith(".png")]:
                key = name.removesuffix(".png")
                captions = json.loads(files[f"{key}.json"])["captions"]
                for language in rng.sample(sorted(captions), each):
                    for suffix, content in (("png", files[name]), ("txt", captions[language].encode())):
                        member = tarfile.TarInfo(f"{key}-{language}.{suffix}")
                        member.size = len(content)
                        new.addfile(member, io.BytesIO(content))


def prepare(work: Path) -> None:
    if (work / "ready").exists():
        return
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    for split in ("train", "val", "test"):
        command = ["pack", "numbers", "--split", split, "--languages", LANGUAGES, "--out", str(work / split)]
        if main(command) != 0:
            raise SystemExit(1)
    for each in (1, 4):
        write_captions(work / "train", work / f"captions_{each}", each)
    write_start(work)
    (work / "ready").touch()


def train_ours(work: Path, captions: int, views: int, batch: int, steps: int, seed: int) -> tuple[float, str]:
    run = work / f"ours_{captions}_{views}"
    tower = {"class_path": "mmtrain.towers.TransformersTower", "init_args": {"config": TEXT | {"vocab_size": 260}}}
    images = {"class_path": "datamodules.ImagePipeline", "init_args": {"size": SIZE, **CROP}}
    reader = {"name_or_folder": str(work / "tokenizer"), "max_length": 128}
    settings = {
        "seed_everything": seed,
        "trainer.max_steps": steps,
        "data.seed": seed,
        "data.train": str(work / "train"),
        "data.batch_size": batch,
        "data.workers": 1,
        "data.captions_per_image": captions,
        "data.views_per_image": views,
        "data.images": images,
        "data.tokenizer": {"class_path": "datamodules.TransformersTokenizer", "init_args": reader},
        "model.image": {"class_path": "mmtrain.towers.TimmTower", "init_args": {"name": "resnet10t"}},
        "model.text": tower,
        "model.pretrained": str(work / "start"),
        "model.dimension": 128,
        "model.learning_rate": RATE,
        "model.weight_decay": DECAY,
        "model.warmup_steps": WARMUP,
    }
    return fit_seconds(CONFIGS / "pretrain" / "tiny.yaml", run, settings), str(run)


def train_theirs(python: Path, work: Path, captions: int, batch: int, steps: int, seed: int) -> tuple[float, str]:
    logs, name = work / "open_clip_logs", f"captions_{captions}_{steps}"
    shutil.rmtree(logs / name, ignore_errors=True)
    shards = sorted((work / f"captions_{captions}").glob("*.tar"))
    command = [
        *(str(python), "-m", "open_clip_train.main", "--model", f"local-dir:{work.resolve() / 'start_open_clip'}"),
        *("--train-data", "::".join(map(str, shards)), "--dataset-type", "webdataset"),
        *("--train-num-samples", str(steps * batch * captions), "--batch-size", str(batch * captions)),
        *("--epochs", "1", "--workers", "1", "--device", "cpu", "--precision", "fp32", "--seed", str(seed)),
        *("--lr", str(RATE), "--wd", str(DECAY), "--beta1", "0.9", "--beta2", "0.98", "--eps", "1e-8"),
        *("--warmup", str(WARMUP), "--logs", str(logs), "--name", name, "--log-every-n-steps", "1000"),
        *("--aug-cfg", f"scale={CROP['scale']}", f"ratio={CROP['ratio']}"),
    ]
    seconds = processor_seconds(command)
    out = work / f"open_clip_{captions}"
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(work / "start_open_clip", out)
    checkpoint = torch.load(logs / name / "checkpoints" / "epoch_1.pt", map_location="cpu", weights_only=True)
    state = {key.removeprefix("module."): value.contiguous() for key, value in checkpoint["state_dict"].items()}
    save_file(state, out / "open_clip_model.safetensors")
    return seconds, f"open_clip:{out}"


def measure(model: str, work: Path) -> dict[str, float]:
    out = work / "report" / re.sub(r"\W+", "_", model)
    command = ["evaluate", model, "--data", str(work / "test"), "--out", str(out), "--languages", LANGUAGES]
    if main(command) != 0:
        raise SystemExit(1)
    return json.loads((out / "metrics.json").read_text(encoding="utf-8"))


class System(NamedTuple):
    """A training loop, and how often it sees each picture in a step; `train` takes steps and seed."""

    loop: str
    captions: int
    views: int
    train: Callable[[int, int], tuple[float, str]]


def systems(work: Path, options: argparse.Namespace) -> list[System]:
    python, batch = environment(work / "environment"), options.batch_size
    found = []
    for captions in ast.literal_eval(options.captions):
        for views in ast.literal_eval(options.views):
            found.append(System("mmtrain", captions, views, partial(train_ours, work, captions, views, batch)))
        theirs = partial(train_theirs, python, work, captions, batch)
        found.append(System("open_clip", 1, captions, theirs))
    return found


def row(system: System, step: float, steps: int, seeds: int, work: Path) -> str:
    """A line of a table: the system trained for so many steps with each seed, means and intervals."""
    figures: dict[str, list[float]] = {}
    for seed in range(seeds):
        seconds, model = system.train(steps, seed)
        metrics = measure(model, work)
        found, back = metrics["text_to_image"]["mean"], metrics["image_to_text"]["mean"]
        spread = metrics["mean_rank_variance"]["text_to_image"]["std"]
        for name, value in (("s", seconds), ("R@1", found["R@1"]), ("back", back["R@1"]), ("MRV", spread)):
            figures.setdefault(name, []).append(value)
    shown = " | ".join(map(interval, figures.values()))
    return f"| {system.loop} | {system.captions} | {system.views} | {step:.3f} | {steps} | {shown} |"


def run(options: argparse.Namespace) -> None:
    work = Path(options.work)
    prepare(work)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    both = systems(work, options)
    differences = [system.train(SHORT + TIMED, 0)[0] - system.train(SHORT, 0)[0] for system in both]
    steps_of = {
        "the same steps": [options.steps for _ in both],
        f"{options.seconds} processor seconds": [round(options.seconds * TIMED / each) for each in differences],
    }
    for title, steps in steps_of.items():
        if not min(steps):
            continue
        say(f"\n{options.batch_size} pictures a step, {title}, {options.seeds} seeds; recall in percent")
        say(
            "| loop | captions a view | views | s a step | steps | s in all | text to image R@1 | back R@1 | MRV, std |"
        )
        say("|---|---|---|---|---|---|---|---|---|")
        for system, seconds, count in zip(both, differences, steps, strict=True):
            say(row(system, seconds / TIMED, count, options.seeds, work))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", default="runs/benchmark_training")
    parser.add_argument("--steps", type=int, default=300, help="of the comparison at equal steps; 0 leaves it out")
    parser.add_argument("--seconds", type=int, default=300, help="of the comparison at equal time; 0 leaves it out")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--captions", default="(1, 4)")
    parser.add_argument("--views", default="(1, 2, 4)")
    run(parser.parse_args())
