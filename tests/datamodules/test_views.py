"""A sample several times in a batch: crops and captions of its own each time, counted once."""

import random
from collections import Counter

import pytest
import torch
from test_images import encoded, photo
from tiny_shards import sample_files

from datamodules import ImagePipeline, InOrder, Pivot, ShardDataModule, Weighted

CAPTIONS = {"de": "eins", "en": "one", "fr": "un", "lv": "viens", "zh": ["一", "壹"]}


def views_of(batch, name):
    """The slots of each view of a sample, the empty ones left out."""
    rows = [row for row, other in enumerate(batch.ids) if other == name]
    return [[text for text in batch.captions[row] if text] for row in rows]


@pytest.fixture
def folder(plain_shards):
    return plain_shards([[sample_files(n, CAPTIONS) for n in range(12)]])


def test_each_sample_comes_v_times_in_turn_and_counts_once(folder, data):
    module = data(train=folder, views_per_image=3, captions_per_image=2)
    batches = list(module.train_dataloader())
    for batch in batches:
        module.trained(batch)
        assert (len(batch), batch.samples, batch.views) == (12, 4, 3)
        assert batch.ids == [name for name in batch.ids[::3] for _ in range(3)]
        for same in (batch.image_ids, batch.rows):
            assert (same.view(4, 3) == same.view(4, 3)[:, :1]).all() and len(same.unique()) == 4
    assert module.position == module.epoch_length == 12
    assert len({name for batch in batches for name in batch.ids}) == 12
    summary = module.account.summary()
    assert summary["tried"] == summary["drawn"]["plain"]["samples"] == 12
    assert sum(summary["drawn"]["plain"]["captions"].values()) == 12 * 3 * 2


def test_the_first_view_is_the_one_without_others_and_each_has_a_crop_of_its_own(folder, data):
    one = next(iter(data(train=folder, captions_per_image=2).train_dataloader()))
    batch = next(iter(data(train=folder, captions_per_image=2, views_per_image=2).train_dataloader()))
    assert torch.equal(batch.images[::2], one.images) and batch.captions[::2] == one.captions
    assert all(not torch.equal(*pair) for pair in batch.images.split(2))


@pytest.mark.parametrize(("K", "views"), [(1, 4), (2, 2), (2, 3), (1, 6)])
def test_views_differ_in_their_captions_where_there_are_enough(folder, data, K, views):
    # two of the six captions are Chinese, which no view brings twice
    for batch in data(train=folder, captions_per_image=K, views_per_image=views).train_dataloader():
        for name in batch.ids[::views]:
            texts = [text for view in views_of(batch, name) for text in view]
            assert len(texts) == K * views and len(set(texts)) >= min(K * views, 5)
            assert all(len(set(view)) == K for view in views_of(batch, name))


def test_captions_that_are_too_few_come_again(folder, data):
    batch = next(iter(data(train=folder, captions_per_image=3, views_per_image=4).train_dataloader()))
    for name in batch.ids[::4]:
        drawn = Counter(text for view in views_of(batch, name) for text in view)
        assert sum(drawn.values()) == 12 and len(drawn) >= 5
    by_text = {
        text: number
        for row in range(16)
        for text, number in zip(batch.captions[row], batch.text_ids[row].tolist(), strict=True)
    }
    assert len(set(by_text.values())) == len(by_text)  # one id a text, whichever view has it
    batch = next(iter(data(train=folder, captions_per_image="all", views_per_image=2).train_dataloader()))
    assert batch.captions[0][:4] == batch.captions[1][:4] and batch.captions[0][4] != batch.captions[1][4]


@pytest.mark.parametrize(
    ("drawing", "views"),
    [
        (Pivot("en"), lambda first, second: first[0] == second[0] == "one" and first[1] != second[1]),
        (InOrder(), lambda first, second: (first, second) == (["eins", "one"], ["un", "viens"])),
        (
            Weighted({"fr": 0, "zh": 0}),
            lambda *views: not {"un", "一", "壹"} & {text for view in views for text in view},
        ),
    ],
    ids=["pivot", "in order", "weighted"],
)
def test_every_view_follows_the_rule(folder, data, drawing, views):
    for batch in data(train=folder, captions_per_image=2, views_per_image=2, drawing=drawing).train_dataloader():
        assert all(views(*views_of(batch, name)) for name in batch.ids[::2])


def test_every_view_brings_the_language_that_its_sample_is_drawn_for(plain_shards, data):
    folder = plain_shards(
        [[sample_files(n, {"en": "one", "lv": "viens"} if n % 2 else {"en": "one"}) for n in range(16)]]
    )
    shares = Counter()
    for batch in data(train=folder, views_per_image=2, language_alpha=0.0).train_dataloader():
        assert all(first == second for first, second in batch.languages.view(-1, 2).tolist())
        shares.update(batch.languages[:, 0].tolist())
    assert shares[0] == shares[1]


def test_a_broken_sample_is_replaced_in_all_its_views(plain_shards, data):
    folder = plain_shards([[sample_files(n) | ({"png": b"no picture"} if n == 3 else {}) for n in range(8)]])
    module = data(train=folder, views_per_image=2, max_skip_rate=1.0)
    for batch in module.train_dataloader():
        module.trained(batch)
        assert len(batch) == 8 and "s003" not in batch.ids and batch.ids[::2] == batch.ids[1::2]
    summary = module.account.summary()
    assert summary["skipped"] and summary["tried"] == 8 + summary["skipped"]


def test_evaluation_has_one_view(folder, data):
    batches = list(data(train=folder, val=folder, views_per_image=3).val_dataloader())
    assert [len(batch) for batch in batches] == [4, 4, 4] and batches[0].views == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_resuming_in_mid_epoch_and_two_ranks_give_the_same_rows(folder, data, workers, monkeypatch):
    def read(rank, world, state=None, batches=3):
        monkeypatch.setattr(ShardDataModule, "_rank_and_world", lambda self: (rank, world))
        module = data(train=folder, workers=workers, batch_size=4 // world, captions_per_image=2, views_per_image=2)
        if state is not None:
            module.load_state_dict(state)
        rows = []
        for batch in module.train_dataloader():
            module.trained(batch)
            rows.append([*zip(batch.ids, batch.captions, batch.images.flatten(1).tolist(), strict=True)])
            if len(rows) == batches:
                break
        return rows, module.state_dict()

    whole, _ = read(0, 1)
    first, state = read(0, 1, batches=1)
    assert first + read(0, 1, state)[0] == whole
    parts = [read(rank, 2, state)[0] for rank in (0, 1)]
    assert first + [left + right for left, right in zip(*parts, strict=True)] == whole


def test_a_jpeg_is_decoded_once_as_small_as_all_its_views_allow(monkeypatch):
    pipeline, decoded = ImagePipeline(size=64, scale=(0.3, 1.0)), []
    monkeypatch.setattr("datamodules.images.opaque", lambda image: decoded.append(image.size) or image.convert("RGB"))
    both = [
        pipeline.views(pipeline.open(encoded(photo(), kind)), [random.Random(seed) for seed in range(6)])
        for kind in ("JPEG", "PNG")
    ]
    assert decoded == [(160, 120), (640, 480)]
    for view, full in zip(*both, strict=True):
        assert (view.float() - full.float()).abs().mean() < 4


def test_less_than_one_view_is_one_line(folder, data):
    with pytest.raises(ValueError, match="^data.views_per_image: 0 is too small; at least 1$"):
        data(train=folder, views_per_image=0)
