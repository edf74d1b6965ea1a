"""Benchmark of scoring through Triton over gRPC against the same work in one process with ONNX Runtime.

    python -m perf.scoring --tracks 1000 --steps 900

Both methods do the whole work, measurements -> features -> LSTM -> phase and onset, with the same code and the same
ONNX file on the same cores. Each uses the fastest settings of a trial beforehand. Runs alternate between the methods,
so that other load on the machine affects both. Client and server share the machine.

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
from reentry.triton.feature_demand import FeatureDemand

if TYPE_CHECKING:
    import onnxruntime

TOLERANCE: Final = 1e-5
"""Largest allowed difference in probability between the methods."""

_BATCHES: Final = (8, 16, 32)
_IN_FLIGHT: Final = (2, 4)
_TIME: Final = MEASUREMENT_COLUMNS.index(TIMESTAMP.name)

Number = TypeVar("Number", np.float32, np.float64)
Probabilities = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ScoringMethod:
    """A method to score all tracks: name, settings in words, and a function that returns probabilities (B, T)."""

    name: str
    settings: str
    run: Callable[[], Probabilities]


def in_process(
    model: Path, measurements: npt.NDArray[np.float64], *, batch: int, workers: int, threads: int
) -> ScoringMethod:
    """Run features, LSTM and decision in this process, with `workers` chunks at once on `threads` threads each."""
    session = _session(model, threads)
    chunks = _chunks(measurements, batch)
    groups = _groups(model)

    def one(chunk: npt.NDArray[np.float64]) -> Probabilities:
        probability = _probability(session, track_features(chunk, groups=groups))
        decide_tracks(probability, chunk[:, :, _TIME], np.full(len(chunk), chunk.shape[1]))
        return probability

    return ScoringMethod(
        "in process", f"batch {batch}, {workers} x {threads} threads", lambda: _all(one, chunks, workers)
    )


def network_only(
    model: Path, measurements: npt.NDArray[np.float64], *, batch: int, workers: int, threads: int
) -> ScoringMethod:
    """Run the LSTM alone on precomputed features, as an upper bound for all methods."""
    session = _session(model, threads)
    groups = _groups(model)
    features = np.concatenate([track_features(chunk, groups=groups) for chunk in _chunks(measurements, 64)])
    chunks = _chunks(features, batch)
    settings = f"batch {batch}, {workers} x {threads} threads"
    return ScoringMethod(
        "ONNX alone", settings, lambda: _all(lambda chunk: _probability(session, chunk), chunks, workers)
    )


def through_triton(server: EmbeddedServer, tracks: Sequence[Track], *, batch: int, in_flight: int) -> ScoringMethod:
    """Score with the project's client over gRPC, from tracks in memory to scores in memory."""
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


def measure(methods: Sequence[ScoringMethod], repeats: int) -> tuple[dict[str, list[float]], float]:
    """Run all methods alternately.

    Returns:
        The duration of each run in s, by method, and the largest difference in probability from the first method.
    """
    seconds: dict[str, list[float]] = {method.name: [] for method in methods}
    difference = 0.0
    for _ in range(repeats):
        results = []
        for method in methods:
            begun = time.perf_counter()
            results.append(method.run())
            seconds[method.name].append(time.perf_counter() - begun)
        difference = max(difference, *(float(np.abs(each - results[0]).max()) for each in results))
    return seconds, difference


def best(methods: Sequence[ScoringMethod]) -> ScoringMethod:
    """Return the fastest of several settings of one method. Each is run twice, the first time as warm-up."""

    def tried(method: ScoringMethod) -> float:
        method.run()
        begun = time.perf_counter()
        method.run()
        return time.perf_counter() - begun

    return min(methods, key=tried)


