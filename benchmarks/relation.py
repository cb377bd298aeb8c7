"""What pretraining brings to heads that say how image and text relate, and matching heads to retrieval.

    python -m benchmarks.relation --out runs/benchmark_relation [--only posts,negatives,stories] [--seeds 5]

posts      Relation posts of numbers never seen in training: heads trained on English ones, measured in English and
           Latvian, from a space pretrained by 1-to-K in four languages (one head of four classes, two binary ones,
           and the towers trained too), from one pretrained in English alone, and from scratch; beside what counting,
           the text alone, the picture alone and similarity alone give. --systems takes some of them.
negatives  Matching heads on that space, frozen: R@1 after the head sorted the best ten again, and the right caption
           among those of the 27 numbers that differ in one digit. Heads that start as the similarity, over rows or
           tokens, with hard negatives mined from the whole split, and heads that do not. --heads takes some of them.
stories    Is a text the picture's page, another page of its story, or another story's? From scratch on the pages in
           English, Norwegian and literal Norwegian descriptions of --stories, measured on stories never seen in
           training. No picture and no text of one alone tells; by chance macro F1 is 33.3.

Every figure is macro F1 or recall in percent, the mean over the seeds and the 95 % interval of that mean (Student's t).
ITC and ITM with few labels: benchmarks/few_labels.py.
"""

import argparse
import io
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

import numpy as np

from benchmarks.matching import HEADS, compare
from benchmarks.runs import CONFIGS, QUIET, evaluated, interval, run, say
from datamodules.numbers.posts import RELATIONS, pack_posts
from datamodules.shards.reader import ShardReader
from datamodules.shards.samples import read_record

LANGUAGES = ["de", "en", "es", "lv"]
FUSION = "{class_path: mmtrain.fusion.TextToImageAttention, init_args: {width: 256}}"
FROZEN = "--model.frozen=[image,text]"
# the tasks' layers start as the regression of the space's rows; what is trained beside it may move the rows a little
REGRESSION = ["--model.start=regression", "--model.class_weights=none", "--model.tower_rate=0.1", "--model.itc=0"]
REGRESSION += ["--model.itm=0", "--model.dropout=0.3"]
PICTURES = {"size": 64, "scale": "[0.85, 1.0]", "transform": "null"}  # several numbers side by side are small in 48
SYSTEMS = {  # name: the space to start from, options
    "1-to-K, frozen, from the regression": ("space", [FROZEN, *REGRESSION]),
    "1-to-K, frozen": ("space", [FROZEN]),
    "1-to-K, frozen, two binary heads": ("space", [FROZEN, "--model.tasks=[represented,adds]"]),
    "1-to-K, towers trained too": ("space", ["--model.tower_rate=0.1"]),
    "English alone, frozen": ("space_en", [FROZEN]),
    "from scratch": (None, []),
}


# ---- posts


def records(folder: Path) -> Iterator[tuple[str, dict, bytes]]:
    """(key, record, picture) of every sample."""
    for path in sorted(folder.glob("*.tar")):
        reader = ShardReader()
        for number in range(len(reader.index(str(path)))):
            key, files = reader.read(str(path), number)
            yield key, read_record(files)[0], files.get("png", b"")
        reader.close()


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
        pack_posts(out / "equal", "train", LANGUAGES, equal=True)  # pairs of one number and of two


def pretrain(out: Path, name: str, languages: Sequence[str], steps: int) -> Path:
    """A space of single and several numbers, at most two captions a picture."""
    folder = out / name
    if not (folder / "checkpoints" / "best.ckpt").is_file():
        data = f"0.5@{out / 'numbers' / 'train'}::0.5@{out / 'equal'}"
        options = [f"--data.train={data}", f"--data.val={out / 'numbers' / 'val'}"]
        options += [f"--data.languages=[{','.join(languages)}]", f"--data.captions_per_image={min(2, len(languages))}"]
        options += [f"--trainer.max_steps={steps}", f"--trainer.default_root_dir={folder}"]
        options += ["--trainer.val_check_interval=100", "--model.learning_rate=0.002"]
        options += [f"--data.images.init_args.{name}={value}" for name, value in PICTURES.items()]
        run("fit", "--config", CONFIGS / "quickstart.yaml", *options, *QUIET)
    return folder


