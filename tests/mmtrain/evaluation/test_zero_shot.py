"""Zero-shot classification and the similarity of sentences: by hand, and from the command line."""

import json

import numpy as np
import pytest
from PIL import Image
from scipy.stats import rankdata

from mmtrain.cli import main
from mmtrain.evaluation.metrics.sts import correlations, read_sts
from mmtrain.evaluation.metrics.zero_shot import (
    Classes,
    class_ranks,
    encode_classes,
    read_classes,
    read_templates,
    zero_shot_metrics,
)
from tests.mmtrain.conftest import COLOURS, WORDS
from tests.mmtrain.small import fit


def json_file(path, content):
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path


def classes(rows, labels=None, names=None):
    labels = labels or [str(number) for number in range(len(rows))]
    return Classes(labels, names or [f"name {label}" for label in labels], np.asarray(rows, dtype=float), 1)


# class names and prompts


def test_three_forms_of_class_names(tmp_path):
    content = {
        "FR": [[0, 2, 999], ["tanche", "grand requin blanc", "papier toilette"]],  # Babel-ImageNet
        "ZH_YUE": [[0, 1], ["丁鱥", "金魚"]],
        "en": ["tench", "goldfish"],
        "zh-Hant": {"0": "丁鱥", "cat": "貓"},
    }
    assert read_classes(json_file(tmp_path / "classes.json", content)) == {
        "fr": {"0": "tanche", "2": "grand requin blanc", "999": "papier toilette"},
        "zh-yue": {"0": "丁鱥", "1": "金魚"},
        "en": {"0": "tench", "1": "goldfish"},
        "zh-Hant": {"0": "丁鱥", "cat": "貓"},
    }


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([], "is no JSON object with languages as keys"),
        ({"FR": [[0, 1], ["tanche"]]}, "FR has 2 labels and 1 names"),
        ({"FR": [[0, 0, 1], ["a", "b", "c"]]}, "FR names a class twice"),
        ({"FR": ["tanche"]}, "FR names no classes"),
        ({"FR": {"0": "a", "1": " "}}, "FR names no classes"),
        ({"FR": 7}, "FR names no classes"),
    ],
)
def test_class_names_that_are_none(tmp_path, content, says):
    with pytest.raises(ValueError, match=says):
        read_classes(json_file(tmp_path / "classes.json", content))


def test_templates(tmp_path):
    path = json_file(tmp_path / "templates.json", {"LV": ["{} bildē", "sliktā bildē {} "]})
    assert read_templates(path) == {"lv": ["{} bildē", "sliktā bildē {} "]}
    with pytest.raises(ValueError, match="lv is no list of templates with {}"):
        read_templates(json_file(tmp_path / "none.json", {"lv": ["bilde"]}))
    with pytest.raises(ValueError, match="nowhere.json cannot be read"):
        read_templates(tmp_path / "nowhere.json")


def test_a_class_is_the_mean_of_its_unit_prompts():
    rows = {"a photo of a cat": [3, 0], "a cat": [0, 1], "a photo of a dog": [0, 2], "a dog": [0, 5]}
    found = encode_classes(
        lambda prompts: np.array([rows[prompt] for prompt in prompts], dtype=np.float32),
        {"0": "cat", "7": "dog"},
        ["a photo of a {}", "a {}"],
    )
    assert found.labels == ["0", "7"] and found.prompts == 2
    np.testing.assert_allclose(found.rows, [[0.5**0.5, 0.5**0.5], [0, 1]])


# accuracy


def test_ranks_by_hand_with_ties_against_us():
    found = classes([[1, 0], [0, 1], [0, 1]])
    images = np.array([[1.0, 0.1], [0.1, 1.0], [0.1, 1.0], [0.0, 1.0]])
    assert class_ranks(images, np.array([0, 1, 2, 0]), found).tolist() == [0, 1, 1, 2]