def compare(*, tracks: int, steps: int, repository: Path, repeats: int) -> str:
    """Measure all methods and return the results as a text table.

    Raises:
        ServerError: the server does not start, or no version of the network is installed.
        ReentryError: the probabilities of two methods differ by more than `TOLERANCE`.
    """
    if repeats < 1:
        raise ConfigError("repeats", expected="at least 1", got=str(repeats))
    flights = draw_flights(tracks, steps)
    measurements = np.stack([flight.measurements for flight in flights])
    layouts = [(batch, *layout) for batch in _BATCHES for layout in {(1, cores()), (cores(), 1)}]
    config = ServerConfig(model_repository=repository, http_port=0, grpc_port=0, metrics_port=0)
    with EmbeddedServer(config) as server:
        model = _served_model(repository)
        methods = [
            best([make(model, measurements, batch=b, workers=w, threads=t) for b, w, t in layouts])
            for make in (network_only, in_process)
        ]
        methods.append(
            best([through_triton(server, flights, batch=b, in_flight=n) for b in _BATCHES for n in _IN_FLIGHT])
        )
        seconds, difference = measure(methods, repeats)
    if difference > TOLERANCE:
        raise ReentryError(
            "the methods give different probabilities",
            expected=f"a difference of at most {TOLERANCE}",
            got=str(difference),
        )
    return _table(methods, seconds, tracks, steps, difference)


def _table(
    methods: Sequence[ScoringMethod], seconds: dict[str, list[float]], tracks: int, steps: int, difference: float
) -> str:
    lines = [
        f"{tracks:,} tracks of {steps:,} steps, {cores()} cores, median of {len(seconds[methods[0].name])} runs each",
        f"{'':<16}{'tracks/s':>10}{'M steps/s':>11}{'fastest':>10}{'slowest':>10}  settings",
    ]
    for method in methods:
        rates = sorted(tracks / each for each in seconds[method.name])
        median = statistics.median(rates)
        lines.append(
            f"{method.name:<16}{median:>10,.0f}{median * steps / 1e6:>11.2f}{rates[-1]:>10,.0f}{rates[0]:>10,.0f}"
            f"  {method.settings}"
        )
    ratio = statistics.median(seconds["in process"]) / statistics.median(seconds["through Triton"])
    lines.append(f"Triton / in process: {ratio:.2f}; largest difference in probability {difference:.1e}")
    return "\n".join(lines)


def draw_flights(tracks: int, steps: int, *, seed: int = 0) -> list[Track]:
    """Simulate tracks that all have `steps` steps."""
    table = simulate_trapezoid(TrapezoidConfig(tracks=tracks, seed=seed, shortest=steps, longest=steps, labels=False))
    measurements = table[list(MEASUREMENT_COLUMNS)].to_numpy(np.float64).reshape(tracks, steps, -1)
    rows = np.arange(steps)
    return [
        Track(track_id=index, measurements=own, reentry_phase=None, rows=rows, steps=rows)
        for index, own in enumerate(measurements)
    ]


def _served_model(repository: Path) -> Path:
    version = served_versions(repository, REENTRY_LSTM.name)[-1]
    return repository / REENTRY_LSTM.name / str(version) / "model.onnx"


def _groups(model: Path) -> frozenset[str]:
    """Return the groups of features that the server computes, so that all methods compute the same ones."""
    return FeatureDemand(model.parent.parent)()


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
    tracks: Annotated[int, typer.Option(help="Number of tracks.")] = 1000,
    steps: Annotated[int, typer.Option(help="Steps in each track.")] = 900,
    repository: Annotated[Path, typer.Option(help="Model repository with an exported version.")] = Path(
        "model_repository"
    ),
    repeats: Annotated[int, typer.Option(help="Runs of each method; the median is reported.")] = 5,
) -> None:
    """Score tracks through Triton and in one process, and print both rates and their ratio.

    Example: `python -m perf.scoring --tracks 1000 --steps 900`
    """
    try:
        typer.echo(compare(tracks=tracks, steps=steps, repository=repository, repeats=repeats))
    except ReentryError as error:
        typer.secho(f"error: {error}", fg="red", err=True)
        sys.exit(1)


if __name__ == "__main__":
    typer.run(main)
