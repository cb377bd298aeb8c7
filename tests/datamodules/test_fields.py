"""Further inputs of a sample: texts of its record, features and pictures behind a name, crops of its own picture."""

import io
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_shards import png_bytes, sample_files

from datamodules import ByteTokenizer, Crops, Features, ImagePipeline, Pictures, ShardDataModule, Source, Texts
from datamodules.batch import text_id
from datamodules.reading.fields import field_of


def npy(values):
    content = io.BytesIO()
    np.save(content, np.asarray(values, np.float32))
    return content.getvalue()


class Module:
    """A training module that reads what it is told to."""

    lacking = frozenset()

    def __init__(self, *names):
        self.names = frozenset(names)

    def reads(self, part, brings):
        return self.names


class Trainer:
    """What a data module asks of a trainer before an epoch."""

    global_rank, world_size, limit_train_batches, overfit_batches = 0, 1, 1.0, 0.0

    def __init__(self, *names):
        self.lightning_module = Module(*names)
        self.fit_loop = self
        self.restarting = False


@pytest.fixture
def reading():
    """reading([names], fields=..., train=...): a data module whose objectives read these."""

    def build(names, **options):
        places = {split: str(options[split]) for split in ("train", "val") if isinstance(options.get(split), Path)}
        options = {"batch_size": 4, "workers": 0, "images": ImagePipeline(size=8), **options, **places}
        module = ShardDataModule(tokenizer=ByteTokenizer(32), **options)
        module.trainer = Trainer(*names)
        module.setup("fit")
        return module

    return build


def sample(number, **more):
    record = {
        "id": f"s{number}",
        "captions": {"en": f"number {number}"},
        "negatives": {"en": [f"wrong {number} {i}" for i in range(3)], "lv": f"nepareizs {number}"},
        **more,
    }
    return {
        "png": png_bytes(number),
        "json": json.dumps(record).encode(),
        "audio.npy": npy(np.full((2, 3), number)),
        "photo1.png": png_bytes(100 + number),
        "photo.png": png_bytes(200 + number),
    }


FIELDS = {
    "negatives": Texts(count=2),
    "audio": Features(),
    "photo": Pictures(count=2),
    "view": Crops(count=3, images=ImagePipeline(size=4)),
}


def test_a_batch_holds_its_fields(reading, plain_shards):
    folder = plain_shards([[sample(n) for n in range(8)]])
    module = reading(["image", "texts", "fields"], train=folder, fields=FIELDS, languages=["en"])
    batch = next(iter(module.train_dataloader()))
    numbers = [int(name[1:]) for name in batch.ids]
    negatives, audio, photo, view = (batch.fields[name] for name in FIELDS)
    assert negatives.values.shape[:2] == (4, 2) and negatives.present.all()
    assert negatives.languages.eq(0).all()  # the Latvian one is not in use
    texts = {text_id(f"wrong {number} {i}"): number for number in range(8) for i in range(3)}
    assert [[texts[i] for i in row] for row in negatives.ids.tolist()] == [[number] * 2 for number in numbers]
    assert all(len(set(row)) == 2 for row in negatives.ids.tolist())
    assert audio.values.shape == (4, 1, 2, 3) and audio.values[:, 0, 0, 0].tolist() == numbers
    assert photo.values.shape == (4, 2, 3, 8, 8) and photo.values.dtype == torch.uint8
    pipeline = ImagePipeline(size=8)
    module_eval = reading(["image", "texts", "fields"], train=folder, val=folder, fields=FIELDS, languages=["en"])
    first = next(iter(module_eval.val_dataloader()))
    expected = pipeline.evaluate(pipeline.open(png_bytes(200)))
    assert torch.equal(first.fields["photo"].values[0, 0], expected)
    assert view.values.shape == (4, 3, 3, 4, 4)
    assert torch.equal(view.ids, batch.image_ids[:, None].expand(4, 3))


def test_evaluation_reads_the_first_ones_and_training_draws(reading, plain_shards):
    folder = plain_shards([[sample(n) for n in range(8)]])
    options = {"train": folder, "val": folder, "fields": {"negatives": Texts(count=1), "other": Texts("negatives")}}
    module = reading(["image", "texts", "fields"], languages=["en"], **options)
    evaluated = [batch.fields["other"].ids.flatten().tolist() for batch in module.val_dataloader()]
    assert sum(evaluated, []) == [text_id(f"wrong {n} 0") for n in range(8)]
    drawn = [i for batch in module.train_dataloader() for i in batch.fields["negatives"].ids.flatten().tolist()]
    assert len(set(drawn) - set(sum(evaluated, []))) > 0
    again = reading(["image", "texts", "fields"], languages=["en"], **options)
    assert drawn == [i for batch in again.train_dataloader() for i in batch.fields["negatives"].ids.flatten().tolist()]