def test_a_name_that_two_classes_share_is_right_for_both():
    """ImageNet calls two classes "sunglasses"."""
    found = classes([[1, 0], [0, 1], [0, 1]], names=["cat", "sunglasses", "sunglasses "])
    assert class_ranks(np.array([[0.1, 1.0]] * 2), np.array([1, 2]), found).tolist() == [0, 0]
    metrics = zero_shot_metrics(np.array([[0.1, 1.0]]), ["1"], {"en": found}, bootstrap=0)
    assert metrics["accuracy"]["en"]["same_names"] == 1


@pytest.mark.parametrize("similarity", ["cosine", "asymmetric"])
def test_accuracies_are_those_of_a_loop(similarity):
    random = np.random.default_rng(0)
    rows, images = random.random((12, 5)), random.random((300, 5))
    rows, images = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (rows, images))
    labels = random.integers(0, 12, 300)
    hits = {1: 0, 5: 0}
    for image, label in zip(images, labels, strict=True):
        if similarity == "cosine":
            scores = [image @ row for row in rows]
        else:
            scores = [-(np.maximum(0, row - image) ** 2).sum() for row in rows]
        rank = sum(score > scores[label] for score in scores)
        for k in hits:
            hits[k] += rank < k
    metrics = zero_shot_metrics(images, [str(label) for label in labels], {"en": classes(rows)}, similarity=similarity)
    found = metrics["accuracy"]["en"]
    assert found["classes"] == 12 and found["images"] == 300
    assert found["accuracy@1"] == pytest.approx(hits[1] / 3) and found["accuracy@5"] == pytest.approx(hits[5] / 3)
    low, high = found["accuracy@1_ci95"]
    assert low < found["accuracy@1"] < high < low + 15


def test_languages_compare_on_the_classes_they_share():
    rows = np.eye(6)
    random = np.random.default_rng(0)
    images = np.repeat(rows, 40, axis=0) + 0.7 * random.standard_normal((240, 6))
    labels = np.repeat(np.arange(6), 40).astype(str).tolist()
    by_language = {"en": classes(rows), "om": classes(rows[:3]), "lv": classes(rows[1:], labels=list("12345"))}
    metrics = zero_shot_metrics(images, labels, by_language)
    accuracy, common = metrics["accuracy"], metrics["common"]
    assert [accuracy[each]["classes"] for each in by_language] == [6, 3, 5]
    assert [accuracy[each]["images"] for each in by_language] == [240, 120, 200]
    assert accuracy["om"]["accuracy@1"] > accuracy["en"]["accuracy@1"]  # fewer classes are easier
    assert metrics["common_classes"] == 2 and common["en"]["images"] == 80
    assert common["en"]["accuracy@1"] == common["om"]["accuracy@1"] == common["lv"]["accuracy@1"]
    assert common["mean"]["accuracy@1"] == common["en"]["accuracy@1"] and "mean" not in accuracy


def test_nothing_in_common_has_no_mean():
    images, labels = np.eye(4), list("0123")
    by_language = {"en": classes(np.eye(4)[:2]), "lv": classes(np.eye(4)[2:], labels=["2", "3"])}
    metrics = zero_shot_metrics(images, labels, by_language, bootstrap=0)
    assert metrics["common"] == {} and metrics["common_classes"] == 0
    with pytest.raises(ValueError, match="en: no picture is of one of its 2 classes"):
        zero_shot_metrics(images[2:], labels[2:], by_language)
    with pytest.raises(ValueError, match="needs at least one labelled picture"):
        zero_shot_metrics(images[:0], [], by_language)


# sentences


def test_correlations_by_hand():
    first = np.array([[1.0, 0], [1, 0], [1, 0], [1, 0]])
    second = np.array([[1.0, 0], [1, 1], [0, 1], [-1, 1]])
    scores = np.array([5.0, 2, 3, 0])
    found = correlations(first, second, scores)
    cosines = np.array([1, 0.5**0.5, 0, -(0.5**0.5)])
    assert found["pearson"] == pytest.approx(100 * np.corrcoef(cosines, scores)[0, 1])
    assert found["spearman"] == pytest.approx(100 * np.corrcoef(rankdata(cosines), rankdata(scores))[0, 1])
    assert found["pairs"] == 4
    swapped = correlations(second, first, scores, "asymmetric")
    assert swapped == correlations(first, second, scores, "asymmetric")
    with pytest.raises(ValueError, match="all 4 scores are 1; nothing correlates with a constant"):
        correlations(first, second, np.ones(4))


