"""Does a pretrained space help to say how image and text relate, and do ITC and ITM help beside the task?

    python -m benchmarks.relation --out runs/benchmark_relation [--only posts,labels,negatives,stories] [--seeds 5]

posts      Relation posts of numbers never seen in training: heads trained on English ones, measured in English and
           Latvian, from a space pretrained by 1-to-K in four languages (one head of four classes, and two binary ones)
           and from scratch, beside what counting, the text alone, the picture alone and similarity alone give.
labels     200 labelled samples of three made tasks: the label says whether image and text match, or is a function of a
           latent they share, or of the text alone. The task alone beside + ITC, + ITM and both.
negatives  1-to-K + ITM in pretraining with hard and with random negatives, on the towers of that space (from scratch
           the matching head stays at chance for these few steps): R@1 after the head sorted the best ten again.
stories    Is a text the picture's page, another page of its story, or another story's? From scratch on the pages in
           English, Norwegian and literal Norwegian descriptions of --stories, measured on stories never seen in
           training. No picture and no text of one alone tells.

Every figure is macro F1 or recall in percent, the mean over the seeds and the 95 % interval of that mean (Student's t).
"""

import argparse
import io
import json
import random
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

import numpy as np
from scipy import stats

from datamodules.posts import RELATIONS, pack_posts
from datamodules.samples import read_record
from datamodules.shards import ShardReader
from datamodules.writing import encoded_sample, write_shards
from mmtrain.cli import main

CONFIGS = Path(__file__).parents[1] / "configs"
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.accelerator=cpu"]
LANGUAGES = ["de", "en", "es", "lv"]
# of a made task: so few that matching can be learned from 200 labels, so many that the other two do not become easy
CONCEPTS = {"match": 20, "latent": 100, "text": 100}
AUXILIARIES = {"task": (0.0, 0.0), "+ ITC": (0.1, 0.0), "+ ITM": (0.0, 0.1), "+ both": (0.1, 0.1)}


def run(*arguments: object) -> None:
    if main([str(argument) for argument in arguments]) != 0:
        raise SystemExit(1)


def spread(values: Sequence[float]) -> str:
    """Mean and half the width of its 95 % interval."""
    if len(values) < 2:
        return f"{np.mean(values):.1f} (one seed)"
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
    return f"{np.mean(values):.1f} ± {half:.1f}"


def say(*words: object) -> None:
    print(*words, flush=True)


def evaluated(model: Path, data: Path, *options: object) -> dict:
    out = model / f"report_{data.name}"
    run("evaluate", model, "--data", data, "--out", out, "--workers", 0, *options)
    return json.loads((out / "metrics.json").read_text(encoding="utf-8"))


# ---- posts


def records(folder: Path) -> Iterator[tuple[str, dict, bytes]]:
    """(key, record, picture) of every sample."""
    for path in sorted(folder.glob("*.tar")):
        reader = ShardReader()
        for number in range(len(reader.index(str(path)))):
            key, files = reader.read(str(path), number)
            yield key, read_record(files)[0], files.get("png", b"")
        reader.close()


def equal_posts(task: dict) -> Iterator[dict]:
    """Posts whose text says exactly what the picture shows: pairs to pretrain on, of one and of two numbers."""
    for number, (_, record, picture) in enumerate(records(Path(task["folder"]))):
        if record["labels"]["relation"] == 0:
            record.pop("labels")
            yield encoded_sample(number, record, picture)


def pack(out: Path) -> None:
    for split in ("train", "val", "test"):
        if not (out / "posts" / split / "shards.json").is_file():
            pack_posts(out / "posts" / split, split, ["en", "lv"])
            run(
                "pack",
                "numbers",
                "--split",
                split,
                "--languages",
                ",".join(LANGUAGES),
                "--out",
                out / "numbers" / split,
            )
    if not (out / "equal" / "shards.json").is_file():
        pack_posts(out / "many", "train", LANGUAGES, posts=32_000)
        write_shards(out / "equal", [{"folder": str(out / "many")}], equal_posts)


def pretrain(out: Path, steps: int) -> Path:
    folder = out / "space"
    if not (folder / "checkpoints" / "best.ckpt").is_file():
        data = f"0.5@{out / 'numbers' / 'train'}::0.5@{out / 'equal'}"
        options = [f"--data.train={data}", f"--data.val={out / 'numbers' / 'val'}", "--data.captions_per_image=2"]
        options += [f"--trainer.max_steps={steps}", f"--trainer.default_root_dir={folder}"]
        options += ["--trainer.val_check_interval=100"]
        run("fit", "--config", CONFIGS / "quickstart.yaml", *options, *QUIET)
    return folder


