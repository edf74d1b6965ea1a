"""Draws stream.svg: the table of `reentry stream` while it replays overlapping flights of two sensors.

Run after `make run`: python docs/figures/stream.py
"""

from __future__ import annotations

import io
import re
import tempfile
from dataclasses import replace
from pathlib import Path

import pandas as pd
from rich.console import Console

from cli.stream_table import Rate, view
from client.stream.run import StreamConfig, StreamRun, stream_with_server
from reentry.simulation import TrapezoidConfig, simulate_trapezoid

FLIGHTS = 400
LAUNCH_INTERVAL, DURATION = 4.0, 530.0
"""Time between launches, and duration of the file, s."""
PICTURED_AT = 9
"""Number of alerts at which the table is drawn."""


def main() -> None:
    """Replay the flights with an embedded server, and draw the table once."""
    rate, pictures = Rate(), list[str]()

    def draw(run: StreamRun) -> None:
        table = view(run, rate)
        if len(run.alerts) >= PICTURED_AT and not pictures:
            console = Console(record=True, width=104, file=io.StringIO())
            console.print(table)
            pictures.append(console.export_svg(title="reentry stream tracks.csv --feed-by sensor --rate 10x"))

    with tempfile.TemporaryDirectory() as folder:
        tracks = Path(folder) / "tracks.csv"
        common = TrapezoidConfig(tracks=FLIGHTS // 2, launch_interval=LAUNCH_INTERVAL, labels=False)
        flights = [simulate_trapezoid(replace(common, seed=sensor, sensor=sensor)) for sensor in (3, 7)]
        flights[1]["track_id"] += FLIGHTS
        table = pd.concat(flights)
        table[table["timestamp"] < table["timestamp"].min() + DURATION].to_csv(tracks, index=False)
        config = StreamConfig(source=str(tracks), rate=10.0, feed_by="sensor", alerts=f"{folder}/alerts.jsonl")
        stream_with_server(config, Path("model_repository"), draw)
    without_fonts = re.sub(
        r"@font-face \{.*?\}", "", pictures[0], flags=re.DOTALL
    )  # they would be loaded from elsewhere
    Path(__file__).with_name("stream.svg").write_text(without_fonts)


if __name__ == "__main__":
    main()
