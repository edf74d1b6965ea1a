"""The command `reentry stream`."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cli.options import DEFAULT_REPOSITORY, Json


class StreamMode(StrEnum):
    """What one request holds: the measurements of a scan, or one measurement."""

    SCAN = "scan"
    TRACKS = "tracks"


class FeedBy(StrEnum):
    """Which measurements form a feed."""

    FILE = "file"
    SENSOR = "sensor"


def stream(
    source: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="Tracks, .csv or .parquet, or - for lines of JSON on standard input.",
            show_default=False,
        ),
    ],
    url: Annotated[
        list[str] | None,
        typer.Option(
            help="Address of a Triton server, grpc://HOST:PORT; give it again for each further server. "
            "[default: grpc://127.0.0.1:8001]"
        ),
    ] = None,
    rate: Annotated[
        str | None,
        typer.Option(
            help="Speed of the replay: 1x, 10x or another multiple of the time in the data, or max.  "
            "[default: 1x; max for standard input, whose lines are sent as they arrive]"
        ),
    ] = None,
    mode: Annotated[
        StreamMode, typer.Option(help="Content of a request: a scan of many tracks, or one measurement (tracks).")
    ] = StreamMode.SCAN,
    scan: Annotated[float, typer.Option(help="Duration of a scan in seconds; 0 for equal timestamps.")] = 0.5,
    feed_by: Annotated[
        FeedBy, typer.Option(help="One feed for the whole source, or one for each sensor.")
    ] = FeedBy.FILE,
    name: Annotated[
        str | None,
        typer.Option(help="Name of the feed, which appears in its alerts.  [default: name of the file, or stdin]"),
    ] = None,
    alerts: Annotated[
        str,
        typer.Option(
            help="File to which alerts and their refinements are appended as lines of JSON; - for standard output."
        ),
    ] = "artifacts/stream/alerts.jsonl",
    gateway: Annotated[
        str | None,
        typer.Option(
            help="Address of a gateway that shows the tracks and alerts, http://HOST:PORT. The key is in the "
            "environment variable REENTRY_KEY and has the scope stream."
        ),
    ] = None,
    start_server: Annotated[
        bool, typer.Option("--start-server", help="Start an embedded server for this run instead of using --url.")
    ] = False,
    repository: Annotated[Path, typer.Option(help="Model repository that --start-server serves.")] = (
        Path(DEFAULT_REPOSITORY)
    ),
    patience: Annotated[float, typer.Option(help="Seconds without any answer after which the run ends.")] = 60.0,
    metrics_port: Annotated[
        int | None, typer.Option(help="Port for Prometheus metrics of this client; 0 takes a free port.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Stream tracks through a Triton server and write an alert the moment a reentry begins.

    A file is replayed as live feeds. A line of standard input is an object with timestamp, track_id, sensor_id,
    latitude, longitude, altitude and radiometric_intensity. Bad lines and tracks are reported and skipped, and the exit
    status is 1. After a lost server the tracks are replayed on the next one: no alert is lost, and none is given twice.
    A network that uses the orbit filter refines the onset of each alert 2, 5, 10 and 20 s after it, in mode scan.
    With --gateway positions and alerts are also posted there in the background; a gateway that is away delays nothing,
    and gets the alerts when it is back, also from the next run with the same --alerts.
    Ctrl-C, SIGTERM or SIGHUP ends the feeds with exit status 130.

    Example: `reentry stream data/test.csv --start-server --rate 10x`
    """
    from cli.interruption import interruption
    from cli.stream_table import showing
    from client.retry import RetryConfig
    from client.stream.feed import FeedConfig
    from client.stream.pace import rate_of
    from client.stream.run import STANDARD, StreamConfig, stream_with_server
    from reentry.errors import TrackFileError
    from reentry.runtime.arguments import require_file

    config = StreamConfig(
        source=source,
        urls=tuple(url or ["grpc://127.0.0.1:8001"]),
        rate=rate_of(rate or ("max" if source == STANDARD else "1x")),
        interval=scan,
        name=name,
        feed_by=feed_by.value,
        alerts=alerts,
        metrics_port=metrics_port,
        gateway=gateway,
        gateway_key=os.environ.get("REENTRY_KEY", ""),
        feed=FeedConfig(mode=mode.value, retry=RetryConfig(patience=patience)),
    )
    if source != STANDARD:
        require_file(Path(source), error=TrackFileError)
    with interruption(f"the alerts so far are in {alerts}"), showing(alerts_on_stdout=alerts == STANDARD) as show:
        summary = stream_with_server(config, repository if start_server else None, show)
    typer.echo(summary.to_json() if as_json else summary.summary(), err=alerts == STANDARD)
    if not summary.is_complete:
        raise typer.Exit(code=1)
