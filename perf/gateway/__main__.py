"""What the gateway costs: the same tracks in turns through it and to Triton directly.

    python -m perf.gateway --repository model_repository --turns 3

wrk and perf_analyzer send simulated tracks to an embedded Triton and to a gateway in front of it. A gateway without a
cache scores every track; one with a cache answers from it; one whose key has used up its requests refuses them. The
processor time of the gateway is that of its process, which other load on the machine distorts less than throughput.
`perf.gateway.plain_chain` takes the same turns: FastAPI and tritonclient alone, without what else the gateway does.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Final

import typer

from perf.gateway.process import Gateway, running_gateway, running_plain_chain
from perf.gateway.requests import arrow_request, json_request, kserve_request
from perf.peers.process_tree import tree_cpu_seconds
from perf.peers.protocols import HttpRequest
from perf.peers.wrk import WrkFigures, run_wrk, write_requests
from perf.scoring import draw_flights
from perf.tables import table
from reentry.errors import ReentryError
from reentry.schema import ENSEMBLE
from reentry.serving import EmbeddedServer, ServerConfig
from reentry.tracks import Track

STEPS: Final = 900
BATCH: Final = 64
_REQUESTS: Final = 16
"""Different requests that are sent in turn."""
_WARM_UP: Final = 5
_INFER: Final = f"/v2/models/{ENSEMBLE.name}/infer"
_SCORE: Final = "/v1/tracks:score"
_TITLES: Final = (
    *("tracks", "connections", "direct tracks/s", "gateway tracks/s", "share", "direct p50 ms", "gateway p50 ms"),
    *("added p50 ms", "CPU ms/track"),
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Target:
    """Requests for one address."""

    url: str
    requests: Sequence[HttpRequest]
    tracks: int = 1
    """Tracks in one request."""
    refused: bool = False
    """Whether the requests are to be refused with status 429."""


@dataclass(frozen=True, slots=True)
class Case:
    """The same tracks to both."""

    name: str
    connections: int
    direct: Target
    gateway: Target


@dataclass(frozen=True, slots=True)
class Turn:
    """Figures of one turn."""

    figures: WrkFigures
    tracks_per_second: float
    cpu_ms: float
    """Processor time of the gateway for each track or request, ms."""


def measure(target: Target, connections: int, *, seconds: int, process: int) -> Turn:
    """Send the requests of a target for some seconds.

    Args:
        target: requests and address.
        connections: number of requests in flight.
        seconds: duration, s.
        process: process whose processor time is counted.

    Raises:
        ClientError: a request failed.
    """
    with tempfile.TemporaryDirectory(prefix="reentry-gateway-") as folder:
        write_requests(Path(folder), target.requests)
        before = tree_cpu_seconds(process)
        figures = run_wrk(
            target.url,
            Path(folder),
            len(target.requests),
            connections=connections,
            seconds=seconds,
            refused=target.refused,
        )
        spent = tree_cpu_seconds(process) - before
    tracks = figures.requests * target.tracks
    return Turn(figures, tracks / figures.seconds, spent / tracks * 1e3)


def cases(tracks: Sequence[Track], triton: str, gateway: Gateway) -> list[Case]:
    """Return the cases: single tracks and batches of `BATCH`, in each format."""
    single = [kserve_request([track]) for track in tracks]
    batches = [tracks[start : start + BATCH] for start in range(0, len(tracks), BATCH)]
    batch = [kserve_request(each) for each in batches]
    direct, direct_batch = Target(triton + _INFER, single), Target(triton + _INFER, batch, BATCH)
    infer, score = gateway.url + _INFER, gateway.url + _SCORE

    def keyed(requests: Sequence[HttpRequest]) -> list[HttpRequest]:
        return [HttpRequest({**each.headers, **gateway.headers}, each.body) for each in requests]

    binary = Target(infer, keyed(single))
    arrow = Target(score, keyed([arrow_request([track]) for track in tracks]))
    as_json = Target(score, keyed([json_request([track]) for track in tracks]))
    return [
        Case("one, /v2 binary", 1, direct, binary),
        Case("one, /v2 binary", 8, direct, binary),
        Case("one, Arrow", 1, direct, arrow),
        Case("one, Arrow", 8, direct, arrow),
        Case("one, JSON", 8, direct, as_json),
        Case(f"{BATCH}, /v2 binary", 2, direct_batch, Target(infer, keyed(batch), BATCH)),
        Case(
            f"{BATCH}, Arrow", 2, direct_batch, Target(score, keyed([arrow_request(each) for each in batches]), BATCH)
        ),
    ]


def compare(case: Case, *, turns: int, seconds: int, process: int) -> list[str]:
    """Measure a case in turns, and return its row of medians."""
    for target in (case.direct, case.gateway):
        measure(target, case.connections, seconds=_WARM_UP, process=process)
    direct, gateway = [], []
    for _ in range(turns):
        direct.append(measure(case.direct, case.connections, seconds=seconds, process=process))
        gateway.append(measure(case.gateway, case.connections, seconds=seconds, process=process))
    rates = [median(turn.tracks_per_second for turn in each) for each in (direct, gateway)]
    p50 = [median(turn.figures.p50 for turn in each) for each in (direct, gateway)]
    row = [
        *(case.name, str(case.connections), f"{rates[0]:,.0f}", f"{rates[1]:,.0f}", f"{rates[1] / rates[0]:.2f}"),
        *(f"{p50[0]:.2f}", f"{p50[1]:.2f}", f"{p50[1] - p50[0]:.2f}"),
        f"{median(turn.cpu_ms for turn in gateway):.3f}",
    ]
    _log.info(" | ".join(row))
    return row


def rate(name: str, target: Target, *, turns: int, seconds: int, process: int) -> list[str]:
    """Measure a rate of the gateway alone, and return its row of medians."""
    _log.info(name)
    measure(target, 8, seconds=_WARM_UP, process=process)
    found = [measure(target, 8, seconds=seconds, process=process) for _ in range(turns)]
    cpu = median(turn.cpu_ms for turn in found)
    return [
        *(name, f"{median(turn.tracks_per_second for turn in found):,.0f}"),
        *(f"{median(turn.figures.p50 for turn in found):.2f}", f"{cpu:.3f}", f"{1e3 / cpu:,.0f}"),
    ]


@contextmanager
def _gateways(folder: Path, triton: EmbeddedServer) -> Iterator[tuple[Gateway, Gateway, Gateway]]:
    """Run three gateways: without a cache, with one, and with a limit that is used up."""
    limited = "[tiers.standard]\n[tiers.premium]\nrequests_per_second = 0.001\nburst = 1\n"
    unlimited = "[tiers.standard]\n[tiers.premium]\nrequests_per_second = 1e6\nburst = 1000000\n"
    unlimited += "steps_per_minute = 1000000000000\n"
    address = f"http://{triton.http_url}"
    with ExitStack() as stack:
        yield (
            stack.enter_context(running_gateway(folder / "a", address, f"cache_bytes = 0\n{unlimited}")),
            stack.enter_context(running_gateway(folder / "b", address, unlimited)),
            stack.enter_context(running_gateway(folder / "c", address, limited)),
        )


def main(
    repository: Annotated[Path, typer.Option(help="Model repository of the embedded server.")] = Path(
        "model_repository"
    ),
    turns: Annotated[int, typer.Option(help="Number of turns, whose medians count.", min=1)] = 3,
    seconds: Annotated[int, typer.Option(help="Seconds of each measurement.", min=1)] = 5,
) -> None:
    """Compare the gateway with Triton itself.

    Example: `python -m perf.gateway --turns 3`
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    tracks = draw_flights(_REQUESTS * BATCH // 4, STEPS)
    try:
        own = ServerConfig(model_repository=repository, http_port=0, grpc_port=0, metrics_port=0)
        with (
            tempfile.TemporaryDirectory(prefix="reentry-gateway-") as folder,
            EmbeddedServer(own) as triton,
            _gateways(Path(folder), triton) as (plain, caching, limited),
            running_plain_chain(Path(folder), triton.grpc_url) as chain,
        ):
            each = {"turns": turns, "seconds": seconds}
            rows = [
                compare(case, **each, process=plain.process)
                for case in cases(tracks, f"http://{triton.http_url}", plain)
            ]
            direct = Target(f"http://{triton.http_url}{_INFER}", [kserve_request([track]) for track in tracks])
            scores = Target(chain.url + "/score", [arrow_request([track]) for track in tracks])
            rows += [
                compare(Case("one, Arrow, FastAPI alone", count, direct, scores), **each, process=chain.process)
                for count in (1, 8)
            ]
            request = arrow_request(tracks[:1])
            hit = Target(caching.url + _SCORE, [HttpRequest({**request.headers, **caching.headers}, request.body)])
            again = HttpRequest({**request.headers, **limited.headers}, request.body)
            over = Target(limited.url + _SCORE, [again], refused=True)
            rates = [
                rate("answers from the cache", hit, **each, process=caching.process),
                rate("refusals (429)", over, **each, process=limited.process),
            ]
    except ReentryError as error:
        typer.secho(f"error: {error}", fg="red", err=True)
        sys.exit(1)
    typer.echo("\n".join(table(_TITLES, rows)))
    typer.echo()
    typer.echo("\n".join(table(("answers", "per second", "p50 ms", "CPU ms", "per second and core"), rates)))


if __name__ == "__main__":
    typer.run(main)
