"""Rows of a table, each measured in a worker process and within a time of its own: what one does costs no other."""

import gc
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import NamedTuple

NONE = "not measured"


class Line(NamedTuple):
    """Figures of one contender; None where there is none."""

    whose: str = ""
    milliseconds: float | None = None
    images: float | None = None  # a second
    tokens: float | None = None  # a second
    mfu: float | None = None
    gib: float | None = None
    note: str = ""


class Row(NamedTuple):
    """What is measured.

    Attributes:
        name: The row's.
        seconds: After which it is given up.
        measure: Yields its lines; a function that a new process can import.
    """

    name: str
    seconds: float
    measure: Callable[[], Iterator[Line]]


HEADER = """\
| what | whose | ms | images/s | tokens/s | MFU | peak GiB | note |
|---|---|---|---|---|---|---|---|"""


def markdown(name: str, line: Line) -> str:
    """A line as a row of the table."""
    forms = ("{:,.1f}", "{:,.0f}", "{:,.0f}", "{:.1%}", "{:.1f}")
    cells = ["" if figure is None else form.format(figure) for form, figure in zip(forms, line[1:6], strict=True)]
    return f"| {' | '.join([name, line.whose, *cells, line.note])} |"


def measured(rows: Sequence[Row], seconds: float) -> Iterator[tuple[str, Line]]:
    """Each row's name with its lines as they come; a row that fails, dies or lasts says so in a line of its own.

    One worker process measures all rows until one kills it or is given up; the rest get a new one.

    Args:
        rows: In order of worth.
        seconds: For all of them; rows that it does not reach are not measured.
    """
    end, worker = time.monotonic() + seconds, None
    for row in rows:
        deadline = min(time.monotonic() + row.seconds, end)
        if time.monotonic() >= end:
            yield row.name, Line(note=f"{NONE}: no time was left")
            continue
        worker = worker or _Worker()
        try:
            worker.connection.send(row.measure)
            while (line := worker.answer(deadline)) is not None:
                yield row.name, line
        except (TimeoutError, EOFError, OSError) as error:
            worker.end()
            worker = None
            reason = "longer than its time" if isinstance(error, TimeoutError) else "its process died"
            yield row.name, Line(note=f"{NONE}: {reason}")
    if worker is not None:
        worker.end()


class _Worker:
    """A process that measures one row after another."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")  # CUDA does not outlive a fork
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,))  # no daemon: a loader has workers of its own
        self._process.start()
        theirs.close()

    def answer(self, deadline: float) -> Line | None:
        """The next line, None behind the last of a row."""
        if not self.connection.poll(max(deadline - time.monotonic(), 0)):
            raise TimeoutError
        return self.connection.recv()

    def end(self) -> None:
        self.connection.close()
        self._process.kill()
        self._process.join()


def _serve(connection: Connection) -> None:
    while True:
        try:
            measure = connection.recv()
        except EOFError:
            return
        try:
            for line in measure():
                connection.send(line)
        except Exception as error:  # whatever a row finds wrong is that row's answer
            connection.send(Line(note=reason(error)))
        del measure
        gc.collect()
        connection.send(None)


def reason(error: Exception) -> str:
    """Why something was not measured, on one line."""
    import torch

    if isinstance(error, torch.OutOfMemoryError):
        return f"{NONE}: out of memory"
    if isinstance(error, ModuleNotFoundError):
        return f"{NONE}: no {error.name} here"
    return f"{NONE}: {next(iter(str(error).splitlines()), '') or type(error).__name__}"[:160].replace("|", "/")