def finetune(out: Path, name: str, seed: int, steps: int, *options: str) -> dict:
    folder = out / f"{name}_{seed}"
    named = [f"--data.{split}={out / 'posts' / split}" for split in ("train", "val")]
    named += ["--data.train_languages=[en]", "--data.val_languages=[en]", "--model.tasks=[relation]"]
    named += [f"--trainer.max_steps={steps}", f"--trainer.val_check_interval={max(steps // 2, 1)}"]
    named += [f"--trainer.default_root_dir={folder}", f"--seed_everything={seed}", f"--data.seed={seed}"]
    run("fit", "--config", CONFIGS / "finetune" / "relation_tiny.yaml", *named, *QUIET, *options)
    return evaluated(folder, out / "posts" / "test", "--languages", "en,lv")


def count_only(train: Sequence[dict], test: Sequence[dict]) -> float:
    """The best table from the two sizes to a relation, chosen on the training posts by macro F1."""
    from sklearn.metrics import f1_score

    from datamodules.posts import POSSIBLE

    def sizes(record: dict) -> tuple[int, int]:
        return len(record["image_numbers"]), len(record["text_numbers"])

    def macro(rows: Sequence[dict], table: dict) -> float:
        labels = [record["labels"]["relation"] for record in rows]
        return 100 * f1_score(labels, [table[sizes(record)] for record in rows], average="macro", zero_division=0)

    tables = [dict(zip(POSSIBLE, said, strict=True)) for said in product(*POSSIBLE.values())]
    return macro(test, max(tables, key=lambda table: macro(train, table)))


def one_sided(space: Path, train: list, test: list) -> dict[str, float]:
    """Logistic regression on the pretrained rows of the text alone, of the picture alone, and of both."""
    from PIL import Image
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import f1_score

    from mmtrain import load

    encoder = load(space)

    def rows(split: list) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        images = [Image.open(io.BytesIO(picture)).convert("RGB") for _, _, picture in split]
        texts = [record["captions"]["en"] for _, record, _ in split]
        labels = np.array([record["labels"]["relation"] for _, record, _ in split])
        return encoder.encode_image(images), encoder.encode_text(texts, "en"), labels

    (image, text, labels), (test_image, test_text, test_labels) = rows(train), rows(test)
    sides = {
        "text alone": (text, test_text),
        "picture alone": (image, test_image),
        "both, logistic regression": tuple(
            np.concatenate([i, t, np.abs(i - t), i * t], 1) for i, t in ((image, text), (test_image, test_text))
        ),
    }
    return {
        name: 100 * f1_score(test_labels, LogisticRegression(max_iter=300).fit(x, labels).predict(y), average="macro")
        for name, (x, y) in sides.items()
    }


def posts(options: argparse.Namespace) -> None:
    out = Path(options.out)
    pack(out)
    space = pretrain(out, options.pretrain_steps)
    metrics = evaluated(space, out / "numbers" / "test")
    say(f"space: R@1 of 200 unseen numbers {metrics['text_to_image']['mean']['R@1']:.1f}, four languages")
    train, test = list(records(out / "posts" / "train")), list(records(out / "posts" / "test"))
    say(f"\nfour relations ({', '.join(RELATIONS)}), macro F1 on {len(test)} posts of unseen numbers, English")
    say(f"{'counting':36}{count_only([r for _, r, _ in train], [r for _, r, _ in test]):6.1f}")
    for name, score in one_sided(space, train, test).items():
        say(f"{name:36}{score:6.1f}")
    zero = evaluated(space, out / "posts" / "test", "--languages", "en,lv", "--zero_shot", "relation")
    table = zero["zero_shot"]["similarity"]
    say(f"{'zero-shot by similarity':36}{table['en']['macro_f1']:6.1f}   Latvian {table['lv']['macro_f1']:6.1f}")
    fusion = "{class_path: mmtrain.fusion.TextToImageAttention, init_args: {width: 256}}"
    scratch = [f"--model.fusion={fusion}"]
    start = [*scratch, f"--model.pretrained={space}", "--model.frozen=[image,text]"]
    systems = {
        "from 1-to-K, towers frozen": start,
        "from 1-to-K, two binary heads": [*start, "--model.tasks=[represented,adds]"],
        "from scratch": scratch,
    }
    for name, extra in systems.items():
        found: dict[str, list[float]] = {"en": [], "lv": []}
        steps = options.steps
        for seed in range(options.seeds):
            relation = finetune(out, name.replace(",", "").replace(" ", "_"), seed, steps, *extra)["relation"]
            for language, scores in found.items():
                scores.append(relation[language]["macro_f1"])
            say(f"  {name}, seed {seed}, {steps} steps: " + ", ".join(f"{k} {v[-1]:.1f}" for k, v in found.items()))
        gap = [a - b for a, b in zip(found["en"], found["lv"], strict=True)]
        said = f"English {spread(found['en'])}   Latvian {spread(found['lv'])}   gap {spread(gap)}"
        say(f"{name + f', {steps} steps':36}{said}")


