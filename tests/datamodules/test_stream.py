"""Batches are the same whatever reads them, and a run resumes at exactly the next sample."""

import io
import json

import numpy as np
import pytest
import torch
from tiny_shards import made, sample_files

from datamodules import ShardDataModule
from datamodules.reading.loaders import EvaluationBatches, TrainingBatches
from datamodules.reading.part_streams import PartStream
from datamodules.shards.writing import write_shards


def flat(batches):
    return [name for batch in batches for name in batch]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stream") / "shards"
    tasks = [{"first": a, "end": b, "captions": []} for a, b in [(0, 10), (10, 13), (13, 30), (30, 42)]]
    write_shards(folder, tasks, made)
    return folder


def test_every_sample_of_an_epoch_is_read_once_and_the_tail_is_carried(folder, data, epoch):
    module = data(train=folder, batch_size=8)
    first, second = epoch(module), epoch(module)
    assert (len(first), len(second)) == (5, 5)  # 42 samples: 40, then 2 carried + 38
    assert len(set(flat(first))) == 40
    ids = flat(first) + flat(second) + flat(epoch(module))
    assert len(set(ids[:42])) == len(set(ids[42:84])) == 42
    assert module.position == len(ids)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_the_number_of_readers_changes_nothing_and_resuming_goes_on_exactly(folder, data, epoch, workers):
    whole = data(train=folder, shuffle_window=15)
    expected = epoch(whole) + epoch(whole)
    module = data(train=folder, shuffle_window=15, workers=workers)
    done = epoch(module, batches=4)
    state = module.state_dict()
    resumed = data(train=folder, shuffle_window=15, workers=workers)
    resumed.load_state_dict(state)
    assert len(resumed.train_dataloader()) == 10
    assert done + epoch(resumed) + epoch(resumed) == expected


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_two_ranks_resume_in_mid_epoch_at_exactly_the_next_sample(folder, data, epoch, workers, monkeypatch):
    one = data(train=folder, batch_size=8)
    expected = epoch(one) + epoch(one)

    def train(rank, state=None, batches=None):
        monkeypatch.setattr(ShardDataModule, "_rank_and_world", lambda self: (rank, 2))
        module = data(train=folder, batch_size=4, workers=workers)
        if state is not None:
            module.load_state_dict(state)
            return epoch(module) + epoch(module), None
        return epoch(module, batches), module.state_dict()

    begun = [train(rank, batches=3) for rank in range(2)]
    rest = [train(rank, state=begun[0][1]) for rank in range(2)]
    ranks = [done + more for (done, _), (more, _) in zip(begun, rest, strict=True)]
    assert [ours + theirs for ours, theirs in zip(*ranks, strict=True)] == expected


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_each_global_batch(folder, data, world):
    one = data(train=folder, batch_size=4 * world)
    batches = one.train_dataloader().batch_sampler
    (part,), cursor = batches._parts, batches._cursor
    cursor.position = 4 * world
    whole = [[draw.position for draw in batch] for batch in TrainingBatches([part], cursor, 42)]
    share = PartStream(part.stream, 4)
    ranks = [list(TrainingBatches([share], cursor, 42, rank, world)) for rank in range(world)]
    assert len({len(batches) for batches in ranks}) == 1
    for step, batch in enumerate(whole):
        assert [draw.position for batches in ranks for draw in batches[step]] == batch
    dataset = one.train_dataloader().dataset
    ours = dataset.__getitems__([draw for batches in ranks for draw in batches[0]])
    theirs = next(iter(one.train_dataloader()))
    assert ours.ids == theirs.ids and torch.equal(ours.images, theirs.images) and ours.captions == theirs.captions
    assert ours.end == theirs.end


def test_augmentation_and_captions_are_the_same_in_any_reader(folder, data):
    batches = [next(iter(data(train=folder, workers=workers).train_dataloader())) for workers in (0, 1)]
    assert torch.equal(batches[0].images, batches[1].images)
    assert torch.equal(batches[0].tokens, batches[1].tokens)


def test_the_cursor_is_behind_what_was_trained_not_what_was_read(folder, data):
    module = data(train=folder, workers=1)
    batches = iter(module.train_dataloader())
    next(batches)
    module.trained(next(batches))
    next(batches)
    assert module.position == 8
    assert next(iter(module.train_dataloader())).end == 12


def test_the_state_is_plain_data(folder, data, epoch, tmp_path):
    module = data(train=folder)
    epoch(module, batches=2)
    torch.save(module.state_dict(), tmp_path / "state")
    assert torch.load(tmp_path / "state", weights_only=True) == module.state_dict()


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"shuffle_window": 9}, {"languages": ["xx"]}, {"train": "one"}], ids=lambda c: next(iter(c))
)
def test_a_cursor_of_other_data_is_refused(folder, data, epoch, change, listed_shards):
    captions = [{"en": "a", "xx": "b"} if n % 2 else {"en": "a"} for n in range(42)]
    other = listed_shards(42, 10, captions)
    module = data(train=other)
    epoch(module, batches=2)
    options = {"train": other, **change}
    if change.get("train"):
        options["train"] = folder
    resumed = data(**options)
    with pytest.raises(ValueError, match="belongs to other data") as error:
        resumed.load_state_dict(module.state_dict())
    assert "\n" not in str(error.value)