def test_sentences_with_quotes_and_languages(tmp_path):
    path = tmp_path / "sts.tsv"
    path.write_text(
        'genre\tscore\tsentence1\tsentence2\tlanguage1\tlanguage2\nnews\t4.5\tSay "hi.\tSaki čau.\ten\tlv\n'
        "news\t0\tA cat.\tSuns.\ten\tlv\nnews\t5\tA dog.\tSuns.\ten\tlv\n",
        encoding="utf-8",
    )
    pairs = read_sts(path)
    assert (pairs[0].first, pairs[0].score, pairs[0].languages) == ('Say "hi.', 4.5, ("en", "lv"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a\tb\t5\n", "has the columns a, b, 5; expected sentence1, sentence2, score"),
        ("sentence1\tsentence2\tscore\na\tb\tfive\n", "line 2 has no two sentences and a number"),
        ("sentence1\tsentence2\tscore\na\tb\t5\n", "has 1 pairs"),
    ],
)
def test_sentences_of_another_form_are_one_line(tmp_path, text, says):
    (tmp_path / "sts.tsv").write_text(text)
    with pytest.raises(ValueError, match=says):
        read_sts(tmp_path / "sts.tsv")


# the command line


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """16 coloured pictures, labelled by the colour's number and by its name."""
    folder = tmp_path_factory.mktemp("labelled")
    rows = []
    for index in range(16):
        noise = np.random.default_rng(index).integers(-20, 20, (32, 32, 3))
        Image.fromarray((np.array(COLOURS[index % 4]) + noise).clip(0, 255).astype("uint8")).save(
            folder / f"{index}.png"
        )
        colour = WORDS["en"][index % 4]
        labels = {"number": index % 4, "colour": colour}
        rows.append({"id": str(index), "image": f"{index}.png", "captions": {"en": colour}, "labels": labels})
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert main(["pack", "jsonl", str(folder / "rows.jsonl"), "--out", str(folder / "shards"), "--workers", "1"]) == 0
    return folder / "shards"