# ---- few labels


def made(task: dict) -> Iterator[dict]:
    """Samples of a made task: a feature vector that shows a concept in noise; a text names a concept and a style."""
    names = ["".join(pair) for pair in product("abcdefghij", repeat=2)][: CONCEPTS[task["kind"]]]
    draw = random.Random(task["seed"])
    world = np.random.default_rng(0)  # the same for all splits and seeds
    shown = world.standard_normal((len(names), 32))
    said = world.permutation(np.arange(len(names)) % 2)
    noise = np.random.default_rng(task["seed"])
    for number in range(task["samples"]):
        concept = other = draw.randrange(len(names))
        style = draw.randrange(len(names))
        matches = draw.random() < 0.5
        if task["kind"] == "match" and not matches:
            other = draw.choice([each for each in range(len(names)) if each != concept])
        label = {"match": int(matches), "latent": int(said[concept]), "text": int(said[style])}[task["kind"]]
        file = io.BytesIO()
        np.save(file, (shown[concept] + 0.7 * noise.standard_normal(32)).astype(np.float32))
        text = f"{names[other]}{names[style].upper()}"
        record = {"id": f"s{number}", "image_id": f"s{number}", "captions": {"und": text}, "labels": {"task": label}}
        yield encoded_sample(number, record, file.getvalue(), "npy")


def few_labels(options: argparse.Namespace) -> None:
    out = Path(options.out) / "made"
    say(f"\n{options.labels} labels: macro F1 on 2,000 others, {options.seeds} seeds (samples and weights)")
    for kind in ("match", "latent", "text"):
        found: dict[str, list[float]] = {name: [] for name in AUXILIARIES}
        for seed in range(options.seeds):
            folder = out / f"{kind}_{seed}"
            for part, (split, samples) in enumerate((("train", options.labels), ("val", 400), ("test", 2000))):
                task = {"kind": kind, "samples": samples, "seed": 10 * seed + part}
                write_shards(folder / split, [task], made)
            for name, (itc, itm) in AUXILIARIES.items():
                place = folder / name.replace("+ ", "")
                run(
                    "fit",
                    "--config",
                    CONFIGS / "finetune" / "relation_tiny.yaml",
                    *QUIET,
                    *small(folder, place, seed),
                    f"--model.itc={itc}",
                    f"--model.itm={itm}",
                    f"--trainer.max_steps={options.label_steps}",
                )
                found[name].append(told(place, folder / "test"))
        for name, scores in found.items():
            gains = [a - b for a, b in zip(scores, found["task"], strict=True)]
            difference = "" if name == "task" else f"   difference {spread(gains)}"
            say(f"{kind:8}{name:10}{spread(scores):>16}{difference}")


def told(model: Path, data: Path) -> float:
    """Macro F1 of a run's task, without the report."""
    from mmtrain import load_relation
    from mmtrain.relation_evaluation import evaluate_relation

    results = evaluate_relation(load_relation(model), str(data), ["und"], batch_size=500, workers=0)
    return results.metrics["relation"]["mean"]["macro_f1"]


def small(folder: Path, run_folder: Path, seed: int) -> list[str]:
    """Options for features beside two short words."""
    image = "{class_path: mmtrain.towers.FeatureTower, init_args: {width: 32}}"
    text = "{class_path: mmtrain.towers.ByteGRU, init_args: {width: 64, embedding: 32}}"
    fusion = "{class_path: mmtrain.fusion.TextToImageAttention, init_args: {width: 64}}"
    return [
        *(f"--data.{split}={folder / split}" for split in ("train", "val")),
        *("--data.workers=0", "--data.batch_size=32", f"--data.seed={seed}", f"--seed_everything={seed}"),
        *("--model.image", image, "--model.text", text, "--model.fusion", fusion),
        *("--model.dimension=32", "--model.learning_rate=0.003", "--trainer.val_check_interval=50"),
        f"--trainer.default_root_dir={run_folder}",
    ]


