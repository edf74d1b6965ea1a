"""Tables of the command line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def print_table(columns: Sequence[str], rows: Iterable[Iterable[object]]) -> None:
    """Print a table: aligned to the width of a terminal, or with unbroken rows into a file or a pipe.

    Args:
        columns: titles of the columns.
        rows: cells of each row; None is an empty cell.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
    console = Console()
    (console if console.is_terminal else Console(width=10_000)).print(table)
