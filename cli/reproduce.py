"""The command `reentry reproduce`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from cli.options import Json, LakeLocation, PipelineConfig
from cli.tables import print_table


def reproduce(
    run: Annotated[str, typer.Argument(help="A run that `reentry runs` lists, by id, start of the id, or name.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the new model.ckpt.  [default: artifacts/reproduced/RUN]")
    ] = None,
    allow_other_code: Annotated[
        bool, typer.Option(help="Train even if the code, the lock or the schema is not that of the run.")
    ] = False,
    lake: LakeLocation = None,
    config: PipelineConfig = None,
    as_json: Json = False,
) -> None:
    """Train again as a recorded run did, and compare all metrics and weights exactly.

    The data is the version of the table, or the file, that the run was trained on. The exit status is 1 if anything is
    different. The same result is promised on the same kind of processor; a GPU may round differently each time.

    Example: `reentry reproduce 3f2a`
    """
    from pipeline.lake.lake import Lake
    from pipeline.reproduce import reproduce as train_again
    from pipeline.settings import read_pipeline_settings
    from training.runs.runs import ID_SHOWN, find

    folder = out or Path("artifacts/reproduced") / find(run).run_id[:ID_SHOWN]
    settings = read_pipeline_settings(config, lake=lake)
    report = train_again(run, folder, Lake(settings.lake), allow_other_code=allow_other_code)
    typer.echo(json.dumps(report.as_dict()) if as_json else report.summary())
    if report.differences and not as_json:
        rows = ((each.name, each.recorded, each.reproduced) for each in report.differences)
        print_table(("different", "in the run", "now"), rows)
    if not report.exact:
        raise typer.Exit(code=1)