# ---- negatives


def negatives(options: argparse.Namespace) -> None:
    out = Path(options.out)
    pack(out)
    space = pretrain(out, options.pretrain_steps)
    say("\n1-to-K + ITM in English and Latvian: R@1 text to image among 200 unseen numbers, mean of two languages")
    fusion = "{class_path: mmtrain.fusion.TextToImageAttention, init_args: {width: 256}}"
    head = f"{{class_path: mmtrain.fusion.MatchingHead, init_args: {{fusion: {fusion}}}}}"
    found: dict[str, list[tuple[float, float]]] = {}
    for kind in ("hard", "random"):
        found[kind] = []
        for seed in range(options.seeds):
            folder = out / f"itm_{kind}_{seed}"
            itm = f"{{class_path: losses.ItmLoss, init_args: {{negatives: {kind}, fusion: {head}}}}}"
            named = [f"--data.{split}={out / 'numbers' / split}" for split in ("train", "val")]
            named += [f"--model.objectives={{one_to_k: {{class_path: losses.OneToKLoss}}, itm: {itm}}}"]
            named += ["--data.languages=[en,lv]", "--data.captions_per_image=1", f"--model.pretrained={space}"]
            named += ["--model.image.init_args.frozen=true", "--model.text.init_args.frozen=true"]
            named += [f"--trainer.max_steps={options.negative_steps}", f"--trainer.default_root_dir={folder}"]
            named += ["--trainer.val_check_interval=100000", f"--seed_everything={seed}", f"--data.seed={seed}"]
            run("fit", "--config", CONFIGS / "quickstart.yaml", *named, *QUIET)
            table = evaluated(folder, out / "numbers" / "test", "--languages", "en,lv", "--rerank", 10)["rerank"]
            mean = table["text_to_image"]["mean"]
            found[kind].append((mean["R@1_before"], mean["R@1"]))
            say(f"  {kind}, seed {seed}: {mean['R@1_before']:.1f} by similarity, {mean['R@1']:.1f} after")
    for kind, pairs in found.items():
        before, after = ([pair[i] for pair in pairs] for i in (0, 1))
        say(f"{kind:10}by similarity {spread(before)}   best 10 sorted again {spread(after)}")
    gains = [a[1] - b[1] for a, b in zip(found["hard"], found["random"], strict=True)]
    say(f"hard minus random, sorted again: {spread(gains)}")


# ---- stories


def stories(options: argparse.Namespace) -> None:
    out = Path(options.out) / "stories"
    for split in ("train", "val"):
        if not (out / split / "shards.json").is_file():
            run("pack", "stories", options.stories, "--split", split, "--out", out / split)
    languages = ["en", "nb", "nb-x-literal"]
    say(f"\nwhose text is it, three classes, stories never seen: {', '.join(languages)}")
    found: dict[str, list[float]] = {language: [] for language in languages}
    for seed in range(options.seeds):
        folder = out / f"run_{seed}"
        named = [f"--data.train={out / 'train'}", f"--data.train_languages=[{','.join(languages)}]"]
        named += [f"--trainer.max_steps={options.story_steps}", f"--trainer.default_root_dir={folder}"]
        named += ["--trainer.limit_val_batches=0", f"--seed_everything={seed}", f"--data.seed={seed}"]
        named += ["--model.fusion={class_path: mmtrain.fusion.TextToImageAttention, init_args: {width: 256}}"]
        run("fit", "--config", CONFIGS / "finetune" / "relation_tiny.yaml", *named, *QUIET)
        relation = evaluated(folder, out / "val", "--languages", ",".join(languages))["relation"]
        for language, scores in found.items():
            scores.append(relation[language]["macro_f1"])
        counts = {language: relation[language]["n"] for language in languages}
    for language, scores in found.items():
        say(f"{language:14}{spread(scores):>16}   of {counts[language]} posts")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="runs/benchmark_relation")
    parser.add_argument("--only", default="posts,labels,negatives,stories")
    parser.add_argument("--stories", help="a manifest of stories, for that part")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--pretrain_steps", type=int, default=500)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--labels", type=int, default=200)
    parser.add_argument("--label_steps", type=int, default=150)
    parser.add_argument("--negative_steps", type=int, default=300)
    parser.add_argument("--story_steps", type=int, default=400)
    options = parser.parse_args()
    for name, part in (("posts", posts), ("labels", few_labels), ("negatives", negatives), ("stories", stories)):
        if name in options.only.split(",") and (name != "stories" or options.stories):
            part(options)