def finetune(folder: Path, data: Path, languages: str, seed: int, steps: int, *options: str) -> None:
    named = [f"--data.train={data}", f"--data.train_languages=[{languages}]", f"--model.fusion={FUSION}"]
    named += [f"--trainer.max_steps={steps}", f"--trainer.default_root_dir={folder}"]
    named += [f"--seed_everything={seed}", f"--data.seed={seed}"]
    run("fit", "--config", CONFIGS / "finetune" / "relation_head.yaml", *named, *QUIET, *options)


def count_only(train: Sequence[dict], test: Sequence[dict]) -> float:
    """The best table from the two sizes to a relation, chosen on the training posts by macro F1."""
    from sklearn.metrics import f1_score

    from datamodules.numbers.posts import POSSIBLE

    def sizes(record: dict) -> tuple[int, int]:
        return len(record["image_numbers"]), len(record["text_numbers"])

    def macro(rows: Sequence[dict], table: dict) -> float:
        labels = [record["labels"]["relation"] for record in rows]
        return 100 * f1_score(labels, [table[sizes(record)] for record in rows], average="macro", zero_division=0)

    tables = [dict(zip(POSSIBLE, said, strict=True)) for said in product(*POSSIBLE.values())]
    return macro(test, max(tables, key=lambda table: macro(train, table)))


def one_sided(space: Path, train: list, test: list) -> dict[str, list[float]]:
    """Logistic regression on the pretrained rows of the text alone, of the picture alone, and of both: fitted on
    English posts, macro F1 in English and Latvian.
    """
    import torch
    from PIL import Image
    from sklearn.metrics import f1_score

    from mmtrain import load
    from mmtrain.evaluation.metrics.probe import logistic_regression
    from mmtrain.fusion import pair_rows

    encoder = load(space)

    def rows(split: list, language: str) -> dict[str, np.ndarray]:
        images = [Image.open(io.BytesIO(picture)).convert("RGB") for _, _, picture in split]
        image = torch.from_numpy(encoder.encode_image(images))
        text = torch.from_numpy(encoder.encode_text([record["captions"][language] for _, record, _ in split], language))
        both, D = pair_rows(image, text).numpy(), encoder.model.dimension
        return {"text alone": both[:, D : 2 * D], "picture alone": both[:, :D], "both, logistic regression": both}

    def labels(split: list) -> np.ndarray:
        return np.array([record["labels"]["relation"] for _, record, _ in split])

    tested = [rows(test, language) for language in ("en", "lv")]
    found = {}
    for name, side in rows(train, "en").items():
        weight, bias = logistic_regression(side, labels(train), len(RELATIONS), c=1 / encoder.model.dimension)
        said = [(each[name] @ weight.T + bias).argmax(1) for each in tested]
        found[name] = [100 * f1_score(labels(test), each, average="macro") for each in said]
    return found


def baselines(out: Path, space: Path) -> None:
    train, test = list(records(out / "posts" / "train")), list(records(out / "posts" / "test"))
    say(f"\nfour relations ({', '.join(RELATIONS)}), macro F1 on {len(test)} posts of unseen numbers, English, Latvian")
    say(f"{'counting':36}{count_only([r for _, r, _ in train], [r for _, r, _ in test]):6.1f}")
    for name, scores in one_sided(space, train, test).items():
        say(f"{name:36}{scores[0]:6.1f}{scores[1]:6.1f}")
    zero = evaluated(space, out / "posts" / "test", "--languages", "en,lv", "--zero_shot", "relation")
    table = zero["zero_shot"]["similarity"]
    say(f"{'zero-shot by similarity':36}{table['en']['macro_f1']:6.1f}{table['lv']['macro_f1']:6.1f}")


