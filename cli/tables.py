"""Tables of the command line: columns on a terminal, unbroken rows in a log or a pipe."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table


def table_of(*columns: str) -> Table:
    """An empty table."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def add_row(table: Table, *cells: object) -> None:
    """Add a row of plain texts; None is empty."""
    from rich.text import Text

    table.add_row(*(Text("" if cell is None else str(cell)) for cell in cells))


def print_table(table: Table) -> None:
    """Print it to stdout."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:  # a log or a pipe: rows are not to be broken
        console = Console(width=10_000)
    console.print(table)
