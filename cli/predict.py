"""`reentry predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def predict(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="CSV or Parquet of tracks.", show_default=False)],
    url: Annotated[
        str, typer.Option(help="Where Triton listens: grpc://HOST:PORT or http://HOST:PORT.")
    ] = "grpc://127.0.0.1:8001",
    out: Annotated[Path, typer.Option(help="Folder of the results; what an earlier run left is replaced.")] = Path(
        "artifacts/predict"
    ),
    start_server: Annotated[
        bool, typer.Option("--start-server", help="Start an embedded server for this run, instead of --url.")
    ] = False,
    repository: Annotated[Path, typer.Option(help="Model repository of --start-server.")] = Path("model_repository"),
    concurrency: Annotated[int, typer.Option(help="Requests in flight at once.")] = 4,
    batch: Annotated[int, typer.Option(help="Most tracks in one request.")] = 16,
    patience: Annotated[float, typer.Option(help="Seconds without any answer before giving up.")] = 60.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Score a file of tracks through a Triton server.

    Writes `predictions.csv` (every row of the file, with probability and phase), `onsets.csv` and `inference.jsonl`
    (a line for each track), and `set_aside.csv` with what could not be scored, if anything; the exit status is 1 then.
    Interrupted by Ctrl-C, SIGTERM or SIGHUP it ends with 130, and the same command goes on where it stopped.

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
    prediction = predict_with_server(config, repository if start_server else None)
    typer.echo(prediction.to_json() if as_json else prediction.summary())
    if prediction.rows_set_aside:
        raise typer.Exit(code=1)