def test_a_virtual_epoch_goes_through_the_same_stream(folder, data, epoch):
    passes = data(train=folder, batch_size=6)
    short = data(train=folder, batch_size=6, epoch_samples=14)
    assert [len(epoch(short)) for _ in range(3)] == [2, 2, 3]
    assert short.position == 42
    assert epoch(data(train=folder, batch_size=6, epoch_samples=42)) == epoch(passes)


def test_a_weighted_mixture_draws_samples_not_shards(data, listed_shards, epoch):
    big, small = listed_shards(60, 20, name="big"), listed_shards(8, 1, name="small")
    module = data(train=f"0.75@{big}::0.25@{small}", batch_size=8, epoch_samples=800)
    rows = torch.cat([batch.rows for batch in module.train_dataloader()])
    assert int((rows >= 60).sum()) == 200
    assert torch.bincount(rows, minlength=68)[60:].tolist() == [25] * 8


def test_evaluation_reads_every_sample_once_over_ranks_and_pads_the_rest(folder, data):
    module = data("test", test=folder, workers=0)
    dataset = module.test_dataloader().dataset
    ranks = [
        [dataset.__getitems__(draws) for draws in EvaluationBatches(dataset, 4, rank, world=4)] for rank in range(4)
    ]
    assert {len(batches) for batches in ranks} == {3}
    rows = torch.cat([batch.rows for batches in ranks for batch in batches])
    assert sorted(rows[rows >= 0].tolist()) == list(range(42))
    assert int((rows < 0).sum()) == 2
    padding = ranks[3][-1]
    assert padding.ids[-1] == "" and not padding.present[-1].any() and not padding.token_mask[-1].any()


def test_evaluation_takes_all_captions_of_the_chosen_languages_in_order(data, plain_shards):
    folder = plain_shards([[sample_files(0, {"en": ["a", "b"], "lv": "c", "de": "d"}), sample_files(1, {"lv": "e"})]])
    (batch,) = data("validate", val=folder, languages=["lv", "en"]).val_dataloader()
    assert batch.captions == [["c", "a", "b"], ["e", "", ""]]
    assert batch.languages.tolist() == [[0, 1, 1], [0, -1, -1]]
    assert batch.present.tolist() == [[True, True, True], [True, False, False]]


def test_features_travel_as_float32(data, plain_shards):
    def files(number, dtype):
        encoded = io.BytesIO()
        np.save(encoded, np.full(5, number, dtype))
        return {"npy": encoded.getvalue(), "json": json.dumps({"id": str(number), "captions": {"en": "x"}}).encode()}

    folder = plain_shards([[files(n, np.float16 if n % 2 else np.float32) for n in range(9)]])
    module = data(train=folder, val=folder)
    batch = next(iter(module.train_dataloader()))
    assert batch.images.dtype == torch.float32 and batch.images.shape == (4, 5)
    assert batch.images[:, 0].tolist() == [float(name) for name in batch.ids]
    assert [len(batch.rows) for batch in module.val_dataloader()] == [4, 4, 1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"batch_size": 43}, "42 samples do not fill one global batch of 43 x 1; lower data.batch_size to at most 42"),
        ({"epoch_samples": 3}, "data.epoch_samples: 3 samples"),
        ({"languages": ["xx"]}, "no caption is in 'xx'; the shards have en, lv"),
        ({"languages": []}, "languages"),
        ({"captions_per_image": 0}, "captions_per_image: 0"),
        ({"max_skip_rate": 2.0}, "max_skip_rate: 2.0"),
    ],
)
def test_settings_that_cannot_be_are_one_line(folder, data, options, said):
    with pytest.raises(ValueError) as error:
        data(train=folder, **options)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_samples_read_beside_a_batch_follow_from_its_place(folder, data):
    """By number, from lists; the same again; joined, tokens are as long as the longest."""
    module = data(train=folder, batch_size=8, captions_per_image=2)
    first, second, *_ = module.train_dataloader()
    lists = [[5, 12, 41]] * 8
    others = module.read_beside(first, lists, 2)
    assert len(others) == 16 and set(others.rows.tolist()) == {5, 12, 41}
    assert all(len(set(pair)) == 2 for pair in others.rows.view(8, 2).tolist())
    again = module.read_beside(first, lists, 2)
    assert torch.equal(again.rows, others.rows) and again.captions == others.captions
    assert module.read_beside(second, lists, 2).rows.tolist() != others.rows.tolist()
    others.tokens, others.token_mask = others.tokens[..., :4], others.token_mask[..., :4]
    joined = first.joined(others)
    assert len(joined) == len(joined.images) == len(joined.captions) == 24 and joined.end == first.end
    assert torch.equal(joined.tokens[:8], first.tokens) and torch.equal(joined.tokens[8:, :, :4], others.tokens)
    assert not joined.token_mask[8:, :, 4:].any() and joined.drawn == first.drawn
    every = [row for batch in module.train_samples() for row in batch.rows.tolist() if row >= 0]
    assert every == list(range(42))
