"""Draws the dashboard from a Prometheus without a Grafana: its panels, its queries, its units.

    python k8s/monitoring/render.py http://127.0.0.1:9090 dashboard.png --minutes 10

Panels whose metrics that Prometheus does not have are left out; they are of the cluster.
"""

from __future__ import annotations

import argparse
import json
import re
import time
import urllib.parse
import urllib.request
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.dates import DateFormatter
from matplotlib.ticker import EngFormatter, PercentFormatter

UNITS: Final = {
    "reqps": EngFormatter(unit="req/s"),
    "cps": EngFormatter(unit="/s"),
    "s": EngFormatter(unit="s"),
    "bytes": EngFormatter(unit="B"),
    "percentunit": PercentFormatter(1.0),
}
STEP: Final = 5.0
"""s between the points."""


def series_of(url: str, query: str, start: float, end: float) -> list[dict[str, Any]]:
    """Series of a query of the dashboard over a span of Unix times."""
    asked = query.replace("$namespace", ".*").replace("$__rate_interval", "30s")
    parameters = urllib.parse.urlencode({"query": asked, "start": start, "end": end, "step": STEP})
    with urllib.request.urlopen(f"{url}/api/v1/query_range?{parameters}", timeout=30) as answer:
        found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
    return found


def legend_of(target: dict[str, Any], labels: dict[str, str]) -> str:
    """Grafana's template with the series' labels in it."""
    return re.sub(r"\{\{(\w+)\}\}", lambda name: labels.get(name[1], ""), target["legendFormat"])


def draw(axes: Axes, panel: dict[str, Any], lines: dict[str, list[tuple[float, str]]]) -> None:
    """One panel; lines of (Unix time, value) by legend."""
    for legend, points in lines.items():
        times = [datetime.fromtimestamp(at) for at, _ in points]
        axes.plot(times, [float(value) for _, value in points], label=legend, linewidth=1.2)
    defaults = panel["fieldConfig"]["defaults"]
    highest = 1.05 * axes.get_ylim()[1]
    for step in defaults["thresholds"]["steps"]:
        if step["value"] is not None:
            axes.axhline(step["value"], color=step["color"], linestyle="--", linewidth=0.8)
            highest = max(highest, 1.05 * step["value"])
    axes.set_ylim(0.0, highest)
    axes.set_title(panel["title"], fontsize=10, loc="left")
    axes.xaxis.set_major_formatter(DateFormatter("%H:%M"))
    if defaults["unit"] in UNITS:
        axes.yaxis.set_major_formatter(UNITS[defaults["unit"]])
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=4, frameon=False)


def render(url: str, path: Path, minutes: float) -> None:
    """Draw the last minutes of every panel that has something to show."""
    end = time.time()
    drawn = []
    for panel in json.loads((Path(__file__).parent / "dashboard.json").read_text())["panels"]:
        lines = {}
        for target in panel.get("targets", ()):  # a row has none
            for series in series_of(url, target["expr"], end - 60.0 * minutes, end):
                lines[legend_of(target, series["metric"])] = series["values"]
        if lines:
            drawn.append((panel, lines))
    rows = -(-len(drawn) // 3)
    figure, grid = plt.subplots(rows, 3, figsize=(16, 2.9 * rows), layout="constrained", squeeze=False)
    for axes, (panel, lines) in zip(grid.flat, drawn, strict=False):
        draw(axes, panel, lines)
    for axes in grid.flat[len(drawn) :]:
        axes.set_axis_off()
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="of Prometheus")
    parser.add_argument("picture", type=Path)
    parser.add_argument("--minutes", type=float, default=10.0)
    arguments = parser.parse_args()
    render(arguments.url.rstrip("/"), arguments.picture, arguments.minutes)
