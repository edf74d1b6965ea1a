"""The command line, one file per command. Each command parses, builds a config, calls one function and prints.

Nothing heavier than Typer is imported before a command runs, so that `--help` is fast.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Annotated

import typer

from cli.canary import canary
from cli.doctor import doctor
from cli.engine import engine
from cli.evaluate import evaluate
from cli.export import export
from cli.features import features
from cli.gate import gate
from cli.gateway import gateway
from cli.ingest import ingest
from cli.lake import lake
from cli.logs import logs_on_stderr
from cli.perf import perf
from cli.predict import predict
from cli.privacy import privacy
from cli.repository import repository
from cli.reproduce import reproduce
from cli.retrain import retrain
from cli.runs import runs
from cli.score_bulk import score_bulk
from cli.serve import serve
from cli.simulate import simulate
from cli.stream import stream
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
for command in (
    *(simulate, train, evaluate, study, export, serve, predict, stream, doctor),
    *(ingest, retrain, gate, reproduce),
):
    app.command()(command)
app.command(name="score-bulk")(score_bulk)
app.add_typer(repository, name="repository")
app.add_typer(engine, name="engine")
app.add_typer(lake, name="lake")
app.add_typer(privacy, name="privacy")
app.add_typer(gateway, name="gateway")
app.add_typer(perf, name="perf")
app.add_typer(runs, name="runs")
app.add_typer(canary, name="canary")
app.add_typer(features, name="features")


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Also print debug lines, on standard error.")
    ] = False,
    quiet: Annotated[
        bool,
        typer.Option("--quiet", "-q", help="Print only results, warnings and errors: no progress, no information."),
    ] = False,
) -> None:
    if verbose and quiet:
        raise typer.BadParameter("give --verbose or --quiet, not both")
    context.with_resource(logs_on_stderr(logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO))


_EXTRAS = {
    "tritonclient": "client",
    "torch": "train",
    "onnx": "export",
    "pytriton": "serve",
    "s3fs": "s3",
    "fastapi": "gateway",
    "deltalake": "pipeline",
    "dagster": "flows",
    "ray": "cluster",
}
"""Extra of pyproject.toml that installs a package which a command imports."""


def main() -> None:
    """Run the command line.

    The exit status is 0 for success, 1 for a user error, which is one line on standard error, 2 for wrong usage, and
    130 for an interruption.
    """
    try:
        app()
    except ReentryError as error:
        typer.secho(f"error: {error}", fg="red", err=True)
        sys.exit(1)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _EXTRAS:
            raise
        fix = f"make setup, or uv pip install --editable '.[{_EXTRAS[package]}]'"
        typer.secho(f"error: the package {package} is missing; fix: {fix}", fg="red", err=True)
        sys.exit(1)
    except BrokenPipeError:  # the reader of the output has closed it, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
