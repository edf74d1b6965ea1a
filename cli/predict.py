"""The command `reentry predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.options import DEFAULT_REPOSITORY, Json


def predict(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="Tracks, .csv or .parquet.", show_default=False)],
    url: Annotated[
        str, typer.Option(help="Address of the Triton server: grpc://HOST:PORT or http://HOST:PORT.")
    ] = "grpc://127.0.0.1:8001",
    out: Annotated[Path, typer.Option(help="Folder of the results; the results of an earlier run are replaced.")] = (
        Path("artifacts/predict")
    ),
    start_server: Annotated[
        bool, typer.Option("--start-server", help="Start an embedded server for this run instead of using --url.")
    ] = False,
    repository: Annotated[Path, typer.Option(help="Model repository that --start-server serves.")] = (
        Path(DEFAULT_REPOSITORY)
    ),
    concurrency: Annotated[int, typer.Option(help="Number of requests in flight at once.")] = 4,
    batch: Annotated[int, typer.Option(help="Largest number of tracks in one request.")] = 16,
    patience: Annotated[float, typer.Option(help="Seconds without any answer after which the run ends.")] = 60.0,
    as_json: Json = False,
) -> None:
    """Score a file of tracks through a Triton server.

    Writes `predictions.csv` (every row of the file, with probability and phase), `onsets.csv` and `inference.jsonl`
    (one line for each track). Tracks that cannot be scored are written to `set_aside.csv`, and the exit status is 1.
    Ctrl-C, SIGTERM or SIGHUP interrupts the run with exit status 130; run the same command again to resume it.

    Example: `reentry predict data/test.csv --start-server --out artifacts/predict`
    """
    from client.batching import BatchConfig
    from client.predict import PredictConfig, predict_with_server
    from client.retry import RetryConfig
    from reentry.errors import TrackFileError
    from reentry.runtime.arguments import require_file
    from reentry.runtime.files import check_writable

    config = PredictConfig(
        source=source,
        out=out,
        url=url,
        concurrency=concurrency,
        batching=BatchConfig(tracks=batch),
        retry=RetryConfig(patience=patience),
    )
    require_file(source, error=TrackFileError)
    check_writable(out)
    summary = predict_with_server(config, repository if start_server else None)
    typer.echo(summary.to_json() if as_json else summary.summary())
    if summary.rows_set_aside:
        raise typer.Exit(code=1)
