"""Scaling on paper: the page has the tables as they are now, and the sums are right."""

from pathlib import Path

import pytest

from benchmarks.scaling import PARAMETERS, PICTURE, TEXT, D, K, Step, lines

PAGE = Path(__file__).parents[2] / "docs" / "scaling.md"


def test_the_page_has_the_tables() -> None:
    page = PAGE.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines() if line not in page] == []


def test_sums_by_hand() -> None:
    step = Step(64, 262144)
    assert (step.b, step.parts) == (4096, 4)
    assert step.towers == pytest.approx(4 / 3 * 4096 * (PICTURE + 4 * TEXT) / (0.4 * 989e12))
    logits = 4096 * K * 262144
    assert step.loss == pytest.approx(8 * logits * D / (0.6 * 495e12) + 18 * 4 * logits / 3.8e12)
    assert step.gathered == pytest.approx(63 / 64 * 262144 * D * 4)
    assert step.gradients == pytest.approx(2 * 63 / 64 * PARAMETERS * 4 / 40e9)
    assert Step(64, 32768).parts == 1 and Step(8, 32768).wire > step.wire
