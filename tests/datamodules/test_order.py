"""The stream's order is arithmetic: any position at once, each sample once a pass."""

from itertools import pairwise

import pytest

from datamodules.stream.cursor import Cursor
from datamodules.stream.order import Interleave, PassOrder, batches_left

COUNTS = [5, 0, 7, 3, 10, 8]


def test_each_sample_comes_once_a_pass():
    order = PassOrder(COUNTS, seed=1, window=10)
    every = {(shard, sample) for shard, count in enumerate(COUNTS) for sample in range(count)}
    first, second = [order(p) for p in range(33)], [order(p) for p in range(33, 66)]
    assert set(first) == set(second) == every
    assert first != second


def test_a_position_does_not_depend_on_what_was_asked_before():
    straight = [PassOrder(COUNTS, seed=3, window=6)(p) for p in (0, 17, 40, 99, 1_000_000)]
    order = PassOrder(COUNTS, seed=3, window=6)
    assert [order(p) for p in (1_000_000, 99, 40, 17, 0)][::-1] == straight


def test_the_order_never_changes_between_versions():
    """A checkpoint of today must resume in the same order; these came from the first version."""
    assert [PassOrder([4, 4, 4], seed=0, window=4)(p) for p in range(6)] == [
        (1, 2),
        (1, 3),
        (1, 0),
        (1, 1),
        (0, 2),
        (0, 0),
    ]


def test_samples_are_mixed_within_windows_of_whole_shards():
    order = PassOrder([10] * 10, seed=0, window=25)
    windows = [{order(p)[0] for p in range(start, start + 30)} for start in (0, 30, 60)]
    assert [len(shards) for shards in windows] == [3, 3, 3]
    assert len(set.union(*windows)) == 9
    assert [order(p)[0] for p in range(30)] != sorted(order(p)[0] for p in range(30))


def test_seeds_and_sources_give_different_orders():
    orders = {
        tuple(PassOrder([50], s, 50, salt)(p)[1] for p in range(50)) for s, salt in [(0, 0), (1, 0), (0, 1), (2**40, 0)]
    }
    assert len(orders) == 4


@pytest.mark.parametrize("weights", [[0.7, 0.3], [1, 1, 1], [5, 2, 1, 0.5]])
def test_a_mixture_keeps_its_shares_in_any_stretch(weights):
    mix = Interleave(weights)
    drawn = [mix(p) for p in range(25_000)]
    for source, weight in enumerate(weights):
        share = weight / sum(weights)
        assert [place for s, place in drawn if s == source] == list(range(sum(s == source for s, _ in drawn)))
        for start in (0, 777, 14_000):
            count = sum(s == source for s, _ in drawn[start : start + 1000])
            assert abs(count - 1000 * share) <= 2


def test_a_mixture_of_more_sources_than_a_block_has_positions():
    mix = Interleave([1.0] * 10_001)
    drawn = [mix(p) for p in range(mix.block)]
    for source in (0, 5_000, 10_000):
        assert [place for s, place in drawn if s == source] == list(range(10))
    assert mix.places(mix.block).tolist() == [10] * 10_001


@pytest.mark.parametrize(("length", "group"), [(100, 8), (100, 100), (17, 16), (33, 4), (96, 8)])
def test_an_epochs_tail_is_carried_into_the_next(length, group):
    """Epoch e ends at the last whole batch before (e + 1) * length; nothing is dropped, nothing comes twice."""
    position, ends = 0, []
    for _ in range(20):
        position += batches_left(position, group, length) * group
        ends.append(position)
    assert all((e + 1) * length - group < end <= (e + 1) * length for e, end in enumerate(ends))
    assert {b - a for a, b in pairwise(ends)} <= {length // group * group, (length // group + 1) * group}


def trained(cursor, group, batches):
    cursor.position += group * batches


def test_the_length_is_that_of_the_whole_epoch_however_far_it_is():
    cursor = Cursor()
    assert cursor.batches(8, 100) == 12
    trained(cursor, 8, 5)
    assert cursor.batches(8, 100) == 12
    restored = Cursor()
    restored.load_state_dict(cursor.state_dict(8, 100))
    restored.begin_epoch(8, inside=True)
    assert restored.batches(8, 100) == 12
    trained(restored, 8, 7)
    restored.begin_epoch(8, inside=False)
    assert (restored.position, restored.batches(8, 100)) == (96, 13)  # 4 carried samples make it one longer


def test_another_global_batch_after_a_resume_counts_on_from_the_batches_done():
    cursor = Cursor()
    trained(cursor, 8, 5)
    restored = Cursor()
    restored.load_state_dict(cursor.state_dict(8, 100))
    assert restored.batches(4, 100) == 5 + 15
    trained(restored, 4, 3)
    assert restored.batches(4, 100) == 20
    assert restored.state_dict(4, 100) == {"position": 52, "batches": 8, "epoch": 0}


def test_a_shorter_epoch_of_the_trainer_leaves_the_rest_for_its_next():
    cursor = Cursor()
    trained(cursor, 8, 5)
    cursor.begin_epoch(8, inside=False)  # the trainer ended its epoch after 5
    assert cursor.batches(8, 100) == 7


def test_epochs_of_a_fixed_number_of_steps_do_not_end_with_the_data():
    cursor = Cursor()
    cursor.steps = 5
    for done in range(13):
        assert cursor.left(8, 24) == 5 - done % 5
        assert cursor.samples_to_come(3 - done // 5, 8, 24) == 8 * (15 - done)
        trained(cursor, 8, 1)
    restored = Cursor()
    restored.steps = 5
    restored.load_state_dict(cursor.state_dict(8, 24))
    restored.begin_epoch(4, inside=True)  # with half the global batch
    assert (restored.batches(4, 24), restored.left(4, 24), restored.samples_to_come(1, 4, 24)) == (5, 2, 8)
