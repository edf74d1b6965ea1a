"""The command `reentry evaluate`."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Annotated

import typer

from cli.interruption import interruption
from cli.options import Json

_log = logging.getLogger(__name__)


def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint: the model.ckpt that `reentry train` wrote.")],
    tracks: Annotated[Path, typer.Argument(help="Labelled tracks, .csv or .parquet.")],
    out: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("artifacts/evaluation"),
    seeds: Annotated[
        int, typer.Option(help="Number of random seeds; for each seed after the first the model is trained again.")
    ] = 1,
    as_json: Json = False,
) -> None:
    """Measure a checkpoint and the baselines: a table, JSON and three plots.

    If the file is the one that the checkpoint was trained on, the validation tracks are scored. All tracks of another
    file are scored, without the baselines; tracks that were used for training are left out with a warning. Invalid
    tracks are left out, and the exit status is 1. A file larger than memory is read in parts.

    Example: `reentry evaluate artifacts/train/model.ckpt data/train.csv --seeds 5`
    """
    from reentry.errors import CheckpointError, TrackFileError
    from reentry.runtime.arguments import require_between, require_file
    from reentry.runtime.files import check_writable
    from training.config import MOST_SEEDS

    # Arguments are checked before the imports that take seconds.
    require_between("seeds", seeds, 1, MOST_SEEDS)
    require_file(checkpoint, error=CheckpointError, fix="give the model.ckpt that `reentry train` wrote")
    require_file(tracks, error=TrackFileError)
    check_writable(out)

    with interruption("no report was written"):
        from training.evaluation.evaluate import open_evaluation
        from training.evaluation.report import as_dict, markdown, write_report

        with open_evaluation(checkpoint, tracks, seeds=seeds) as evaluation:
            written = write_report(evaluation, out)
    _log.info(evaluation.data.summary())
    if evaluation.warning:
        _log.warning(evaluation.warning)
    if as_json:
        typer.echo(json.dumps(as_dict(evaluation)))
    else:
        typer.echo(markdown(evaluation))
        typer.echo("\n".join(str(path) for path in written))
    if not evaluation.data.clean:
        raise typer.Exit(code=1)
