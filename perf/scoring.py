"""Scoring many tracks through Triton over gRPC, beside the same work in one process with ONNX Runtime.

    python -m perf.scoring --tracks 1000 --steps 900

Both paths do all of it, measurements -> features -> LSTM -> phase and onset, with the same code and the same ONNX file
on the same cores, and each at the settings that served it best in a trial beforehand. They take turns, so that whatever
else the machine does meets both. Client and server share the machine.

Shapes: B tracks, T steps, M measurement columns.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, TypeVar

import numpy as np
import numpy.typing as npt
import typer

from client.batching import BatchConfig, batches
from client.connection import Connection, Endpoint
from client.journal import Score
from client.retry import Retry, RetryConfig
from client.scoring import score
from reentry.decision import decide_tracks
from reentry.errors import ConfigError, ReentryError
from reentry.features.track import track_features
from reentry.runtime.cores import cores
from reentry.schema import FEATURES_TENSOR, MEASUREMENT_COLUMNS, PROBABILITY, REENTRY_LSTM, TIMESTAMP
from reentry.serving import EmbeddedServer, ServerConfig
from reentry.serving.repository import served_versions
from reentry.simulation import TrapezoidConfig, simulate_trapezoid
from reentry.tracks import Track
from reentry.triton.feature_demand import RobustWanted

if TYPE_CHECKING:
    import onnxruntime

TOLERANCE: Final = 1e-5
"""Largest difference between the two paths, in probability."""

_BATCHES: Final = (8, 16, 32)
_IN_FLIGHT: Final = (2, 4)
_TIME: Final = MEASUREMENT_COLUMNS.index(TIMESTAMP.name)

Number = TypeVar("Number", np.float32, np.float64)
Probabilities = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ScoringMethod:
    """One way to score all tracks: a name, its settings in words, and a run that gives the probabilities, (B, T)."""

    name: str
    settings: str
    run: Callable[[], Probabilities]


def in_process(
    model: Path, measurements: npt.NDArray[np.float64], *, batch: int, workers: int, threads: int
) -> ScoringMethod:
    """Features, network and decision in this process: `workers` at once, each network on `threads` threads."""
    session = _session(model, threads)
    chunks = _chunks(measurements, batch)
    robust = _robust_wanted(model)

    def one(chunk: npt.NDArray[np.float64]) -> Probabilities:
        probability = _probability(session, track_features(chunk, robust=robust))
        decide_tracks(probability, chunk[:, :, _TIME], np.full(len(chunk), chunk.shape[1]))
        return probability

    return ScoringMethod(
        "in process", f"batch {batch}, {workers} x {threads} threads", lambda: _all(one, chunks, workers)
    )


def network_only(
    model: Path, measurements: npt.NDArray[np.float64], *, batch: int, workers: int, threads: int
) -> ScoringMethod:
    """The network alone, on features made beforehand: what no way can beat."""
    session = _session(model, threads)
    robust = _robust_wanted(model)
    features = np.concatenate([track_features(chunk, robust=robust) for chunk in _chunks(measurements, 64)])
    chunks = _chunks(features, batch)
    settings = f"batch {batch}, {workers} x {threads} threads"
    return ScoringMethod(
        "ONNX alone", settings, lambda: _all(lambda chunk: _probability(session, chunk), chunks, workers)
    )


def through_triton(server: EmbeddedServer, tracks: Sequence[Track], *, batch: int, in_flight: int) -> ScoringMethod:
    """The client's own path, from tracks in memory to scores in memory, over gRPC."""
    endpoint = Endpoint.parse(f"grpc://{server.grpc_url}")

    async def score_all() -> Probabilities:
        found: dict[int, Probabilities] = {}
        retry = Retry(endpoint, RetryConfig())
        async with Connection(endpoint, timeout=60.0) as connection:
            todo = batches(tracks, BatchConfig(tracks=batch))
            async with aclosing(score(todo, connection, retry, concurrency=in_flight)) as answers:
                async for answer in answers:
                    for track, outcome in answer:
                        if not isinstance(outcome, Score):
                            raise ReentryError(f"track {track.track_id} was {outcome.reason}")
                        found[track.track_id] = outcome.probability
        return np.stack([found[track.track_id] for track in tracks])

    return ScoringMethod("through Triton", f"batch {batch}, {in_flight} in flight", lambda: asyncio.run(score_all()))


def measure(ways: Sequence[ScoringMethod], repeats: int) -> tuple[dict[str, list[float]], float]:
    """Run the ways in turns.

    Returns:
        The seconds of each run by the way's name, and the largest difference from the first way in probability.
    """
    seconds: dict[str, list[float]] = {way.name: [] for way in ways}
    difference = 0.0
    for _ in range(repeats):
        results = []
        for way in ways:
            begun = time.perf_counter()
            results.append(way.run())
            seconds[way.name].append(time.perf_counter() - begun)
        difference = max(difference, *(float(np.abs(each - results[0]).max()) for each in results))
    return seconds, difference