def posts(options: argparse.Namespace) -> None:
    out = Path(options.out)
    pack(out)
    spaces = {"space": LANGUAGES, "space_en": ["en"]}
    for name, languages in spaces.items():
        space = pretrain(out, name, languages, options.pretrain_steps)
        table = evaluated(space, out / "numbers" / "test", "--languages", "en,lv")["text_to_image"]
        found = ", ".join(f"{language} {table[language]['R@1']:.1f}" for language in ("en", "lv"))
        say(f"{name}: R@1 of 200 unseen numbers, {found}")
    baselines(out, out / "space")
    for name in options.systems or SYSTEMS:
        start, extra = SYSTEMS[name]
        named = [f"--data.val={out / 'posts' / 'val'}", "--data.val_languages=[en]", "--model.tasks=[relation]", *extra]
        named += [f"--model.pretrained={out / start}"] if start else []
        named += [f"--trainer.val_check_interval={max(options.steps // 2, 1)}"]
        scores: dict[str, list[float]] = {"en": [], "lv": []}
        for seed in range(options.seeds):
            folder = out / f"{name.replace(',', '').replace(' ', '_')}_{seed}"
            finetune(folder, out / "posts" / "train", "en", seed, options.steps, *named)
            relation = evaluated(folder, out / "posts" / "test", "--languages", "en,lv")["relation"]
            for language, each in scores.items():
                each.append(relation[language]["macro_f1"])
            say(f"  {name}, seed {seed}: " + ", ".join(f"{k} {v[-1]:.1f}" for k, v in scores.items()))
        gap = [a - b for a, b in zip(scores["en"], scores["lv"], strict=True)]
        said = f"English {interval(scores['en'])}   Latvian {interval(scores['lv'])}   gap {interval(gap)}"
        say(f"{name + f', {options.steps} steps':48}{said}")


# ---- negatives


def negatives(options: argparse.Namespace) -> None:
    out = Path(options.out)
    pack(out)
    space, few = pretrain(out, "space", LANGUAGES, options.pretrain_steps), out / "numbers" / "few"
    if not (few / "shards.json").is_file():
        run("pack", "numbers", "--split", "train", "--renderings", 4, "--languages", "en,lv", "--out", few)
    say("\nmatching heads on the frozen space, 200 unseen numbers: means over directions, English and Latvian")
    heads = options.heads or list(HEADS)
    found = compare(space, out / "numbers", heads, options.rates, options.seeds, options.negative_steps)
    for head, figures in found.items():
        say(f"{head:26}" + "   ".join(f"{name} {interval([each[name] for each in figures])}" for name in figures[0]))


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
        finetune(folder, out / "train", ",".join(languages), seed, options.story_steps, "--trainer.limit_val_batches=0")
        relation = evaluated(folder, out / "val", "--languages", ",".join(languages))["relation"]
        for language, scores in found.items():
            scores.append(relation[language]["macro_f1"])
        counts = {language: relation[language]["n"] for language in languages}
    for language, scores in found.items():
        say(f"{language:14}{interval(scores):>16}   of {counts[language]} posts")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="runs/benchmark_relation")
    parser.add_argument("--only", default="posts,negatives,stories")
    parser.add_argument("--systems", nargs="*", choices=list(SYSTEMS), help="of posts; default all")
    parser.add_argument("--heads", nargs="*", choices=list(HEADS), help="of matching; default all")
    parser.add_argument("--rates", nargs="*", type=float, default=[3e-4, 1e-3], help="of negatives, to choose from")
    parser.add_argument("--stories", help="a manifest of stories, for that part")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--pretrain_steps", type=int, default=500)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--negative_steps", type=int, default=200)
    parser.add_argument("--story_steps", type=int, default=400)
    options = parser.parse_args()
    for name, part in (("posts", posts), ("negatives", negatives), ("stories", stories)):
        if name in options.only.split(",") and (name != "stories" or options.stories):
            part(options)