def test_a_sample_that_lacks_a_field_is_left_out_or_absent(reading, plain_shards, caplog):
    samples = [sample(n) for n in range(8)]
    del samples[3]["audio.npy"]
    folder = plain_shards([samples])
    module = reading(["image", "texts", "audio"], train=folder, fields={"audio": Features()})
    assert module.samples("train") == 7 and module.account.tried == 0
    lax = reading(["image", "texts", "audio"], train=folder, fields={"audio": Features(required=False)}, batch_size=8)
    batch = next(iter(lax.train_dataloader()))
    absent = batch.ids.index("s3")
    assert batch.fields["audio"].present[:, 0].tolist() == [name != "s3" for name in batch.ids]
    assert not batch.fields["audio"].values[absent].any() and batch.fields["audio"].ids[absent, 0] == -1


def test_texts_may_have_any_key(reading, plain_shards):
    samples = [sample(n, near={"en": [f"near {n}"]}) for n in range(8)]
    samples[3] = sample(3)
    folder = plain_shards([samples])
    module = reading(["image", "texts", "wrong"], train=folder, fields={"wrong": Texts("near")}, max_skip_rate=1)
    batches = list(module.train_dataloader())
    ids = {name: batch.fields["wrong"].ids[i, 0] for batch in batches for i, name in enumerate(batch.ids)}
    assert ids == {f"s{n}": text_id(f"near {n}") for n in range(8) if n != 3}
    lax = reading(["image", "texts"], train=folder, fields={"wrong": Texts("near", required=False)}, batch_size=8)
    assert (~next(iter(lax.train_dataloader())).fields["wrong"].present).sum() == 1


def test_features_of_another_size_are_counted(reading, plain_shards):
    samples = [sample(n) for n in range(12)]
    samples[5]["audio.npy"] = npy(np.zeros((2, 4)))
    module = reading(
        ["image", "texts", "audio"], train=plain_shards([samples]), fields={"audio": Features()}, max_skip_rate=1.0
    )
    skipped = [skip for batch in module.train_dataloader() for skip in batch.skipped]
    assert {(skip.cause, skip.key) for skip in skipped} == {("features of another size", "0005")}


def test_pairs_are_read_without_pictures_or_captions(reading, plain_shards):
    pairs = [
        {
            "json": json.dumps(
                {
                    "id": f"p{n}",
                    "query": {"en": f"q {n}", "lv": f"j {n}"},
                    "positive": f"p {n}",
                    "language": "de",
                    "score": n / 8,
                }
            ).encode()
        }
        for n in range(8)
    ]
    module = reading(["query", "positive", "score"], train=plain_shards([pairs]))
    assert module.languages == ["de", "en", "lv"]
    batch = next(iter(module.train_dataloader()))
    assert batch.images is None and batch.present.shape == (4, 0) and batch.samples == 4
    numbers = [int(name[1:]) for name in batch.ids]
    assert batch.fields["positive"].ids[:, 0].tolist() == [text_id(f"p {n}") for n in numbers]
    assert batch.fields["positive"].languages.eq(0).all() and batch.fields["query"].languages.ge(1).all()
    assert batch.scores["score"].tolist() == [n / 8 for n in numbers]


def test_scores_follow_the_negatives_that_are_drawn(reading, plain_shards):
    pairs = [
        {
            "json": json.dumps(
                {
                    "query": f"q {n}",
                    "positive": f"p {n}",
                    "negatives": [f"n {n} {i}" for i in range(5)],
                    "scores": [9.0, *map(float, range(5))],
                }
            ).encode()
        }
        for n in range(8)
    ]
    fields = {"negatives": Texts(count=2)}
    module = reading(["query", "positive", "negatives", "scores"], train=plain_shards([pairs]), fields=fields)
    place = {text_id(f"n {n} {i}"): float(i) for n in range(8) for i in range(5)}
    for batch in module.train_dataloader():
        drawn = [[9.0, *(place[i] for i in row)] for row in batch.fields["negatives"].ids.tolist()]
        assert batch.scores["scores"].tolist() == drawn


def test_a_prefix_is_read_and_is_no_part_of_the_id(reading, plain_shards):
    pairs = [{"json": json.dumps({"query": f"q {n}", "positive": f"p {n}"}).encode()} for n in range(4)]
    fields = {"query": Texts(prefix="query: ")}
    module = reading(["query", "positive"], train=plain_shards([pairs]), fields=fields)
    query = next(iter(module.train_dataloader())).fields["query"]
    ids, _ = ByteTokenizer(32)(["query: q 0"], ["und"])
    assert query.values.shape[2] == ids.shape[1] and query.ids[:, 0].max() == max(text_id(f"q {n}") for n in range(4))


