"""Progress of long work: a bar on a terminal, a log line at intervals elsewhere; neither if INFO is not logged."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

SECONDS_BETWEEN_LINES: Final = 10.0

_log = logging.getLogger(__name__)


@contextmanager
def progress(task: str, total: int | None, unit: str = "") -> Iterator[Callable[[int], None]]:
    """Show the progress of a task on standard error.

    The block calls the yielded function with the amount of work done since the last call.

    Args:
        task: description such as "simulating".
        total: total amount of work; None if unknown.
        unit: unit of the amounts such as "rows".
    """
    if not (sys.stderr.isatty() and _log.isEnabledFor(logging.INFO)):
        yield _line_logger(task, total, unit)
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


def _line_logger(task: str, total: int | None, unit: str) -> Callable[[int], None]:
    done, last_line = 0, time.monotonic()

    def advance(amount: int) -> None:
        nonlocal done, last_line
        done += amount
        if time.monotonic() - last_line >= SECONDS_BETWEEN_LINES:
            last_line = time.monotonic()
            of = f" of {total:,}" if total is not None else ""
            _log.info(f"{task}: {done:,}{of} {unit}".rstrip())

    return advance