def best(ways: Sequence[ScoringMethod]) -> ScoringMethod:
    """The fastest of several settings of one way, each tried twice; the first time warms it up."""

    def tried(way: ScoringMethod) -> float:
        way.run()
        begun = time.perf_counter()
        way.run()
        return time.perf_counter() - begun

    return min(ways, key=tried)


def compare(*, tracks: int, steps: int, repository: Path, repeats: int) -> str:
    """Measure all ways and give the table.

    Raises:
        ServerError: the server does not start, or no version of the network is installed.
        ReentryError: the ways differ by more than `TOLERANCE`.
    """
    if repeats < 1:
        raise ConfigError("repeats", expected="at least 1", got=str(repeats))
    flights = draw_flights(tracks, steps)
    measurements = np.stack([flight.measurements for flight in flights])
    layouts = [(batch, *layout) for batch in _BATCHES for layout in {(1, cores()), (cores(), 1)}]
    config = ServerConfig(model_repository=repository, http_port=0, grpc_port=0, metrics_port=0)
    with EmbeddedServer(config) as server:
        model = _served_model(repository)
        ways = [
            best([make(model, measurements, batch=b, workers=w, threads=t) for b, w, t in layouts])
            for make in (network_only, in_process)
        ]
        ways.append(best([through_triton(server, flights, batch=b, in_flight=n) for b in _BATCHES for n in _IN_FLIGHT]))
        seconds, difference = measure(ways, repeats)
    if difference > TOLERANCE:
        raise ReentryError("the ways differ", expected=f"at most {TOLERANCE} in probability", got=str(difference))
    return _table(ways, seconds, tracks, steps, difference)


def _table(
    ways: Sequence[ScoringMethod], seconds: dict[str, list[float]], tracks: int, steps: int, difference: float
) -> str:
    lines = [
        f"{tracks:,} tracks of {steps:,} steps, {cores()} cores, median of {len(seconds[ways[0].name])} runs in turns",
        f"{'':<16}{'tracks/s':>10}{'M steps/s':>11}{'fastest':>10}{'slowest':>10}  settings",
    ]
    for way in ways:
        rates = sorted(tracks / each for each in seconds[way.name])
        median = statistics.median(rates)
        lines.append(
            f"{way.name:<16}{median:>10,.0f}{median * steps / 1e6:>11.2f}{rates[-1]:>10,.0f}{rates[0]:>10,.0f}"
            f"  {way.settings}"
        )
    ratio = statistics.median(seconds["in process"]) / statistics.median(seconds["through Triton"])
    lines.append(f"Triton / in process: {ratio:.2f}; largest difference in probability {difference:.1e}")
    return "\n".join(lines)


def draw_flights(tracks: int, steps: int) -> list[Track]:
    """Simulated tracks of one length."""
    table = simulate_trapezoid(TrapezoidConfig(tracks=tracks, shortest=steps, longest=steps, labels=False))
    measurements = table[list(MEASUREMENT_COLUMNS)].to_numpy(np.float64).reshape(tracks, steps, -1)
    rows = np.arange(steps)
    return [
        Track(track_id=index, measurements=own, reentry_phase=None, rows=rows, steps=rows)
        for index, own in enumerate(measurements)
    ]


def _served_model(repository: Path) -> Path:
    version = served_versions(repository, REENTRY_LSTM.name)[-1]
    return repository / REENTRY_LSTM.name / str(version) / "model.onnx"


def _robust_wanted(model: Path) -> bool:
    """What the server asks of the versions beside it, so that all ways compute the same features."""
    return RobustWanted(model.parent.parent)()


def _session(model: Path, threads: int) -> onnxruntime.InferenceSession:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _probability(session: onnxruntime.InferenceSession, features: npt.NDArray[np.float32]) -> Probabilities:
    probability: Probabilities = session.run([PROBABILITY.name], {FEATURES_TENSOR.name: features})[0]
    return probability


def _chunks(values: npt.NDArray[Number], size: int) -> list[npt.NDArray[Number]]:
    return [values[start : start + size] for start in range(0, len(values), size)]


def _all(
    work: Callable[[npt.NDArray[Number]], Probabilities], chunks: Sequence[npt.NDArray[Number]], workers: int
) -> Probabilities:
    if workers == 1:
        return np.concatenate([work(chunk) for chunk in chunks])
    with ThreadPoolExecutor(workers) as pool:
        return np.concatenate(list(pool.map(work, chunks)))


def main(
    tracks: Annotated[int, typer.Option(help="Tracks to score.")] = 1000,
    steps: Annotated[int, typer.Option(help="Steps of each.")] = 900,
    repository: Annotated[Path, typer.Option(help="Model repository with an exported version.")] = Path(
        "model_repository"
    ),
    repeats: Annotated[int, typer.Option(help="Runs of each way, of which the median counts.")] = 5,
) -> None:
    """Score tracks through Triton and in one process, and print both and their ratio.

    Example: `python -m perf.scoring --tracks 1000 --steps 900`
    """
    try:
        typer.echo(compare(tracks=tracks, steps=steps, repository=repository, repeats=repeats))
    except ReentryError as error:
        typer.secho(f"error: {error}", fg="red", err=True)
        sys.exit(1)


if __name__ == "__main__":
    typer.run(main)
