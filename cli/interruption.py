"""The line that a command prints when it is interrupted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer


@contextmanager
def interruption(state: str) -> Iterator[None]:
    """Print the state that an interrupted command leaves behind; Typer then exits with status 130.

    Example:
        with interruption("no file was written"):
            simulate_file(out)
    """
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"interrupted: {state}", err=True)
        raise
