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
    """Show how far a task is, on stderr; the yielded function is called with the amount done since its last call.

    Args:
        task: what is done, as "simulating".
        total: the whole amount; None if unknown.
        unit: of the amounts, as "rows".
    """
    if _log.isEnabledFor(logging.INFO) and sys.stderr.isatty():
        with _bar(task, total, unit) as advance:
            yield advance
    else:
        with _lines(task, total, unit) as advance:
            yield advance


@contextmanager
def _bar(task: str, total: int | None, unit: str) -> Iterator[Callable[[int], None]]:
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


@contextmanager
def _lines(task: str, total: int | None, unit: str) -> Iterator[Callable[[int], None]]:
    done, printed = 0, time.monotonic()

    def advance(amount: int) -> None:
        nonlocal done, printed
        done += amount
        if time.monotonic() - printed >= SECONDS_BETWEEN_LINES:
            printed = time.monotonic()
            of = f" of {total:,}" if total is not None else ""
            _log.info(f"{task}: {done:,}{of} {unit}".rstrip())

    yield advance
