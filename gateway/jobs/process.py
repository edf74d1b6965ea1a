"""A worker process: jobs and webhooks without routes, a port with metrics and liveness, and its shutdown."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import make_wsgi_app

from gateway.accounts.limits import Limits
from gateway.database.engine import Database
from gateway.database.migrate import migrate
from gateway.jobs.service import Jobs
from gateway.logs import log_json
from gateway.settings import GatewaySettings
from gateway.traces import exporting
from reentry.errors import ServerError


@dataclass(frozen=True, slots=True)
class Working:
    """A worker process that takes jobs."""

    workers: int
    metrics_url: str


def work(settings: GatewaySettings, workers: int, announce: Callable[[Working], None]) -> None:
    """Work on jobs until SIGINT or SIGTERM, then give the jobs in hand back.

    Raises:
        ServerError: the port of the metrics cannot be used.
        DatabaseUnavailableError: the database does not answer at the start.
    """
    log_json()
    if settings.embedded:
        migrate(settings)
    asyncio.run(_work(settings, workers, announce))


async def _work(settings: GatewaySettings, workers: int, announce: Callable[[Working], None]) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    database, limits = Database(settings), Limits(settings)
    jobs = Jobs(settings, database, limits)
    try:
        url, close = _serve(settings, lambda: jobs.alive)
        try:
            async with exporting(settings), limits.open(), jobs.working(workers, stopping):
                announce(Working(workers, url))
                await stopping.wait()
        finally:
            close()
    finally:
        await database.close()


def _serve(settings: GatewaySettings, alive: Callable[[], bool]) -> tuple[str, Callable[[], None]]:
    """Serve /metrics and /health/live in a thread; return the address, and what ends the thread."""
    metrics = make_wsgi_app()

    def answer(environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        if environ["PATH_INFO"] != "/health/live":
            return metrics(environ, start)  # type: ignore[no-any-return]
        status = HTTPStatus.OK if alive() else HTTPStatus.SERVICE_UNAVAILABLE
        body = b'{"live": true}' if status == HTTPStatus.OK else b'{"live": false}'
        start(f"{status.value} {status.phrase}", [("Content-Type", "application/json")])
        return [body]

    try:
        server = make_server(settings.address, settings.metrics_port, answer, handler_class=_Quiet)
    except OSError as error:
        raise ServerError(
            f"cannot listen: {error.strerror}",
            where=f"{settings.address}:{settings.metrics_port}",
            fix="choose another port with --metrics-port",
        ) from error
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()

    def close() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return f"http://{settings.address}:{server.server_port}", close


class _Quiet(WSGIRequestHandler):
    """Handler that logs no line for each request."""

    timeout = 10

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Log nothing."""
