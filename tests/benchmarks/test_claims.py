"""Claims as data: trainings are kept, intervals decide, and the JSON holds what the table reads."""

import json
from dataclasses import replace

import pytest

from benchmarks.claims.record import Claim, Expected, Recipe, Row, Runs, rows_of, verdict_of
from benchmarks.claims.tables import rows_table, systems_table


class Trainings:
    """Recipes "new" and "old" whose figure is value + seed; counts the trainings and stops at one."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.done: list[tuple[float, int, str]] = []
        self.stop_at = stop_at

    def train(self, value: float, seed: int, split: str) -> dict[str, float]:
        if len(self.done) == self.stop_at:
            raise KeyboardInterrupt
        self.done.append((value, seed, split))
        return {"R@1": value + seed}

    def recipes(self, runs: Runs) -> dict[str, Recipe]:
        (best,) = runs.choose("new", [(10.0,), (20.0,)], self.train, lambda found: found["R@1"], seeds=[100])
        return {"new": Recipe(self.train, (best,)), "old": Recipe(self.train, (5.0,))}

    @property
    def claim(self) -> Claim:
        gain = Expected("new over old", "R@1", above=10)
        return Claim("a system", "new is ahead of old", self.recipes, [("new", "old")], [gain])


def test_a_stopped_run_goes_on(tmp_path):
    stopped, resumed = Trainings(stop_at=5), Trainings()
    records = []
    with pytest.raises(KeyboardInterrupt):
        records.extend(stopped.claim.measure("it", tmp_path, 3))
    assert [row["seeds"] for row in records[-1]["rows"]] == [2, 1, 1]  # of new, of old, of the gain
    assert stopped.done[:2] == [(10.0, 100, "val"), (20.0, 100, "val")]  # chosen on validation, by other seeds
    *_, record = resumed.claim.measure("it", tmp_path, 3)
    assert resumed.done == [(5.0, 1, "test"), (20.0, 2, "test"), (5.0, 2, "test")]
    assert record["rows"][0] == {
        "recipe": "new",
        "metric": "R@1",
        "mean": 21.0,
        "ci95": pytest.approx(2.484, abs=1e-3),
        "seeds": 3,
    }
    assert record["rows"][2] == {"recipe": "new over old", "metric": "R@1", "mean": 15.0, "ci95": 0.0, "seeds": 3}
    assert record["verdict"] == "shown"


def test_more_seeds_train_only_what_is_new(tmp_path):
    trainings = Trainings()
    for seeds in (2, 3):
        list(trainings.claim.measure("it", tmp_path, seeds))
    assert len(trainings.done) == len(set(trainings.done)) == 8


def test_a_claim_shares_the_trainings_of_another(tmp_path):
    trainings = Trainings()
    *_, record = trainings.claim.measure("it", tmp_path, 2)
    done = list(trainings.done)
    stricter = replace(trainings.claim, expected=[Expected("new over old", "R@1", above=15)], trainings="it")
    *_, shared = stricter.measure("stricter", tmp_path, 2)
    assert trainings.done == done and shared["rows"] == record["rows"]
    assert (record["verdict"], shared["verdict"]) == ("shown", "refuted")
    assert shared["command"] == "python -m benchmarks.claims stricter --seeds 2"


def test_without_seeds_nothing_is_trained_and_all_is_open(tmp_path):
    trainings = Trainings()
    (record,) = trainings.claim.measure("it", tmp_path, 0)
    assert not trainings.done
    assert record.keys() == {"system", "claim", "rows", "verdict", "command", "date", "hardware"}
    assert (record["rows"], record["verdict"]) == ([], "open")
    assert record["command"] == "python -m benchmarks.claims it --seeds 0"


@pytest.mark.parametrize(
    ("bound", "verdict"),
    [
        ({"above": 7.9}, "shown"),
        ({"above": 8.1}, "open"),
        ({"above": 12.1}, "refuted"),
        ({"below": 12.1}, "shown"),
        ({"below": 11.9}, "open"),
        ({"below": 7.9}, "refuted"),
        ({"reaches": 11.9}, "shown"),
        ({"reaches": 12.1}, "refuted"),
    ],
)
def test_intervals_decide(bound, verdict):
    assert verdict_of([Row("new", "R@1", 10.0, 2.0, 5)], [Expected("new", "R@1", **bound)]) == verdict


def test_one_seed_and_a_missing_row_leave_a_claim_open():
    expected = [Expected("new", "R@1", above=0)]
    assert verdict_of([Row("new", "R@1", 10.0, None, 1)], expected) == "open"
    assert verdict_of([Row("old", "R@1", 10.0, 1.0, 5)], expected) == "open"
    assert verdict_of([Row("new", "R@1", 10.0, 1.0, 5)], []) == "open"


def test_one_contradiction_refutes_and_all_must_agree():
    rows = [Row(name, "R@1", mean, 1.0, 5) for name, mean in (("good", 10.0), ("bad", -10.0), ("unclear", 0.5))]
    good, bad, unclear = (Expected(row.recipe, "R@1", above=0) for row in rows)
    assert verdict_of(rows, [good, unclear, bad]) == "refuted"
    assert verdict_of(rows, [good, unclear]) == "open"
    assert verdict_of(rows, [good, good]) == "shown"


def test_gains_are_paired_by_seed():
    figures = {"a": [{"R@1": 10.0}, {"R@1": 30.0}], "b": [{"R@1": 9.0, "more": 1.0}, {"R@1": 29.0, "more": 2.0}]}
    gain = [row for row in rows_of(figures, [("a", "b")]) if row.recipe == "a over b"]
    assert gain == [Row("a over b", "R@1", 1.0, 0.0, 2)]


def test_tables_are_made_of_the_json(tmp_path):
    *_, record = Trainings().claim.measure("it", tmp_path, 2)
    record["date"] = "2026-11-29"
    (tmp_path / "it.json").write_text(json.dumps(record), encoding="utf-8")
    assert (
        systems_table(tmp_path).splitlines()[2] == "| a system | `it`: new is ahead of old | shown | 2 | 2026-11-29 |"
    )
    header, _, line = rows_table(record["rows"]).splitlines()
    assert header == "|  | new | old | new over old |"
    assert line == "| R@1 | 20.5 ± 6.4 | 5.5 ± 6.4 | 15.0 ± 0.0 |"
