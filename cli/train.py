"""The command `reentry train`."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Annotated

import typer

from cli.options import Json

_log = logging.getLogger(__name__)


def train(
    tracks: Annotated[Path, typer.Argument(help="Labelled tracks, .csv or .parquet.")],
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
    as_json: Json = False,
) -> None:
    """Train the LSTM on labelled tracks and write model.ckpt into the folder --out.

    One track in five is held out for validation, and the printed metrics are those of the validation tracks. Flags
    override the settings file, whose keys are the fields of ModelConfig and TrainConfig in training/config.py. Invalid
    tracks are written to set_aside.csv in the same folder, and the exit status is 1. A file larger than memory is
    trained on from a temporary folder. Ctrl-C or SIGTERM interrupts the run; the same command with --resume continues
    it and gives the same result as an uninterrupted run.

    Example: `reentry train data/train.csv --out artifacts/train --seed 0`
    """
    from reentry.errors import TrackFileError
    from reentry.runtime.arguments import require_file
    from reentry.runtime.files import check_writable
    from training.config import read_configs

    # Arguments are checked before the imports that take seconds.
    flags = {"epochs": epochs, "seed": seed, "devices": devices}
    model, training = read_configs(config, model={"hidden": hidden}, train=flags)
    require_file(tracks, error=TrackFileError)
    check_writable(out)

    from training.runs.recorder import record_training, recording, training_parameters
    from training.train import train_file

    parameters = training_parameters(tracks, model, training)
    fingerprint = str(parameters["data.file_fingerprint"])
    with recording(track, parameters) as recorder:
        result = train_file(
            tracks, out, model, training, resume=resume, on_epoch=recorder.epoch, file_fingerprint=fingerprint
        )
        record_training(recorder, result)
    _log.info(result.read.summary())
    typer.echo(json.dumps(result.as_dict()) if as_json else result.summary())
    if not result.read.clean:
        raise typer.Exit(code=1)
