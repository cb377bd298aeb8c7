"""Rows of a table: none is lost through another."""

import os
import time
from collections.abc import Iterator

import pytest

from benchmarks.capped_rows import Line, Row, markdown, measured


def good() -> Iterator[Line]:
    yield Line("ours", 1.5, 2000)


def broken() -> Iterator[Line]:
    yield Line("ours", 3.0)
    raise RuntimeError("no such | thing\nbelow")


def lacking() -> Iterator[Line]:
    import no_such_module  # noqa: F401

    yield Line()


def dying() -> Iterator[Line]:
    os._exit(3)
    yield Line()


def endless() -> Iterator[Line]:
    yield Line("ours", 4.0)
    time.sleep(1000)


@pytest.mark.system
def test_every_row_survives_the_others() -> None:
    rows = [Row("a", 100, broken), Row("b", 100, dying), Row("c", 100, lacking), Row("d", 3, endless)]
    found = list(measured([*rows, Row("e", 100, good)], 300))
    assert found == [
        ("a", Line("ours", 3.0)),
        ("a", Line(note="not measured: no such / thing")),
        ("b", Line(note="not measured: its process died")),
        ("c", Line(note="not measured: no no_such_module here")),
        ("d", Line("ours", 4.0)),
        ("d", Line(note="not measured: longer than its time")),
        ("e", Line("ours", 1.5, 2000)),
    ]


def test_rows_behind_the_end_say_so() -> None:
    assert list(measured([Row("a", 1, good)], 0)) == [("a", Line(note="not measured: no time was left"))]


def test_a_line_is_a_row_of_the_table() -> None:
    assert (
        markdown("step", Line("ours", 12.345, 1999.6, None, 0.451)) == "| step | ours | 12.3 | 2,000 |  | 45.1% |  |  |"
    )
