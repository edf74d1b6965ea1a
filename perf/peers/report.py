"""Report of a comparison: peers.md and peers.json."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from perf.peers.results import Comparison, PeerResult, Turn
from perf.scoring import TOLERANCE
from perf.tables import table
from reentry.runtime.files import whole_file

MARKDOWN_FILE: Final = "peers.md"
JSON_FILE: Final = "peers.json"

QUIET: Final = 5.0
"""Largest share of the cores, in %, that other programs may use during a measurement that can be relied on."""

_TITLES: Final = (
    *("server", "body", "tracks/s", "p50 ms", "p99 ms", "CPU ms/track"),
    *("memory MB", "start s", "install MB"),
)
_LOWER_IS_BETTER: Final[tuple[tuple[Callable[[Turn], float], str], ...]] = (
    (lambda turn: turn.p50, ".2f"),
    (lambda turn: turn.p99, ".2f"),
    (lambda turn: turn.cpu, ".2f"),
    (lambda turn: turn.memory, ",.0f"),
    (lambda turn: turn.start, ".1f"),
)
"""Figures after the throughput, in the order of the columns, with their formats."""


def write_report(comparison: Comparison, out: Path) -> list[Path]:
    """Write both files into `out` and return their paths."""
    texts = {
        MARKDOWN_FILE: markdown(comparison),
        JSON_FILE: json.dumps(as_dict(comparison), indent=2) + "\n",
    }
    for name, text in texts.items():
        with whole_file(out / name) as part:
            part.write_text(text, encoding="utf-8")
    return [out / name for name in texts]


def as_dict(comparison: Comparison) -> dict[str, Any]:
    """Return the comparison as JSON content: latencies and processor times in ms, memory and sizes in MB."""
    content: dict[str, Any] = json.loads(json.dumps(asdict(comparison), default=str))  # paths as text
    for result, entry in zip(comparison.results, content["results"], strict=True):
        entry["median"] = asdict(result.median) if result.median else None
    return content


def markdown(comparison: Comparison) -> str:
    """Return the Markdown report: origin, figures with the fastest server first, failures, settings."""
    machine, config = comparison.machine, comparison.config
    versions = ", ".join(f"{name} {version}" for name, version in comparison.versions.items())
    lines = [
        "# Servers of the same graph",
        "",
        f"- machine: {machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB; the load generator "
        "runs on the same cores",
        f"- versions: {versions}; git revision {comparison.git_revision}",
        f"- load: wrk, {config.connections} kept-alive HTTP connections, one track of {config.steps:,} steps in a "
        f"request, {config.tracks} different tracks in turn",
        f"- medians of {config.rounds} rounds; in each round every server is started, warmed up for "
        f"{config.warm_up} s, measured for {config.seconds} s and stopped, one after another",
        f"- every server gave the answers of the graph before it was measured: probabilities within {TOLERANCE:g}, all "
        "other outputs equal",
        _others_line(comparison.results),
        "",
        *table(_TITLES, _rows(comparison.results), words=2),
        "",
        "The best figure of each column is bold. CPU and memory are those of all processes of the server, memory as",
        "the proportional set size after the load. The start ends with the first answer. The install size is that of",
        "the Python packages in the server's own environment, without Python.",
        "",
    ]
    failed = [result for result in comparison.results if result.failure is not None]
    if failed:
        lines += ["Not measured:", "", *(f"- {result.name}: {result.failure}" for result in failed), ""]
    lines += ["Every worker has one thread. The settings of each server:", ""]
    lines += table(
        ("server", "versions", "settings"), [_setting_cells(result) for result in comparison.results], words=3
    )
    return "\n".join(lines) + "\n"


def _others_line(results: Sequence[PeerResult]) -> str:
    shares = [turn.others for result in results for turn in result.turns]
    if not shares:
        return "- nothing was measured"
    share = (
        f"- other programs used {statistics.median(shares):.0f} % of the cores meanwhile, at most {max(shares):.0f} %"
    )
    if max(shares) <= QUIET:
        return share
    return f"{share}. **The machine was not quiet**: measure again; only memory and install size can be relied on"


def _rows(results: Sequence[PeerResult]) -> list[list[str]]:
    measured = [(result, result.median) for result in results if result.median is not None]
    measured.sort(key=lambda pair: -pair[1].tracks_per_second)
    sizes = [result.install_size for result, _ in measured if result.install_size is not None]
    rows = []
    for result, turn in measured:
        best = max(each.tracks_per_second for _, each in measured)
        cells = [_cell(turn.tracks_per_second, best, ",.0f")]
        for value, form in _LOWER_IS_BETTER:
            cells.append(_cell(value(turn), min(value(each) for _, each in measured), form))
        cells.append("-" if result.install_size is None else _cell(result.install_size, min(sizes), ",.0f"))
        rows.append([result.name, result.body, *cells])
    failures = [result for result in results if result.failure is not None]
    return rows + [[result.name, result.body, "failed", *["-"] * (len(_TITLES) - 3)] for result in failures]


def _cell(value: float, best: float, form: str) -> str:
    text = format(value, form)
    return f"**{text}**" if text == format(best, form) else text


def _setting_cells(result: PeerResult) -> list[str]:
    versions = [f"{name} {result.versions[name]}" for name in result.shown if name in result.versions]
    return [result.name, ", ".join(versions) or "-", result.settings]
