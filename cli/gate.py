"""The command `reentry gate`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import DEFAULT_REPOSITORY, Json, LakeLocation, PipelineConfig, RepositoryLocation
from cli.tables import print_table
from pipeline.retraining.reason import Reason

if TYPE_CHECKING:
    from pipeline.retraining.gate import GateResult

REFUSED = 3
"""Exit status if the gate does not allow to replace production."""


def gate(
    challenger: Annotated[
        str, typer.Argument(help="New model: a checkpoint (.ckpt), or a version: a number or `candidate`.")
    ],
    against: Annotated[
        str, typer.Option(help="Model to compare with: a version, `production`, or a checkpoint.", metavar="MODEL")
    ] = "production",
    table: Annotated[
        str, typer.Option(help="Table of labelled tracks; without a version, the newest one.", metavar="TABLE")
    ] = "lake:features",
    reason: Annotated[Reason | None, typer.Option(help="Reason of the retraining.")] = None,
    repository: RepositoryLocation = DEFAULT_REPOSITORY,
    lake: LakeLocation = None,
    config: PipelineConfig = None,
    as_json: Json = False,
) -> None:
    """Decide whether a new model may replace the one in production.

    Both models score the held-out tracks of the table, and the newest of them once more as a window. The verdict is
    better, same, worse within noise, or worse, and is recorded in the table `verdicts`. A better model may replace
    production, a worse one may not, and the others may only with `--reason drift`.

    The exit status is 0 if the model may replace production, 3 if not, and 1 after an error.

    Example: `reentry gate artifacts/retrain/model.ckpt --against production`
    """
    from pipeline.lake.reference import TableReference
    from pipeline.settings import read_pipeline_settings

    settings = read_pipeline_settings(config, lake=lake)
    reference = TableReference.parse(table)

    from pipeline.lake.lake import Lake
    from pipeline.retraining.contestants import open_contestant
    from pipeline.retraining.gate import run_gate
    from pipeline.retraining.verdicts import GATE, record_verdict

    tables = Lake(settings.lake)
    new, old = (open_contestant(name, repository) for name in (challenger, against))
    result = run_gate(new, old, tables, table=reference, reason=reason, settings=settings)
    record_verdict(tables, result, command=GATE)
    if as_json:
        typer.echo(json.dumps(result.as_dict()))
    else:
        print_comparisons(result)
        typer.echo(result.summary())
    if not result.allowed:
        raise typer.Exit(code=REFUSED)


def print_comparisons(result: GateResult) -> None:
    """Print one row for each comparison of a gate."""
    rows = []
    for each in (*result.main, *result.guards):
        found, unit = each.difference, each.measure.unit
        interval = f"{found.low:+.3f} to {found.high:+.3f}"
        rows.append(
            (
                *(each.data, each.group, f"{each.measure.name}, {unit}", f"{found.tracks:,}"),
                *(f"{found.challenger:.3f}", f"{found.champion:.3f}", f"{found.estimate:+.3f}", interval),
                *(f"{each.margin:.3f}", f"{found.p_worse:.4f}", "worse" if each in result.worse else ""),
            )
        )
    columns = ("data", "tracks of", "measure", "tracks", "new", "production", "difference", "95 % interval", "margin")
    print_table((*columns, "p", ""), rows)
