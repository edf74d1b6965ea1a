"""The command `reentry retrain`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from cli.gate import REFUSED, print_comparisons
from cli.interruption import interruption
from cli.options import DEFAULT_REPOSITORY, Json, LakeLocation, PipelineConfig, RepositoryLocation
from pipeline.retraining.reason import Reason


def retrain(
    reason: Annotated[Reason, typer.Option(help="Why the model is trained again.")],
    if_due: Annotated[
        bool, typer.Option("--if-due", help="Do nothing unless the reason makes a retraining due.")
    ] = False,
    repository: RepositoryLocation = DEFAULT_REPOSITORY,
    out: Annotated[Path, typer.Option(help="Folder of the new model.ckpt.")] = Path("artifacts/retrain"),
    export: Annotated[
        bool, typer.Option("--export", help="Install the model as the candidate, unless the gate refuses it.")
    ] = False,
    promote: Annotated[
        bool, typer.Option("--promote", help="Also promote it to production, if the gate allows it.")
    ] = False,
    training: Annotated[
        Path | None,
        typer.Option(
            help="TOML file with [model] and [train] settings.  [default: those of the model in production]",
            metavar="FILE",
        ),
    ] = None,
    lake: LakeLocation = None,
    config: PipelineConfig = None,
    as_json: Json = False,
) -> None:
    """Train on the newest version of the table of features, and compare the new model with the one in production.

    The run is recorded with two baselines beside it, and the verdict of `reentry gate` in the table `verdicts`. With
    `--if-due`, a schedule is due after `retrain_days`, data after `retrain_tracks` new tracks, and drift at once, but
    nothing is due without a version of the table with other rows. A retraining that was interrupted, or whose export
    failed, is still due.

    The exit status is 0 if nothing was due or the new model is not worse, 3 if the gate refuses it, and 1 after an
    error.

    Example: `reentry retrain --reason schedule --if-due --export --promote`
    """
    from pipeline.settings import read_pipeline_settings
    from reentry.runtime.files import check_writable

    settings = read_pipeline_settings(config, lake=lake)
    check_writable(out)

    from pipeline.retraining.retrain import RetrainConfig
    from pipeline.retraining.retrain import retrain as run

    with interruption("the retraining is not complete; run the command again"):
        report = run(
            RetrainConfig(
                reason=reason,
                repository=repository,
                out=out,
                training=training,
                if_due=if_due,
                export=export,
                promote=promote,
            ),
            settings,
        )
    if as_json:
        typer.echo(json.dumps(report.as_dict()))
    else:
        if report.gate is not None:
            print_comparisons(report.gate)
        typer.echo(report.summary())
    if report.refused:
        raise typer.Exit(code=REFUSED)
