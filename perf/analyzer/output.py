"""Output of perf_analyzer: a CSV file for the model and each member of an ensemble, a summary, and single requests."""

from __future__ import annotations

import csv
import mmap
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from perf.analyzer.results import Figures, ServerTimes
from reentry.errors import ClientError

STALL: Final = 400.0
"""Duration in ms from which a request counts as stalled. A wake-up that Triton's scheduler loses costs 500 ms."""

_START: Final = re.compile(rb'"timestamp":(\d+)')
_END: Final = re.compile(rb'"response_timestamps":\[(\d+)')
_LATE: Final = re.compile(r"([\d.]+)% of the requests were delayed")
_REQUESTS: Final = re.compile(r"Request count: (\d+)")


def read_figures(csv_file: Path, summary: str) -> Figures:
    """Read the figures of a run with one level.

    Args:
        csv_file: file that perf_analyzer wrote with --verbose-csv. The files of the members of an ensemble lie beside
            it as MODEL_vVERSION.NAME.
        summary: standard output of perf_analyzer.

    Raises:
        ClientError: a figure is missing.
    """
    columns = _read_columns(csv_file)
    members = {name: _server_times(_read_columns(path), path) for name, path in sorted(_member_files(csv_file))}
    requests, late = _REQUESTS.search(summary), _LATE.search(summary)
    if requests is None:
        raise _unreadable(csv_file, "Request count")
    own = _server_times(columns, csv_file)
    return Figures(
        requests=int(requests[1]),
        tracks_per_second=_number(columns, "Inferences/Second", csv_file),
        p50=_ms(columns, "p50 latency", csv_file),
        p90=_ms(columns, "p90 latency", csv_file),
        p95=_ms(columns, "p95 latency", csv_file),
        p99=_ms(columns, "p99 latency", csv_file),
        mean=_ms(columns, "Avg latency", csv_file),
        client_send=_ms(columns, "Client Send", csv_file),
        client_receive=_ms(columns, "Client Recv", csv_file),
        # The row of an ensemble has the queue of the ensemble alone, and not those of its members.
        server=_sum(list(members.values())) if members else own,
        members=members,
        late=float(late[1]) if late else 0.0,
    )


def read_latencies(export: Path) -> list[float]:
    """Read the latency of each request, ms, from a file that perf_analyzer wrote with --profile-export-file.

    The file also has the inputs of each request, as text, so it is searched instead of parsed.
    """
    with export.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        starts, ends = ([int(found[1]) for found in pattern.finditer(content)] for pattern in (_START, _END))
    return [(end - start) / 1e6 for start, end in zip(starts, ends, strict=True)]


def failed_request(errors: str) -> str | None:
    """Return the reason of the first failed request from standard error of perf_analyzer; None if there is none."""
    found = re.search(r"Thread \[\d+\] had error: (.+)", errors)
    return found[1].strip() if found else None


def _member_files(csv_file: Path) -> Iterator[tuple[str, Path]]:
    for path in csv_file.parent.glob(f"*_v*.{csv_file.name}"):
        yield path.name.removesuffix(f".{csv_file.name}").rpartition("_v")[0], path


def _read_columns(csv_file: Path) -> dict[str, str]:
    """Return the cells of the only row by column."""
    with csv_file.open(encoding="utf-8", newline="") as file:
        return next(csv.DictReader(file), {})


def _server_times(columns: dict[str, str], csv_file: Path) -> ServerTimes:
    return ServerTimes(
        queue=_ms(columns, "Server Queue", csv_file),
        compute_input=_ms(columns, "Server Compute Input", csv_file),
        compute_infer=_ms(columns, "Server Compute Infer", csv_file),
        compute_output=_ms(columns, "Server Compute Output", csv_file),
    )


def _sum(members: list[ServerTimes]) -> ServerTimes:
    return ServerTimes(
        queue=sum(each.queue for each in members),
        compute_input=sum(each.compute_input for each in members),
        compute_infer=sum(each.compute_infer for each in members),
        compute_output=sum(each.compute_output for each in members),
    )


def _ms(columns: dict[str, str], name: str, csv_file: Path) -> float:
    return _number(columns, name, csv_file) / 1e3


def _number(columns: dict[str, str], name: str, csv_file: Path) -> float:
    try:
        return float(columns[name])
    except (KeyError, TypeError, ValueError):
        raise _unreadable(csv_file, name) from None


def _unreadable(csv_file: Path, name: str) -> ClientError:
    return ClientError(
        "the output of perf_analyzer has another form",
        where=csv_file.name,
        expected=f"a number for {name}",
        fix="install tritonclient 2.51.0, with which this program was tested",
    )
