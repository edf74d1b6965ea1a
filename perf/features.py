"""Benchmark of the features: processor time of a live step in batches of tracks, and of a lone whole track.

    python -m perf.features --tracks 500 --steps 900

The tracks are simulated ballistic flights of ordinary sensors, in this process, without a server. Each figure is the
median of several rounds, in which all groups of features take turns. The first call of each group is not part of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Final

import numpy as np
import numpy.typing as npt
import typer

from perf.machine import machine
from perf.tables import table
from reentry.features.groups import names_with
from reentry.features.history import LiveState, LiveTracks
from reentry.features.track import next_features, track_features
from reentry.schema import COSTLY_GROUPS, MEASUREMENT_COLUMNS
from reentry.simulation import BallisticConfig, of_severity, simulate_ballistic

SEVERITY: Final = 2
"""Severity of the simulated sensors."""

_DISTINCT_TRACKS: Final = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureCost:
    """Processor time of the simple features and those of one group."""

    group: str
    live_microseconds: float
    """Time for one step of one track in a batch of live tracks, µs."""
    whole_milliseconds: float
    """Time for a lone whole track, ms."""


def measure_features(*, tracks: int, steps: int, rounds: int) -> list[FeatureCost]:
    """Measure the simple features alone, and with each group and all groups of `schema.COSTLY_GROUPS`.

    Args:
        tracks: number of live tracks in a batch.
        steps: number of steps of each track.
        rounds: number of measurements, of which the median counts.
    """
    flights = _flights(tracks, steps)
    groups = {"simple": (), **{group: (group,) for group in COSTLY_GROUPS}, "all": tuple(COSTLY_GROUPS)}
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in groups}
    for measured in range(rounds + 1):
        for name, members in groups.items():
            wanted = frozenset(members)
            live = _seconds(partial(_step_all, flights, names_with(wanted)))
            whole = _seconds(partial(track_features, flights[0], groups=wanted))
            if measured:
                seconds[name].append((live, whole))
    costs = []
    for name, figures in seconds.items():
        live, whole = np.median(figures, axis=0)
        costs.append(
            FeatureCost(group=name, live_microseconds=1e6 * live / (tracks * steps), whole_milliseconds=1e3 * whole)
        )
    return costs


def _flights(tracks: int, steps: int) -> npt.NDArray[np.float64]:
    """Return the measurements of simulated flights, (B, T, M); short flights end with copies of their last row."""
    distinct = min(tracks, _DISTINCT_TRACKS)
    table = simulate_ballistic(BallisticConfig(tracks=distinct, seed=0, sensors=of_severity(SEVERITY)))
    table = table.sort_values(["track_id", "timestamp"], kind="stable")
    flown = [rows[list(MEASUREMENT_COLUMNS)].to_numpy(np.float64)[:steps] for _, rows in table.groupby("track_id")]
    padded = [np.concatenate([rows, np.repeat(rows[-1:], steps - len(rows), axis=0)]) for rows in flown]
    return np.stack([padded[number % distinct] for number in range(tracks)])


def _step_all(flights: npt.NDArray[np.float64], names: tuple[str, ...]) -> None:
    """Compute the features of all live tracks step by step."""
    state: LiveState | None = None
    for rows in np.ascontiguousarray(flights.transpose(1, 2, 0)):  # (M, B) at each step
        history = LiveTracks(state, None)
        next_features(list(rows), history, names)
        state = history.after


def _seconds(work: Callable[[], object]) -> float:
    """Return the processor time of a call, s."""
    start = time.process_time()
    work()
    return time.process_time() - start


def main(
    tracks: Annotated[int, typer.Option(min=1, help="Live tracks in a batch.")] = 500,
    steps: Annotated[int, typer.Option(min=1, help="Steps of each track.")] = 900,
    rounds: Annotated[int, typer.Option(min=1, help="Measurements, of which the median counts.")] = 3,
) -> None:
    """Print the processor time of the features.

    Example: `python -m perf.features --tracks 500 --steps 900`
    """
    on = machine()
    typer.echo(f"{on['processor']}, {on['cores']} cores; {tracks} tracks of {steps} steps, median of {rounds}\n")
    titles = ("features", "live, µs per step and track", "whole track, ms")
    costs = measure_features(tracks=tracks, steps=steps, rounds=rounds)
    rows = [(cost.group, f"{cost.live_microseconds:.2f}", f"{cost.whole_milliseconds:.2f}") for cost in costs]
    typer.echo("\n".join(table(titles, rows)))


if __name__ == "__main__":
    typer.run(main)
