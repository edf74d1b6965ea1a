"""The command `reentry train`."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import Json, LakeLocation

if TYPE_CHECKING:
    from training.data.training_data import TrainingData

_log = logging.getLogger(__name__)


def train(
    tracks: Annotated[
        str, typer.Argument(help="Labelled tracks: a .csv or .parquet file, or a version of a table: lake:features@3.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of model.ckpt.")] = Path("artifacts/train"),
    seed: Annotated[
        int | None, typer.Option(help="Random seed for the split, the initial weights and the batch order.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Largest number of passes over the training split.")] = None,
    hidden: Annotated[int | None, typer.Option(help="Number of hidden units of the LSTM.")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with [model] and [train] settings.")] = None,
    devices: Annotated[
        int | None, typer.Option(help="Number of processes that share each batch, one per core or GPU.")
    ] = None,
    resume: Annotated[bool, typer.Option(help="Resume the interrupted run in the folder --out.")] = False,
    track: Annotated[bool, typer.Option(help="Record the run for `reentry runs`.")] = True,
    where: Annotated[
        str | None,
        typer.Option(
            help="SQL condition on the columns of a table; tracks with a row that breaks it are left out.",
            metavar="CONDITION",
        ),
    ] = None,
    lake: LakeLocation = None,
    as_json: Json = False,
) -> None:
    """Train the LSTM on labelled tracks and write model.ckpt into the folder --out.

    One track in five is held out for validation, and the printed metrics are those of the validation tracks. Flags
    override the settings file, whose keys are the fields of ModelConfig and TrainConfig in training/config.py. Invalid
    tracks are written to set_aside.csv in the same folder, and the exit status is 1. A file larger than memory is
    trained on from a temporary folder. Ctrl-C or SIGTERM interrupts the run; the same command with --resume continues
    it and gives the same result as an uninterrupted run. `reentry features build` writes the table of features, of
    which one track in five is left out for `reentry gate`.

    Example: `reentry train data/train.csv --out artifacts/train --seed 0`
    """
    from reentry.runtime.files import check_writable
    from training.config import read_configs

    # Arguments are checked before the imports that take seconds.
    flags = {"epochs": epochs, "seed": seed, "devices": devices}
    model, training = read_configs(config, model={"hidden": hidden}, train=flags)
    data = _training_data(tracks, where, lake)
    check_writable(out)

    from training.fit.resume import UNFINISHED_NAME
    from training.runs.recorder import record_training, recording, training_parameters
    from training.train import train_tracks

    try:
        with recording(track, training_parameters(data, model, training)) as recorder:
            result = train_tracks(data, out, model, training, resume=resume, on_epoch=recorder.epoch)
            record_training(recorder, result)
    except KeyboardInterrupt:
        if (unfinished := out / UNFINISHED_NAME).is_file():
            _log.warning("interrupted; run the same command with --resume to continue from %s", unfinished)
        raise
    _log.info(result.read.summary())
    typer.echo(json.dumps(result.as_dict()) if as_json else result.summary())
    if not result.read.clean:
        raise typer.Exit(code=1)


def _training_data(tracks: str, where: str | None, lake: str | None) -> TrainingData:
    """Return the file or the version of a table that an argument names."""
    if tracks.startswith("lake:"):
        from pipeline.features.training_data import LakeTrainingData
        from pipeline.lake.lake import Lake
        from pipeline.lake.reference import TableReference
        from pipeline.settings import read_pipeline_settings

        reference = TableReference.parse(tracks)
        file = os.environ.get("REENTRY_PIPELINE")  # --config has the settings of the training
        settings = read_pipeline_settings(Path(file) if file else None, lake=lake)
        return LakeTrainingData.of(Lake(settings.lake), reference, where)

    from reentry.errors import InputError, TrackFileError
    from reentry.runtime.arguments import require_file

    path = Path(tracks)
    require_file(path, error=TrackFileError)
    if where is not None:
        raise InputError("a condition needs a table", where=tracks, expected="lake:features@VERSION", got="a file")
    from training.data.stored import TrainingFile

    return TrainingFile.of(path)
