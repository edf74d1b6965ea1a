"""`reentry runs`: what was trained, and how runs differ."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from cli.tables import add_row, print_table, table_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from training.runs.runs import Comparison, Run

runs = typer.Typer(
    help="What was trained, and how runs differ.",
    epilog="Example: `reentry runs list && reentry runs compare 3f2a 91bc`",
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]

COLUMNS = {
    "onset_rmse": ("onset RMSE, s", "{:.3f}"),
    "onset_worst": ("worst, s", "{:.3f}"),
    "f1": ("F1", "{:.4f}"),
    "brier": ("Brier", "{:.4f}"),
}
"""Metric -> title and form, in the list."""


@runs.callback(invoke_without_command=True)
def _root(context: typer.Context, as_json: Json = False) -> None:
    if context.invoked_subcommand is None:
        list_runs(as_json=as_json)


@runs.command("list")
def list_runs(as_json: Json = False) -> None:
    """List the runs, the newest first: also what `reentry runs` alone does.

    They are in artifacts/runs/mlflow.db, or where MLFLOW_TRACKING_URI says.

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
    table = table_of("run", "name", "started", "status", "data", "seed", *(title for title, _ in COLUMNS.values()))
    for run in found:
        given = run.parameters
        cells = [_cell(run.metrics.get(name), form) for name, (_, form) in COLUMNS.items()]
        start = run.started.removesuffix("+00:00")
        add_row(
            table,
            *(run.run_id[:ID_SHOWN], run.name, start, run.status.lower()),
            *(given.get("data.path"), given.get("train.seed"), *cells),
        )
    print_table(table)


@runs.command("compare")
def compare_runs(
    names: Annotated[list[str], typer.Argument(help="Two or more runs: ids, their beginnings, or names.")],
    as_json: Json = False,
) -> None:
    """Put runs side by side: the parameters that differ, and all metrics.

    Two runs of the same seed, data, program and lock have the same metrics, but for the seconds they took.

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
    titles = _titles(found.runs)
    if found.parameters:
        table = table_of("parameter", *titles)
        for name, values in found.parameters.items():
            add_row(table, name, *values)
        print_table(table)
    else:
        typer.echo("all parameters are the same")
    table = table_of("metric", *titles)
    for name, figures in found.metrics.items():
        add_row(table, name, *(_cell(figure, "{:.6g}") for figure in figures))
    print_table(table)


def _titles(found: Sequence[Run]) -> list[str]:
    from training.runs.runs import ID_SHOWN

    return [f"{run.name} ({run.run_id[:ID_SHOWN]})" for run in found]


def _cell(figure: float | None, form: str) -> str:
    return "-" if figure is None else form.format(figure)
