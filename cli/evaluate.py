"""`reentry evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.interruption import interruption


def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="model.ckpt of `reentry train`.")],
    tracks: Annotated[Path, typer.Argument(help="Labelled tracks, .csv or .parquet.")],
    out: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("artifacts/evaluation"),
    seeds: Annotated[int, typer.Option(help="Runs; each beyond the first trains anew with the next seed.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Measure a checkpoint beside the baselines: a table, JSON and three plots.

    Of the tracks it was trained on, as CSV or Parquet, those held out then are scored; of others all, without the
    baselines. Tracks that trained it are left out wherever they are, with a warning. Bad tracks are left out, and the
    exit status is 1. A file larger than memory is read in parts.

    Example: `reentry evaluate artifacts/train/model.ckpt data/train.csv --seeds 5`
    """
    import json

    from reentry.errors import CheckpointError, TrackFileError
    from reentry.runtime.arguments import require_between, require_file
    from reentry.runtime.files import check_writable
    from training.config import MOST_SEEDS

    # What can be checked at once is, before the imports that take seconds.
    require_between("seeds", seeds, 1, MOST_SEEDS)
    require_file(checkpoint, error=CheckpointError, fix="give the model.ckpt that `reentry train` wrote")
    require_file(tracks, error=TrackFileError)
    check_writable(out)

    with interruption("no report was written"):
        from training.evaluation.evaluate import open_evaluation
        from training.evaluation.report import as_dict, markdown, write_report

        with open_evaluation(checkpoint, tracks, seeds=seeds) as evaluation:
            written = write_report(evaluation, out)
    typer.echo(evaluation.data.summary(), err=True)
    if evaluation.warning:
        typer.secho(f"warning: {evaluation.warning}", fg="yellow", err=True)
    if as_json:
        typer.echo(json.dumps(as_dict(evaluation)))
    else:
        typer.echo(markdown(evaluation))
        typer.echo("\n".join(str(path) for path in written))
    if not evaluation.data.clean:
        raise typer.Exit(code=1)
