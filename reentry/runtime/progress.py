"""Progress of long work: a bar on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

SECONDS_BETWEEN_LINES: Final = 10.0


@contextmanager
def progress(task: str, total: int | None, unit: str = "") -> Iterator[Callable[[int], None]]:
    """Show the progress of a task on standard error.

    The block calls the yielded function with the amount of work done since the last call.

    Args:
        task: description such as "simulating".
        total: total amount of work; None if unknown.
        unit: unit of the amounts such as "rows".
    """
    if not sys.stderr.isatty():
        yield _line_printer(task, total, unit)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        identity = bar.add_task(task, total=total)
        yield lambda amount: bar.advance(identity, amount)


def _line_printer(task: str, total: int | None, unit: str) -> Callable[[int], None]:
    done, last_line = 0, time.monotonic()

    def advance(amount: int) -> None:
        nonlocal done, last_line
        done += amount
        if time.monotonic() - last_line >= SECONDS_BETWEEN_LINES:
            last_line = time.monotonic()
            of = f" of {total:,}" if total is not None else ""
            print(f"{task}: {done:,}{of} {unit}".rstrip(), file=sys.stderr, flush=True)

    return advance
