"""`reentry train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train(
    tracks: Annotated[Path, typer.Argument(help="Labelled tracks, .csv or .parquet.")],
    out: Annotated[Path, typer.Option(help="Folder of model.ckpt.")] = Path("artifacts/train"),
    seed: Annotated[int | None, typer.Option(help="Of split, weights and order; the same gives the same.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training split, at most.")] = None,
    hidden: Annotated[int | None, typer.Option(help="Units of the LSTM.")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with [model] and [train] settings.")] = None,
    devices: Annotated[int | None, typer.Option(help="Processes that share each batch, one to a core or GPU.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on with the interrupted run in DIR.")] = False,
    track: Annotated[bool, typer.Option(help="Record the run, for `reentry runs`.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Train the LSTM on labelled tracks and write DIR/model.ckpt.

    One track in five is held out, the figures printed are theirs. Flags win over the file of settings, whose keys are
    the fields of ModelConfig and TrainConfig in training/config.py. Bad tracks are set aside in
    DIR/set_aside.csv, and the exit status is 1. A file larger than memory is trained on from a temporary folder.
    Interrupted by Ctrl-C or SIGTERM, the run is kept, and the same command with --resume goes on to the same end.

    Example: `reentry train data/train.csv --out artifacts/train --seed 0`
    """
    import json

    from reentry.errors import TrackFileError
    from reentry.runtime.arguments import require_file
    from reentry.runtime.files import check_writable
    from training.config import read_configs

    # What can be checked at once is, before the imports that take seconds.
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
    typer.echo(result.read.summary(), err=True)
    if as_json:
        typer.echo(json.dumps(result.as_dict()))
    else:
        typer.echo(result.summary())
    if not result.read.clean:
        raise typer.Exit(code=1)
