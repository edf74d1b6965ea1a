"""`reentry runs`: the recorded training runs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import Json
from cli.tables import print_table

if TYPE_CHECKING:
    from training.runs.runs import Comparison

runs = typer.Typer(
    help="List and compare the recorded training runs.",
    epilog="Example: `reentry runs list && reentry runs compare 3f2a 91bc`",
)

COLUMNS = {
    "onset_rmse": ("onset RMSE, s", "{:.3f}"),
    "onset_worst": ("worst, s", "{:.3f}"),
    "f1": ("F1", "{:.4f}"),
    "brier": ("Brier", "{:.4f}"),
}
"""Metrics of the list, each with the title of its column and the format of its values."""


@runs.callback(invoke_without_command=True)
def _root(context: typer.Context, as_json: Json = False) -> None:
    if context.invoked_subcommand is None:
        list_runs(as_json=as_json)


@runs.command("list")
def list_runs(as_json: Json = False) -> None:
    """List the runs, newest first; `reentry runs` alone does the same.

    The runs are stored in artifacts/runs/mlflow.db, or in the store that MLFLOW_TRACKING_URI names.

    Example: `reentry runs list`
    """
    from dataclasses import asdict

    from training.runs.runs import ID_SHOWN, all_runs

    found = all_runs()
    if as_json:
        typer.echo(json.dumps([asdict(run) for run in found]))
        return
    if not found:
        typer.echo("no run is recorded; `reentry train TRACKS` records one")
        return
    print_table(
        ("run", "name", "started", "status", "data", "seed", *(title for title, _ in COLUMNS.values())),
        (
            (
                *(run.run_id[:ID_SHOWN], run.name, run.started.removesuffix("+00:00"), run.status.lower()),
                *(run.parameters.get("data.path"), run.parameters.get("train.seed")),
                *(_cell(run.metrics.get(name), form) for name, (_, form) in COLUMNS.items()),
            )
            for run in found
        ),
    )


@runs.command("compare")
def compare_runs(
    names: Annotated[list[str], typer.Argument(help="Two or more runs, by id, start of an id, or name.")],
    as_json: Json = False,
) -> None:
    """Compare runs: the parameters that differ, and all metrics.

    Two runs with the same seed, data, program and locked dependencies have the same metrics, except for their duration.

    Example: `reentry runs compare 3f2a 91bc`
    """
    from training.runs.runs import compare

    if len(names) < 2:
        raise typer.BadParameter("give two runs or more")
    found = compare(names)
    if as_json:
        typer.echo(json.dumps(found.as_dict()))
    else:
        _print_comparison(found)


def _print_comparison(found: Comparison) -> None:
    from training.runs.runs import ID_SHOWN

    titles = [f"{run.name} ({run.run_id[:ID_SHOWN]})" for run in found.runs]
    if found.parameters:
        print_table(("parameter", *titles), ((name, *values) for name, values in found.parameters.items()))
    else:
        typer.echo("all parameters are the same")
    metrics = ((name, *(_cell(value, "{:.6g}") for value in values)) for name, values in found.metrics.items())
    print_table(("metric", *titles), metrics)


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)
