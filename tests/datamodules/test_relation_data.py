"""Labels beside captions: languages per split, few examples, balanced classes, manifests, and what is refused."""

import json
from collections import Counter

import pytest
from tiny_shards import png_bytes, sample_files

from datamodules import ByteTokenizer, ImagePipeline, Manifest, RelationDataModule, Source


@pytest.fixture
def posts(plain_shards):
    """posts(labels, name): a shard with one post a label, in English and Latvian; None is unlabelled."""

    def write(labels, name="posts"):
        samples = [
            sample_files(number, **({} if label is None else {"labels": {"relation": label}}))
            for number, label in enumerate(labels)
        ]
        return plain_shards([samples[: len(samples) // 2], samples[len(samples) // 2 :]], name)

    return write


def relation_data(stage="fit", **options):
    options = {"batch_size": 4, "workers": 0, "images": ImagePipeline(size=8), "tokenizer": ByteTokenizer(32)} | options
    for split in ("train", "val", "test"):
        if split in options and not isinstance(options[split], list):
            options[split] = str(options[split])
    module = RelationDataModule(**options)
    module.setup(stage)
    return module


def trained_labels(module, batches=None):
    found = Counter()
    for number, batch in enumerate(module.train_dataloader()):
        module.trained(batch)
        found.update(batch.labels["relation"].tolist())
        if number + 1 == batches:
            break
    return found


def test_classes_are_counted(posts):
    module = relation_data(train=posts([0, 0, 0, 1, 2, 2, None, -1]))
    assert module.classes == {"relation": 3} and module.label_counts == {"relation": [3, 1, 2]}
    assert trained_labels(module) == {0: 3, 1: 1, 2: 2, -1: 2}


def test_train_on_english_test_on_latvian(posts, capfd):
    shards = posts([0, 1, 0, 1])
    module = relation_data(train=shards, val=shards, train_languages=["en"], val_languages=["lv"])
    assert module.languages == ["en", "lv"]
    (train,), (val,) = list(module.train_dataloader()), list(module.val_dataloader())
    assert set(train.languages.flatten().tolist()) == {0} and set(val.languages.flatten().tolist()) == {1}
    assert val.captions[0] == ["skaitlis 0"]


def test_a_language_may_wait_for_the_test_split(posts, listed_shards):
    english = listed_shards(4, captions=[{"en": "one"}] * 4)
    shards = posts([0, 1, 0, 1])
    module = relation_data(train=english, test=shards, train_languages=["en"], test_languages=["lv"])
    assert module.languages == ["en", "lv"]
    module.setup("test")
    assert {index for batch in module.test_dataloader() for index in batch.languages.flatten().tolist()} == {1}


def test_translate_train_reads_the_translations(posts):
    module = relation_data(train=posts([0, 1, 0, 1]), train_languages=["lv"])
    (batch,) = module.train_dataloader()
    assert all(caption.startswith("skaitlis") for captions in batch.captions for caption in captions)


def test_weights_and_languages_go_together(posts):
    first, second = posts([0, 1, 0, 1], "first"), posts([1, 1, 0, 0], "second")
    module = relation_data(train=f"0.75@{first}::0.25@{second}", train_languages=["en"])
    sources = Counter(source for batch in module.train_dataloader() for source in batch.sources.tolist())
    assert sources == {0: 6, 1: 2}


def test_few_examples_of_each_class_follow_the_seed(posts):
    shards = posts([0] * 10 + [1] * 6 + [None] * 4)
    chosen = []
    for seed in (0, 0, 1):
        module = relation_data(train=shards, examples_per_class=2, seed=seed)
        assert module.label_counts == {"relation": [2, 2]}
        chosen.append(sorted(name for batch in module.train_dataloader() for name in batch.ids))
    assert chosen[0] == chosen[1] != chosen[2] and len(chosen[0]) == 4


def test_balanced_sampling_draws_classes_alike(posts):
    module = relation_data(train=posts([0] * 14 + [1] * 2), sampling="balanced")
    assert trained_labels(module) == {0: 8, 1: 8}


@pytest.mark.parametrize("sampling", ["as_written", "balanced"])
@pytest.mark.parametrize("examples", [None, 2])
def test_a_source_without_labels_stays_beside_the_chosen_examples(posts, sampling, examples):
    """Two of three samples of a step, whichever labelled ones are drawn; no part of the counts that weigh classes."""
    labelled = Source(str(posts([0] * 6 + [1] * 2, "labelled")), objectives=["task/relation"])
    bare = Source(str(posts([None] * 10, "bare")), weight=2, objectives=["itc"])
    options = {"sampling": sampling, "examples_per_class": examples, "batch_size": 12, "train_languages": ["en"]}
    module = relation_data(train=[bare, labelled], epoch_samples=24, **options)
    assert module.label_counts == {"relation": [6, 2] if examples is None else [2, 2]}
    found = trained_labels(module)
    assert found[-1] == 16 and found[0] == (6 if sampling == "as_written" and examples is None else 4)
    counts = module.count_for(["itc", "task/relation"])
    assert [a != b for a, b in zip(counts["itc"], counts["task/relation"], strict=True)]
    assert len(counts["itc"]) == (3 if sampling == "balanced" else 2) and sum(counts["itc"]) == 1


def test_sources_of_all_samples_alike(posts):
    sources = [Source(str(posts([0] * 6 + [1] * 2, "labelled"))), Source(str(posts([None] * 8, "bare")))]
    found = trained_labels(relation_data(train=sources, sampling="balanced"))
    assert found == {0: 4, 1: 4, -1: 8}


def test_labels_in_words_keep_their_order(posts):
    shards = posts(["sad", "glad", "sad", "glad"])
    assert relation_data(train=shards).class_names("relation") == ["glad", "sad"]
    module = relation_data(train=shards, label_names={"relation": ["sad", "glad", "neither"]})
    assert module.classes == {"relation": 3} and module.label_counts == {"relation": [2, 2, 0]}


@pytest.mark.parametrize(
    ("train", "options", "message"),
    [
        ([0, 1, 7, 1], {"classes": {"relation": 4}}, "data.train: task relation holds the label 7; 0 to 3"),
        ([0, -3, 1, 1], {}, "data.train: task relation holds the label -3; 0 to 1, or -1"),
        ([0, 1, 1, 1], {"examples_per_class": 2}, "examples_per_class: 2, but class 0 of task relation has 1"),
        ([0, 1, 0, 1], {"task": "mood", "sampling": "balanced"}, "data.task: nobody labelled 'mood'; labelled are rel"),
        ([0, 1, 0, 1], {"classes": {"mood": 2}}, "data.classes: nobody labelled 'mood'"),
        ([0, 1, 0, 1], {"train_languages": ["fi"]}, "no caption is in 'fi'"),
        ([0, 1, 0, 1], {"languages": ["en"], "val_languages": ["lv"]}, "data.val_languages: 'lv' is not in"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_line(train, options, message, posts):
    with pytest.raises(ValueError, match=message) as error:
        relation_data(train=posts(train), **options)
    assert "\n" not in str(error.value)


def test_a_label_that_only_validation_has_is_refused(posts):
    with pytest.raises(ValueError, match="data.val: task relation holds the label 2; 0 to 1"):
        relation_data(train=posts([0, 1, 0, 1], "train"), val=posts([0, 2], "val"))


def test_manifests_are_packed_once_and_divided_by_split(tmp_path):
    rows = ["file,english,latviski,split,relation"]
    for number in range(8):
        (tmp_path / f"{number}.png").write_bytes(png_bytes(number))
        rows.append(f"{number}.png,word {number},vārds {number},{'val' if number % 4 == 3 else 'train'},{number % 2}")
    (tmp_path / "posts.csv").write_text("\n".join(rows), encoding="utf-8")
    manifest = Manifest(captions={"en": "english", "lv": "latviski"}, labels={"relation": "relation"}, image="file")
    named = {"train": tmp_path / "posts.csv", "val": tmp_path / "posts.csv", "manifest": manifest, "batch_size": 2}
    module = relation_data(**named, cache_dir=str(tmp_path / "cache"))
    assert module.label_counts == {"relation": [4, 2]} and module.languages == ["en", "lv"]
    assert sum(len(batch) for batch in module.val_dataloader()) == 2
    packed = sorted((tmp_path / "cache" / "manifests").rglob("*.tar"))
    before = [path.stat().st_mtime_ns for path in packed]
    relation_data(**named, cache_dir=str(tmp_path / "cache"))
    assert [path.stat().st_mtime_ns for path in packed] == before and len(packed) == 2


def test_json_lines_need_no_columns(tmp_path):
    (tmp_path / "0.png").write_bytes(png_bytes(0))
    row = {"id": "a", "image": "0.png", "captions": {"en": "one"}, "labels": {"mood": "glad"}}
    (tmp_path / "posts.jsonl").write_text(json.dumps(row), encoding="utf-8")
    module = relation_data("test", test=tmp_path / "posts.jsonl", cache_dir=str(tmp_path / "cache"))
    assert module.classes == {"mood": 1}
    source = Source(str(tmp_path / "posts.jsonl"), languages=["en"])
    module = relation_data(train=[source, source], batch_size=2, cache_dir=str(tmp_path / "cache"))
    assert module.label_counts == {"mood": [2]} and module.languages == ["en"]
    with pytest.raises(ValueError, match="data.test: .*none.csv is no file"):
        relation_data("test", test=tmp_path / "none.csv")
