"""Real servers for the tests of the gateway: PostgreSQL, Redis, and the gateway as a process."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gateway.database.migrate import migrate
from gateway.settings import GatewaySettings

POSTGRESQL = Path("/usr/lib/postgresql/15/bin")


def free_port() -> int:
    """A port of this machine that nothing listens on, and that no other program is given as a free one.

    A socket stays bound to the port, without listening, until this process ends. A server that sets SO_REUSEADDR, as
    all do, can listen on the port all the same, and again after a restart.
    """
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    port = int(held.getsockname()[1])
    held.detach()
    return port


def wait_until(condition: Callable[[], bool], *, seconds: float = 120.0, what: str = "the condition") -> None:
    """Poll a condition until it holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} does not hold after {seconds:g} s"
        time.sleep(0.02)


def listens(port: int) -> bool:
    """Whether a server accepts connections at a port of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@dataclass
class Server:
    """A server that a test can stop and start again on the same port."""

    port: int
    command: list[str]
    log: Path
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def start(self, *, seconds: float = 120.0) -> None:
        """Start it and wait until it accepts connections, at most this time."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, stdout=log, stderr=log, env=os.environ | self.environment, start_new_session=True
            )
        process = self.process
        wait_until(
            lambda: listens(self.port) or process.poll() is not None,
            seconds=seconds,
            what=f"{self.command[0]} listening",
        )
        assert self.process.poll() is None, self.log.read_text(errors="replace")[-2000:]

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Send it a signal, and wait until it has ended."""
        if self.process is None or self.process.poll() is not None:
            return
        os.killpg(self.process.pid, number)
        try:
            self.process.wait(120)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(120)

    def pause(self) -> None:
        """Stop its processes without ending them, as a hung server."""
        self._signal_all(signal.SIGSTOP)

    def resume(self) -> None:
        """Let them continue."""
        self._signal_all(signal.SIGCONT)

    def _signal_all(self, number: signal.Signals) -> None:
        """Signal its process and all descendants; each connection of PostgreSQL has a process group of its own."""
        if self.process is None:
            return
        parents = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        found = [self.process.pid]
        for process in found:  # which grows
            found += [child for child, parent in parents.items() if parent == process]
        for process in found:
            with suppress(ProcessLookupError):
                os.kill(process, number)


@contextmanager
def running_redis(folder: Path) -> Iterator[Server]:
    """A Redis server of its own."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed: apt-get install redis-server")
    port = free_port()
    command = [program, "--port", str(port), "--save", "", "--appendonly", "no", "--dir", str(folder)]
    server = Server(port, command, folder / "redis.log")
    server.start()
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def running_postgresql(folder: Path) -> Iterator[Server]:
    """A PostgreSQL server of its own, with a database `reentry` of the user `postgres`."""
    if not POSTGRESQL.exists():
        pytest.skip("PostgreSQL 15 is not installed: apt-get install postgresql-15")
    port = free_port()
    # pytest closes its folders to other users, and PostgreSQL refuses to run as root.
    data = Path(tempfile.mkdtemp(prefix="postgresql-"))
    as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    if as_user:
        shutil.chown(data, "postgres")
    options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync"]
    subprocess.run([*as_user, POSTGRESQL / "initdb", "-D", data, *options], check=True, capture_output=True, cwd="/")
    settings = f"port={port}\nlisten_addresses='127.0.0.1'\nunix_socket_directories=''\nshared_buffers=32MB\n"
    (data / "postgresql.auto.conf").write_text(settings + "fsync=off\nautovacuum=off\n")
    server = Server(port, [*as_user, str(POSTGRESQL / "postgres"), "-D", str(data)], folder / "postgresql.log")
    server.start()
    try:
        wait_until(lambda: _accepts_queries(port), what="PostgreSQL accepting queries")
        yield server
    finally:
        server.stop(signal.SIGINT)  # a fast shutdown, which ends the connections
        shutil.rmtree(data, ignore_errors=True)


def _accepts_queries(port: int) -> bool:
    import psycopg

    try:
        with psycopg.connect(f"postgresql://postgres@127.0.0.1:{port}/postgres", connect_timeout=30):
            return True
    except psycopg.OperationalError:
        return False


def new_postgresql_database(server: Server, template: str = "template1") -> str:
    """Create a database with the content of another, and return its address. Without `template` it is empty."""
    import psycopg

    name = f"test_{time.monotonic_ns()}"
    with psycopg.connect(f"postgresql://postgres@127.0.0.1:{server.port}/postgres", autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY file_copy')
    return f"postgresql://postgres@127.0.0.1:{server.port}/{name}"


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One PostgreSQL server for the tests of a process. A test that stops it uses `running_postgresql`."""
    with running_postgresql(tmp_path_factory.mktemp("postgresql")) as server:
        yield server


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One Redis server for the tests of a process. A test that stops it uses `running_redis`."""
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
def migrated_postgresql(postgresql: Server) -> str:
    """Name of a migrated database that new ones are copied from. Migrating each one takes ten times as long."""
    url = new_postgresql_database(postgresql)
    migrate(GatewaySettings(database_url=url))
    return url.rpartition("/")[2]


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data folder of a gateway with a migrated database, which tests copy."""
    folder = tmp_path_factory.mktemp("migrated")
    migrate(GatewaySettings(data=folder))
    return folder


@pytest.fixture
def embedded_settings(migrated_sqlite: Path, tmp_path: Path) -> GatewaySettings:
    """Settings with a new, migrated SQLite database."""
    return GatewaySettings(data=shutil.copytree(migrated_sqlite, tmp_path / "gateway"), port=0, metrics_port=0)


@pytest.fixture(params=["sqlite", "postgresql"])
def gateway_settings(request: pytest.FixtureRequest, tmp_path: Path) -> GatewaySettings:
    """Settings with a new, migrated database, once for SQLite and once for PostgreSQL."""
    if request.param == "sqlite":
        settings: GatewaySettings = request.getfixturevalue("embedded_settings")
        return settings
    server, template = (request.getfixturevalue(name) for name in ("postgresql", "migrated_postgresql"))
    url = new_postgresql_database(server, template)
    return GatewaySettings(data=tmp_path / "gateway", database_url=url, port=0, metrics_port=0)


@dataclass
class GatewayProcess(Server):
    """The command `reentry gateway serve`."""

    url: str = ""
    metrics_url: str = ""
    key: str = ""
    """Key for everything, printed at the first start."""


@contextmanager
def running_gateway(folder: Path, *, first: str = "", **settings: Any) -> Iterator[GatewayProcess]:
    """The gateway as a process of its own, on ports that stay the same when it is stopped and started again.

    Args:
        folder: folder of its data and its log.
        first: Python statement that runs before the command, such as one that changes a constant.
        settings: settings by name, such as triton_url.
    """
    port, metrics_port = free_port(), free_port()
    given = {"data": folder / "gateway", "port": port, "metrics_port": metrics_port, **settings}
    environment = {f"REENTRY_GATEWAY_{name.upper()}": str(value) for name, value in given.items()}
    command = [sys.executable, "-u", "-c", f"import cli\n{first}\ncli.main()", "gateway", "serve"]
    log = folder / "gateway.log"
    server = GatewayProcess(port, command, log, environment, url=f"http://127.0.0.1:{port}")
    server.metrics_url = f"http://127.0.0.1:{metrics_port}/metrics"
    server.start()
    try:
        wait_until(lambda: "ready; press" in log.read_text(errors="replace"), what="the announcement")
        lines = log.read_text().splitlines()
        server.key = next((line.split()[1] for line in lines if line.startswith("key ")), "")
        yield server
    finally:
        server.stop()
