"""Steps of several parts: one stream, one cursor, each part its own samples."""

import itertools
import json
import types

import pytest
from tiny_shards import sample_files

from datamodules import Batches, ByteTokenizer, ImagePipeline, InOrder, Part, ShardDataModule, Source, TextTransform


class Module:
    """A training module whose objectives read pictures with captions, and pairs of texts."""

    lacking = frozenset()

    def reads(self, part, brings):
        return brings & {"image", "texts", "query", "positive", "negatives"}


def trainer(rank=0, world=1):
    loop = types.SimpleNamespace(restarting=False)
    return types.SimpleNamespace(
        lightning_module=Module(),
        global_rank=rank,
        world_size=world,
        limit_train_batches=1.0,
        overfit_batches=0,
        fit_loop=loop,
    )


def pair(number, **more):
    record = {"id": f"p{number:03d}", "query": f"q {number}", "positive": f"p {number}", "language": "de", **more}
    return {"json": json.dumps(record).encode()}


@pytest.fixture
def folders(plain_shards):
    return {
        "pictures": str(plain_shards([[sample_files(n) for n in range(30)]], "pictures")),
        "pairs": str(plain_shards([[pair(n) for n in range(25)], [pair(n) for n in range(25, 50)]], "pairs")),
    }


def module(folders, rank=0, world=1, sizes=(2, 4), restored=None, **options):
    parts = {
        "pictures": Part(folders["pictures"], batch_size=sizes[0], captions_per_image=2),
        "pairs": Part(folders["pairs"], batch_size=sizes[1]),
    }
    for name, changed in options.pop("changed", {}).items():
        for option, value in changed.items():
            setattr(parts[name], option, value)
    data = ShardDataModule(parts=parts, workers=0, images=ImagePipeline(size=8), tokenizer=ByteTokenizer(32), **options)
    data.trainer = trainer(rank, world)
    if restored is not None:
        data.load_state_dict(restored)
    data.setup("fit")
    return data


def read(data, steps):
    """The ids of each part in so many steps, over epochs."""
    seen = []
    while len(seen) < steps:
        for batch in data.train_dataloader():
            data.trained(batch)
            seen.append({name: part.ids for name, part in batch.parts.items()})
            if len(seen) == steps:
                break
    return seen


def test_a_step_has_a_batch_of_each_part(folders):
    data = module(folders)
    batch = next(iter(data.train_dataloader()))
    assert isinstance(batch, Batches) and list(batch.parts) == ["pictures", "pairs"]
    pictures, pairs = batch.parts.values()
    assert pictures.images.shape == (2, 3, 8, 8) and pictures.present.shape == (2, 2) and not pictures.fields
    assert pairs.images is None and pairs.present.shape == (4, 0) and set(pairs.fields) == {"query", "positive"}
    assert batch.samples == 6 and len(batch) == 6 and batch.end == 6
    assert batch.sample_ids == pictures.ids + pairs.ids
    assert data.brings == {
        "pictures": frozenset({"image", "texts"}),
        "pairs": frozenset({"query", "positive"}),
    }
    assert data.kinds == {"image", "text"} and data.languages == ["de", "en", "lv"]


def test_each_part_is_read_pass_after_pass(folders):
    data = module(folders)
    assert data.epoch_length == 30 * 6 // 2  # one pass over the first part
    seen = read(data, 30)
    for name, size, total in (("pictures", 2, 30), ("pairs", 4, 50)):
        ids = list(itertools.chain.from_iterable(step[name] for step in seen))
        assert len(ids) == size * 30
        for start in range(0, len(ids) - total + 1, total):
            assert len(set(ids[start : start + total])) == total


def test_a_part_does_not_depend_on_the_others(folders):
    """So each part's order is that of its own stream, whatever the sizes of the rest."""
    ones, others = read(module(folders, sizes=(2, 4)), 12), read(module(folders, sizes=(2, 3)), 12)
    assert [step["pictures"] for step in ones] == [step["pictures"] for step in others]
    assert sum((step["pairs"] for step in ones), [])[:36] == sum((step["pairs"] for step in others), [])


@pytest.mark.parametrize("mixing", ["samples", "batches"])
@pytest.mark.parametrize("steps", [1, 7, 15, 20])
def test_a_resumed_run_goes_on_exactly(folders, steps, mixing):
    options = {"mixing": mixing, "changed": {"pairs": {"train": sources(folders)}}}
    whole = read(module(folders, **options), 35)
    first = module(folders, **options)
    begun = read(first, steps)
    resumed = module(folders, restored=first.state_dict(), **options)
    assert begun + read(resumed, 35 - steps) == whole


def sources(folders):
    return [
        Source(f"{folders['pairs']}/part-00.tar", weight=1.0, name="a"),
        Source(f"{folders['pairs']}/part-01.tar", weight=2.0, name="b"),
    ]