def test_views_of_a_sample_draw_fields_of_their_own(reading, plain_shards):
    folder = plain_shards([[sample(n) for n in range(8)]])
    module = reading(["image", "texts", "negatives"], train=folder, fields={"negatives": Texts()}, views_per_image=3)
    batch = next(iter(module.train_dataloader()))
    rows = batch.fields["negatives"].ids.view(4, 3)
    assert any(len(set(row)) > 1 for row in rows.tolist())


def test_no_value_at_all_still_makes_a_field():
    field = field_of(Texts(count=2), [[], []], (), ByteTokenizer(8), {"en": 0})
    assert field.values.shape[:2] == (2, 2) and not field.present.any() and (field.languages == -1).all()


@pytest.mark.parametrize("reader", [Texts, Pictures, Crops])
def test_no_value_is_too_few(reader):
    with pytest.raises(ValueError, match="count 0 is too small; at least 1"):
        reader(count=0)


def test_crops_need_a_picture(reading, plain_shards):
    samples = [{"npy": npy(np.ones(5)), "json": sample(n)["json"]} for n in range(8)]
    with pytest.raises(ValueError, match="missing image"):
        module = reading(["image", "texts", "view"], train=plain_shards([samples]), fields={"view": Crops()})
        list(module.train_dataloader())


def test_the_own_picture_may_be_tokens(data, plain_shards):
    samples = [{"npy": npy(np.full((4, 3), n)), "json": sample_files(n)["json"]} for n in range(8)]
    batch = next(iter(data(train=plain_shards([samples])).train_dataloader()))
    assert batch.images.shape == (4, 4, 3) and batch.images[:, 0, 0].tolist() == [int(i[1:]) for i in batch.ids]


def test_a_source_reads_its_own_languages(reading, plain_shards):
    folders = [plain_shards([[sample(n) for n in range(8)]], name) for name in ("english", "all")]
    train = [Source(str(folders[0]), languages=["en"]), Source(str(folders[1]))]
    module = reading(["image", "texts", "negatives"], train=train, fields={"negatives": Texts(count=4)}, batch_size=16)
    batch = next(iter(module.train_dataloader()))
    assert [3 + source for source in batch.sources.tolist()] == batch.fields["negatives"].present.sum(1).tolist()


def test_reading_draws_from_the_rng_alone():
    class Read:
        record = {"negatives": [f"n {i}" for i in range(9)]}

    draws = {
        tuple(each.id for each in Texts("negatives", 3).read(Read, ["und"], None, random.Random(seed)))
        for seed in (1, 1, 2)
    }
    assert len(draws) == 2


def test_an_optional_field_may_begin_late(reading, plain_shards):
    samples = [sample(n) for n in range(12)]
    for each in samples[:8]:
        del each["audio.npy"]
    fields = {"audio": Features(required=False)}
    module = reading(["image", "texts", "audio"], train=plain_shards([samples]), fields=fields, batch_size=12)
    (batch,) = module.train_dataloader()
    assert batch.fields["audio"].values.shape == (12, 1, 2, 3) and batch.fields["audio"].present.sum() == 4
    assert not batch.skipped


def test_a_field_that_nobody_has_is_one_line(reading, plain_shards):
    with pytest.raises(ValueError, match="data.fields: no sample holds 'video'; leave the field out, or pack it"):
        reading(
            ["image", "texts", "video"],
            train=plain_shards([[sample(n) for n in range(8)]]),
            fields={"video": Features(required=False)},
        )


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"audio": Features("texts")}, "data.fields.audio: its key texts stands for"),
        ({"photo": Pictures("image")}, "data.fields.photo: its key image"),
        ({"query": Features()}, "data.fields.query: its key query"),
        ({"hint": Texts("labels")}, "data.fields.hint: its key labels"),
        ({"texts": Texts("hint")}, "data.fields.texts: its name stands for what samples have beside fields; another"),
    ],
)
def test_a_field_cannot_be_called_like_what_samples_have(reading, plain_shards, fields, says):
    with pytest.raises(ValueError, match=says):
        reading(["image", "texts"], train=plain_shards([[sample_files(n) for n in range(4)]]), fields=fields)


def test_a_file_named_like_captions_is_no_caption(reading, plain_shards):
    odd = {**sample_files(9), "json": json.dumps({"id": "odd"}).encode(), "texts.npy": npy([1.0])}
    folder = plain_shards([[*(sample_files(n) for n in range(4)), odd]])
    assert reading(["image", "texts"], train=folder).samples("train") == 4


def test_validation_does_not_need_negatives(reading, plain_shards):
    folder = plain_shards([[sample(n) for n in range(8)]])
    bare = plain_shards([[sample_files(n) for n in range(6)]], "bare")
    fields = {"negatives": Texts(count=2)}
    module = reading(["image", "texts", "negatives"], train=folder, val=bare, fields=fields)
    rows = [row for batch in module.val_dataloader() for row in batch.rows.tolist()]
    assert sorted(row for row in rows if row >= 0) == list(range(6))