@pytest.fixture(scope="module")
def run(shards, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    options = ["--trainer.max_steps=24", "--model.warmup_steps=2", "--model.learning_rate=0.003"]
    assert fit(shards, folder, *options, "--trainer.val_check_interval=24") == 0
    return folder


def test_pictures_by_the_names_of_their_classes(run, labelled, tmp_path, capsys):
    content = {language.upper(): dict(enumerate(words)) for language, words in WORDS.items()}
    content["AR"] = [[0, 2], [WORDS["ar"][0], WORDS["ar"][2]]]
    content["FI"] = ["punainen", "vihreä", "sininen", "harmaa"]  # the model was not trained on it
    names = json_file(tmp_path / "classes.json", content)
    arguments = ["evaluate", str(run), "--data", str(labelled), "--out", str(tmp_path), "--classes", str(names)]
    assert main([*arguments, "--task", "number", "--workers", "0"]) == 0
    metrics = json.loads((tmp_path / "zero_shot.json").read_text(encoding="utf-8"))
    counts = {name: (each["classes"], each["images"]) for name, each in metrics["accuracy"].items()}
    assert counts == {"ar": (2, 8), "en": (4, 16), "lv": (4, 16)}
    assert metrics["common_classes"] == 2 and metrics["accuracy"]["en"]["accuracy@5"] == 100
    assert metrics["accuracy"]["en"]["accuracy@1"] > 60  # colours are easy
    shown = capsys.readouterr().out
    assert "classes" in shown and "images" in shown and "2 common" in shown


def test_labels_that_are_strings_and_prompts(run, labelled, tmp_path, capsys):
    names = json_file(
        tmp_path / "classes.json",
        {"en": {each: each for each in WORDS["en"]}, "lv": {"red": "sarkans", "blue": "zils"}},
    )
    templates = json_file(tmp_path / "templates.json", {"en": ["{}", "a {} picture"]})
    arguments = ["evaluate", str(run), "--data", str(labelled), "--out", str(tmp_path), "--classes", str(names)]
    assert main([*arguments, "--task", "colour", "--templates", str(templates), "--workers", "0"]) == 0
    metrics = json.loads((tmp_path / "zero_shot.json").read_text(encoding="utf-8"))
    assert list(metrics["accuracy"]) == ["en"] and metrics["accuracy"]["en"]["prompts"] == 2
    assert "no templates for lv: left out" in capsys.readouterr().out


def test_classes_without_a_picture_are_wrong_answers_and_counted(run, labelled, tmp_path, capsys):
    named = {each: each for each in WORDS["en"]}
    names = json_file(tmp_path / "classes.json", {"en": named | {"mauve": "mauve", "also red": "red"}})
    arguments = ["evaluate", str(run), "--data", str(labelled), "--out", str(tmp_path), "--classes", str(names)]
    assert main([*arguments, "--task", "colour", "--workers", "0"]) == 0
    figures = json.loads((tmp_path / "zero_shot.json").read_text(encoding="utf-8"))["accuracy"]["en"]
    counted = {name: figures[name] for name in ("classes", "without_images", "same_names", "images")}
    assert counted == {"classes": 6, "without_images": 2, "same_names": 1, "images": 16}
    shown = capsys.readouterr().out
    assert "without" in shown and "shared name" in shown and "right under either class" in shown


def test_a_class_named_twice_is_refused(tmp_path):
    path = tmp_path / "classes.json"
    path.write_text('{"en": {"1": "red", "2": "green", "1": "blue"}}', encoding="utf-8")
    with pytest.raises(ValueError, match="'1' stands twice"):
        read_classes(path)


def test_similarity_of_sentences(run, tmp_path, capsys):
    lines = ["red\tsarkans\t5", "red\tzils\t0", "blue\tzils\t5", "green\tpelēks\t0.5", "grey\tpelēks\t4"]
    path = tmp_path / "colours.tsv"
    path.write_text("sentence1\tsentence2\tscore\n" + "\n".join(lines), encoding="utf-8")
    assert main(["evaluate", str(run), "--data", str(path), "--out", str(tmp_path), "--sts"]) == 0
    figures = json.loads((tmp_path / "sts.json").read_text(encoding="utf-8"))["sts"]
    assert figures["colours"]["pairs"] == 5 and figures["colours"]["spearman"] > 0
    assert "Spearman" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--classes", "NONE"], "--classes: NONE cannot be read"),
        (["--classes", "FILE"], "--task: LABELLED labels colour, number; name one"),
        (["--classes", "FILE", "--task", "shape"], "does not label 'shape'"),
        (
            ["--classes", "FILE", "--task", "colour"],
            "en names 0, 1, 2, 3 ..., and no sample of LABELLED under",
        ),
        (["--classes", "FILE", "--task", "number", "--data", "SHARDS"], "the samples of SHARDS have no labels"),
        (["--classes", "FILE", "--languages", "[xx]"], "names no classes in xx; it has en"),
        (["--classes", "FILE", "--rerank", "5"], "--rerank: says nothing about --classes"),
        (["--sts", "--data", "NONE"], "--data: NONE is no file"),
    ],
)
def test_bad_input_is_one_line(arguments, says, run, labelled, shards, tmp_path, capfd):
    json_file(tmp_path / "FILE", {"en": ["red", "green", "blue", "grey"]})
    places = {"NONE": tmp_path / "NONE", "FILE": tmp_path / "FILE", "LABELLED": labelled, "SHARDS": shards}
    arguments = [str(places.get(each, each)) for each in arguments]
    for name, place in places.items():
        says = says.replace(name, str(place))
    data = [] if "--data" in arguments else ["--data", str(labelled)]
    assert main(["evaluate", str(run), *data, "--out", str(tmp_path), "--workers", "0", *arguments]) == 1
    error = [line for line in capfd.readouterr().err.splitlines() if "error:" in line]
    assert len(error) == 1 and says in error[0], error
