"""The command line: one file per command; each parses, builds a config, calls one function, prints.

Nothing heavier than Typer is imported before a command runs, so that `--help` answers at once.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from cli.doctor import doctor
from cli.engine import engine
from cli.evaluate import evaluate
from cli.export import export
from cli.predict import predict
from cli.repository import repository
from cli.runs import runs
from cli.serve import serve
from cli.simulate import simulate
from cli.study import study
from cli.train import train
from reentry import __version__
from reentry.errors import ReentryError

app = typer.Typer(
    name="reentry",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_show_locals=False,
    help="Marks the reentry phase of missile tracks as it begins: train, export, serve with Triton, measure.",
    epilog="Example: `reentry simulate data/train.csv && reentry train data/train.csv`",
)
for command in (simulate, train, evaluate, study, export, serve, predict, doctor):
    app.command()(command)
app.add_typer(repository, name="repository")
app.add_typer(engine, name="engine")
app.add_typer(runs, name="runs")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point: 0 done, 1 the user's error in one line, 2 wrong usage, 130 interrupted (the last two by Typer)."""
    try:
        app()
    except ReentryError as error:
        typer.secho(f"error: {error}", fg="red", err=True)
        sys.exit(1)
    except BrokenPipeError:  # the reader of our output left, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
