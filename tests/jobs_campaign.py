"""Jobs while workers, gateway and Triton are killed at random moments: `python -m tests.jobs_campaign`.

Every job must end once, and each result must equal that of `reentry predict` byte by byte.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from client.predict import PredictConfig, predict_file
from gateway.database.migrate import migrate
from gateway.settings import GatewaySettings
from reentry.serving import ServerConfig
from reentry.serving.foreground import serve_until_ended
from reentry.simulation import TrapezoidConfig, simulate_trapezoid
from tests.conftest import make_repository
from tests.gateway_servers import (
    Server,
    free_port,
    listens,
    new_postgresql_database,
    running_gateway,
    running_postgresql,
    wait_until,
)
from tests.job_client import ENDED, JobClient

LEASE_SECONDS = 3.0
_START_SECONDS = 600.0
"""Longest start of Triton on a machine that is busy with other work, s."""


@dataclass(kw_only=True)
class Report:
    """Figures of a campaign."""

    jobs: int
    seconds: float = 0.0
    kills: dict[str, int] = field(default_factory=dict)
    states: dict[str, int] = field(default_factory=dict)
    rows: int = 0
    """Rows of all results."""
    leases: int = 0
    """Turns of workers on the jobs, one for each job without kills."""
    most_leases: int = 0
    different: list[str] = field(default_factory=list)
    """Jobs whose results differ from those of `reentry predict`."""


@contextmanager
def running_triton(folder: Path, repository: Path) -> Iterator[Server]:
    """Triton as a process of its own, on ports that stay the same when it is killed and started again."""
    ports = [free_port() for _ in range(3)]
    command = [sys.executable, "-u", "-m", "tests.jobs_campaign", "--serve", str(repository), *map(str, ports)]
    server = Server(ports[0], command, folder / "triton.log")
    server.start(seconds=_START_SECONDS)
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def running_worker(folder: Path, name: str, **settings: Any) -> Iterator[Server]:
    """The command `reentry gateway work`."""
    port = free_port()
    given = {"data": folder / name, "metrics_port": port, **settings}
    environment = {f"REENTRY_GATEWAY_{key.upper()}": str(value) for key, value in given.items()}
    command = [sys.executable, "-u", "-c", "import cli; cli.main()", "gateway", "work"]
    server = Server(port, command, folder / f"{name}.log", environment)
    server.start(seconds=_START_SECONDS)
    try:
        yield server
    finally:
        server.stop()


def make_sources(folder: Path, number: int, seed: int) -> list[Path]:
    """Write files of tracks of different sizes."""
    sizes = random.Random(seed)
    sources = []
    for each in range(number):
        tracks = sizes.randint(40, 160)
        table = simulate_trapezoid(
            TrapezoidConfig(tracks=tracks, shortest=100, longest=400, seed=seed + each, labels=False)
        )
        sources.append(folder / f"tracks_{each}.csv")
        table.to_csv(sources[-1], index=False)
    return sources


def expect(sources: list[Path], url: str) -> dict[Path, dict[str, bytes]]:
    """Score the files as `reentry predict` does."""
    results = {}
    for source in sources:
        out = source.with_suffix("")
        predict_file(PredictConfig(source=source, out=out, url=url))
        results[source] = {name: (out / f"{name}.csv").read_bytes() for name in ("predictions", "onsets")}
    return results


def submit(client: JobClient, sources: list[Path], number: int, seed: int) -> dict[str, Path]:
    """Create jobs through a gateway that may be killed at any moment; return the source of each by its id."""
    jobs = {}
    for each in range(number):
        source = sources[each % len(sources)]
        headers = {"content-type": "text/csv", "idempotency-key": f"{seed}-{each}"}
        deadline = time.monotonic() + 120
        while True:
            answer = client.request("POST", "/v1/jobs", content=source.read_bytes(), headers=headers)
            if answer.status_code == 202:
                break
            # 409: the first try with the key was killed, and its lock has not expired yet.
            assert answer.status_code in (409, 503), answer.text
            assert time.monotonic() < deadline, answer.text
            time.sleep(0.5)
        jobs[answer.json()["id"]] = source
    return jobs


def run(
    folder: Path,
    *,
    jobs: int,
    files: int,
    seed: int,
    triton: Server,
    client: JobClient,
    victims: dict[str, Callable[[], None]],
    pauses: tuple[float, float],
    most_kills: int,
    seconds: float,
) -> Report:
    """Create jobs and kill victims at random moments until all jobs have ended.

    Args:
        folder: folder of the files.
        jobs: number of jobs.
        files: number of different files.
        seed: random seed of the files and of the kills.
        triton: the server, for the expected results.
        client: client of the gateway.
        victims: what kills and restarts each process, by its name.
        pauses: shortest and longest time between two kills, s.
        most_kills: number of kills after which the rest runs undisturbed.
        seconds: longest duration, s.
    """
    report = Report(jobs=jobs)
    sources = make_sources(folder, files, seed)
    expected = expect(sources, f"grpc://127.0.0.1:{triton.port}")
    done = threading.Event()
    kills: Counter[str] = Counter()
    faults: list[BaseException] = []

    def kill() -> None:
        chance = random.Random(seed)
        try:
            while kills.total() < most_kills and not done.wait(chance.uniform(*pauses)):
                name = chance.choice(sorted(victims))
                victims[name]()
                kills[name] += 1
        except BaseException as error:
            faults.append(error)

    thread = threading.Thread(target=kill)
    begun = time.monotonic()
    thread.start()
    try:
        created = submit(client, sources, jobs, seed)
        waiting = set(created)
        while waiting:
            assert not faults, faults
            assert time.monotonic() - begun < seconds, f"{len(waiting)} jobs have not ended"
            for job_id in list(waiting):
                if client.show(job_id)["state"] in ENDED:
                    waiting.discard(job_id)
            time.sleep(0.5)
    finally:
        done.set()
        thread.join()
    assert not faults, faults
    report.seconds = round(time.monotonic() - begun, 1)
    report.kills = dict(kills)
    listed = client.request("GET", "/v1/jobs", params={"limit": 1000}).json()["jobs"]
    assert {job["id"] for job in listed} == set(created), "a job was created twice, or lost"
    report.states = dict(Counter(job["state"] for job in listed))
    for job_id, source in created.items():
        results = {name: client.result(job_id, name) for name in expected[source]}
        report.rows += results["predictions"].count(b"\n") - 1
        if results != expected[source]:
            report.different.append(job_id)
    return report


def killing(server: Server) -> Callable[[], None]:
    """Return what kills a server with SIGKILL and starts it again."""

    def act() -> None:
        server.stop(signal.SIGKILL)
        wait_until(lambda: not listens(server.port), what="the port being free")
        server.start(seconds=_START_SECONDS)

    return act


def serve(repository: Path, grpc_port: int, http_port: int, metrics_port: int) -> None:
    """Serve until a signal, however long the start takes."""
    ports = {"grpc_port": grpc_port, "http_port": http_port, "metrics_port": metrics_port}
    config = ServerConfig(
        model_repository=repository, drain_timeout=0.1, start_timeout=_START_SECONDS, log_to_stderr=True, **ports
    )
    serve_until_ended(config, lambda _: None)


def main() -> None:
    """Run the campaign with PostgreSQL, a gateway, two workers, a shared folder and Triton."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=3_600.0)
    parser.add_argument("--serve", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(Path(given.serve[0]), *map(int, given.serve[1:]))
        return
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        triton = stack.enter_context(running_triton(folder, make_repository(folder)))
        postgresql = stack.enter_context(running_postgresql(folder))
        url = new_postgresql_database(postgresql)
        settings = {
            "triton_url": f"grpc://127.0.0.1:{triton.port}",
            "database_url": url,
            "store": folder / "store",
            "lease_seconds": LEASE_SECONDS,
        }
        migrate(GatewaySettings(data=folder / "gateway", database_url=url))
        key = create_key(GatewaySettings(data=folder / "gateway", database_url=url))
        gateway = stack.enter_context(running_gateway(folder, **settings))
        workers = [stack.enter_context(running_worker(folder, f"worker{each}", **settings)) for each in (1, 2)]
        client = JobClient(gateway.url, key)
        stack.callback(client.close)
        servers = {"gateway": gateway, "triton": triton, "worker1": workers[0], "worker2": workers[1]}
        report = run(
            folder,
            jobs=given.jobs,
            files=10,
            seed=given.seed,
            triton=triton,
            client=client,
            victims={name: killing(server) for name, server in servers.items()},
            pauses=(1.0, 8.0),
            most_kills=given.jobs,
            seconds=given.seconds,
        )
        leases = fences(url)
        report.leases, report.most_leases = sum(leases), max(leases)
    print(json.dumps(asdict(report), indent=2))
    sys.exit(0 if report.states == {"completed": given.jobs} and not report.different else 1)


def create_key(settings: GatewaySettings) -> str:
    """Create an account with a key for everything."""
    import asyncio

    from gateway.accounts.directory import Directory
    from gateway.accounts.principal import Scope
    from gateway.database.engine import Database

    async def create() -> str:
        database = Database(settings)
        try:
            directory = Directory(database, settings)
            account_id = await directory.create_account("campaign", "premium")
            return (await directory.create_key(account_id, name="campaign", scopes=Scope))[1]
        finally:
            await database.close()

    return asyncio.run(create())


def fences(url: str) -> list[int]:
    """Return the number of leases of each job."""
    import psycopg

    with psycopg.connect(url) as connection:
        return [int(row[0]) for row in connection.execute("SELECT fence FROM jobs")]


if __name__ == "__main__":
    main()
