"""Tables for a terminal."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mmtrain.display.messages import printable


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, left: Sequence[str] = ()) -> None:
    """Prints rows of plain text under the names of their columns.

    The columns in `left`, by default the first one, are aligned left and folded, the others right as numbers are. The
    row called mean is bold. Without a terminal lines are 160 wide.
    """
    table = Table(title=_cell(title))
    for place, name in enumerate(columns):
        wide = name in left or (place == 0 and not left)
        table.add_column(_cell(name), justify="left" if wide else "right", overflow="fold" if wide else "ellipsis")
    for row in rows:
        table.add_row(*map(_cell, row), style="bold" if row[0] == "mean" else None)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 160
    console.print(table)


def print_facts(facts: Mapping[str, Any]) -> None:
    """Prints names and values beside each other; objects as class and arguments."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(_cell(name), _cell("none" if value in (None, "") else _shown(value)))
    Console().print(table)


def _cell(text: str) -> Text:
    """Text that is neither rich's markup nor a command to the terminal."""
    return Text(printable(text))


def _shown(value: Any) -> str:
    if isinstance(value, dict) and set(value) == {"class_path", "init_args"}:
        arguments = {key: option for key, option in value["init_args"].items() if option is not None}
        return f"{value['class_path']} {json.dumps(arguments, ensure_ascii=False)}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_shown(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else str(value)