@pytest.mark.parametrize("mixing", ["samples", "batches"])
def test_two_processes_read_what_one_reads(folders, mixing):
    options = {"mixing": mixing, "changed": {"pairs": {"train": sources(folders)}}}
    whole = read(module(folders, sizes=(4, 6), **options), 6)
    halves = [read(module(folders, rank, 2, sizes=(2, 3), **options), 6) for rank in range(2)]
    for name in ("pictures", "pairs"):
        assert [a[name] + b[name] for a, b in zip(*halves, strict=True)] == [step[name] for step in whole]


@pytest.mark.parametrize("mixing", ["samples", "batches"])
def test_other_processes_and_sizes_lose_and_repeat_nothing(folders, mixing):
    """One, two and one process again, with other batches: each part goes on at its own place."""
    options = {"mixing": mixing, "changed": {"pairs": {"train": sources(folders)}}}
    first = module(folders, sizes=(2, 4), **options)
    seen = read(first, 3)
    halves = [module(folders, rank, 2, sizes=(1, 3), restored=first.state_dict(), **options) for rank in range(2)]
    both = [read(half, 4) for half in halves]
    seen += [{name: a[name] + b[name] for name in a} for a, b in zip(*both, strict=True)]
    last = module(folders, sizes=(3, 2), restored=halves[0].state_dict(), **options)
    seen += read(last, 3)
    pictures = sum((step["pictures"] for step in seen), [])
    assert len(pictures) == 6 + 8 + 9 and len(set(pictures)) == 23
    pairs = sum((step["pairs"] for step in seen), [])
    assert len(pairs) == 12 + 24 + 6
    by_source = {name: [each for each in pairs if (int(each[1:]) < 25) == (name == "a")] for name in "ab"}
    for ids in by_source.values():
        assert len(set(ids[:25])) == len(ids[:25])


def test_a_batch_of_one_source_at_a_time(folders):
    options = {"mixing": "batches", "changed": {"pairs": {"train": sources(folders)}}}
    kinds = []
    for step in read(module(folders, **options), 12):
        (kind,) = {int(name[1:]) < 25 for name in step["pairs"]}
        kinds.append(kind)
    assert kinds.count(True) == 4  # by weight


def test_a_batch_of_one_source_without_parts(folders, plain_shards):
    more = str(plain_shards([[sample_files(n) for n in range(30, 60)]], "more"))
    options = {"batch_size": 4, "workers": 0, "images": ImagePipeline(size=8), "mixing": "batches"}
    data = ShardDataModule(train=f"{folders['pictures']}::{more}", **options)
    with pytest.raises(ValueError, match="data.mixing: batches takes a source at a time, data.language_alpha"):
        ShardDataModule(train=folders["pictures"], language_alpha=0.5, **options).setup("fit")
    weighted = ShardDataModule(train=f"1@{folders['pictures']}::3@{more}", **options)
    weighted.setup("fit")
    steps = [{int(name[1:]) < 30 for name in batch.ids} for batch in weighted.train_dataloader()]
    assert all(len(kinds) == 1 for kinds in steps) and data.position == 0


def test_parts_have_options_of_their_own(folders, plain_shards):
    negatives = str(plain_shards([[pair(n, negatives=["x", "y", f"z {n}"]) for n in range(8)]], "negatives"))
    changed = {
        "pictures": {"images": ImagePipeline(size=16), "languages": ["lv"]},
        "pairs": {"train": negatives, "negatives": 2, "text_length": 5},
    }
    data = module(folders, changed=changed, val=folders["pictures"])
    pictures, pairs = next(iter(data.train_dataloader())).parts.values()
    assert pictures.images.shape[-1] == 16
    assert {language for row in pictures.languages.tolist() for language in row} == {-1, data.languages.index("lv")}
    assert pairs.fields["negatives"].values.shape == (4, 2, 5)
    lengths = {option: tokenizer.max_length for option, tokenizer in data.tokenizers.items()}
    assert lengths == {"data.tokenizer.max_length": 32, "data.parts.pairs.text_length": 5}
    assert next(iter(data.val_dataloader())).images.shape[-1] == 16  # validated as the first part with pictures


def test_captions_of_a_part_are_as_many_as_those_of_the_run(folders):
    changed = {"pictures": {"captions_per_image": None}}
    for count, slots in ((1, 1), (2, 2), ("all", 3)):
        data = module(folders, changed=changed, captions_per_image=count)
        assert next(iter(data.train_dataloader())).parts["pictures"].present.shape == (2, slots)
    with pytest.raises(ValueError, match="data.parts.pictures.captions_per_image: 0 is too small"):
        module(folders, changed=changed, captions_per_image=0)


def test_options_of_captions_that_change_nothing_are_said(folders, caplog):
    class Loud(TextTransform):
        def __call__(self, caption, language, rng):
            return caption.upper()

    caplog.set_level("INFO", "datamodules")
    module(folders)
    assert "no effect" not in caplog.text
    module(folders, language_alpha=0.5, text=Loud(), drawing=InOrder())
    (line,) = (message for message in caplog.messages if "no effect" in message)
    assert line.startswith("parts.pairs.train: ") and "; language_alpha, drawing, text have" in line


def test_a_part_is_validated_by_itself(folders):
    data = module(folders, val=folders["pictures"], changed={"pairs": {"val": folders["pairs"]}})
    pictures, pairs = data.val_dataloader()
    assert data.validated == ["", "pairs"]
    assert next(iter(pictures)).images is not None and set(next(iter(pairs)).fields) == {"query", "positive"}


def test_the_account_names_the_parts(folders):
    data = module(folders)
    read(data, 2)
    assert {name: counts["samples"] for name, counts in data.account.summary()["drawn"].items()} == {
        "pictures/pictures": 4,
        "pairs/pairs": 8,
    }
    assert data.position == 12


def test_the_state_belongs_to_the_data_of_all_parts(folders, plain_shards):
    state = module(folders).state_dict()
    other = str(plain_shards([[pair(n) for n in range(9)]], "other"))
    with pytest.raises(ValueError, match="belongs to other data .pairs: samples was 50, is 9"):
        module(folders, restored=state, changed={"pairs": {"train": other}})


@pytest.mark.parametrize(
    ("changed", "options", "says"),
    [
        ({"pairs": {"train": None}}, {}, "data.parts.pairs.train: no shards are named"),
        ({"pairs": {"batch_size": 0}}, {}, "data.parts.pairs.batch_size: 0 is too small; at least 1"),
        ({"pairs": {"negatives": -1}}, {}, "data.parts.pairs.negatives: -1 is too small; at least 0"),
        ({"pairs": {"batch_size": 64}}, {}, "data.parts.pairs.train: 50 samples do not fill one global batch of 64"),
        ({}, {"train": "x"}, "data.fields, data.views_per_image: with data.parts they are a part's .pictures, pairs."),
        ({}, {"views_per_image": 2}, "data.views_per_image: with data.parts they are a part's"),
        ({"pairs": {"text_length": 1}}, {}, "text_length: got 1; at least 3"),
        ({}, {"epoch_samples": 3}, "data.epoch_samples: 3 samples do not fill one global batch of 6"),
    ],
)
def test_parts_that_cannot_be_are_one_line(folders, changed, options, says):
    with pytest.raises(ValueError, match=says):
        module(folders, changed=changed, **options)


def test_sources_of_parts_name_no_objectives(folders):
    with pytest.raises(ValueError, match="source pairs names objectives; with data.parts, model.on does"):
        module(folders, changed={"pairs": {"train": [Source(folders["pairs"], objectives=["x"])]}})


def test_readers_give_what_one_process_reads(folders):
    alone = read(module(folders), 8)
    data = module(folders)
    data._workers = 2
    assert read(data, 8) == alone
    data.teardown("fit")


def test_validation_is_in_all_languages_of_the_run(folders):
    data = module(folders, val=folders["pictures"], changed={"pictures": {"languages": ["en"]}}, languages=LANGUAGES)
    batch = next(iter(data.val_dataloader()))
    assert set(batch.languages.flatten().tolist()) == {data.languages.index("en"), data.languages.index("lv")}


LANGUAGES = ["de", "en", "lv"]


def test_languages_of_a_part_hold_for_each_of_its_sources(folders):
    changed = {"pictures": {"train": [Source(folders["pictures"])], "languages": ["lv"]}}
    (pictures, _) = next(
        iter(module(folders, changed=changed, languages=["de", "lv"]).train_dataloader())
    ).parts.values()
    assert set(pictures.languages.flatten().tolist()) == {-1, 1}


def test_negatives_that_nobody_reads_are_refused(folders, plain_shards):
    negatives = str(plain_shards([[pair(n, negatives=["x"]) for n in range(8)]], "negatives"))

    class Blind(Module):
        def reads(self, part, brings):
            return brings & {"image", "texts", "query", "positive"}

    data = ShardDataModule(parts={"pairs": Part(negatives, batch_size=4, negatives=1)}, workers=0)
    data.trainer = trainer()
    data.trainer.lightning_module = Blind()
    with pytest.raises(ValueError, match="data.parts.pairs.negatives: 1, but no objective reads negatives"):
        data.setup("fit")


def test_parts_in_another_order_are_other_data(folders):
    state = module(folders).state_dict()
    turned = ShardDataModule(
        parts={"pairs": Part(folders["pairs"], batch_size=4), "pictures": Part(folders["pictures"], batch_size=2)},
        workers=0,
        images=ImagePipeline(size=8),
    )
    turned.trainer = trainer()
    turned.load_state_dict(state)
    with pytest.raises(ValueError, match="other data .parts was pictures,pairs, is pairs,pictures"):
        turned.setup("fit")
