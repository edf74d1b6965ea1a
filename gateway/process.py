"""One gateway process: its tables, its first key, its HTTP server, and its shutdown."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FrameType

import uvicorn
from prometheus_client import start_http_server

from gateway.accounts.principal import Scope
from gateway.app import create_app
from gateway.database.migrate import migrate
from gateway.http import BoundedProtocol
from gateway.logs import log_json
from gateway.problems import Problem
from gateway.services import Services
from gateway.settings import GatewaySettings
from reentry.errors import ServerError


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A gateway that answers requests."""

    url: str
    metrics_url: str
    first_key: str | None = field(repr=False)
    """Key of a new administrator if there was none; it is shown once."""


def serve(settings: GatewaySettings, announce: Callable[[Started], None]) -> None:
    """Answer requests until SIGINT or SIGTERM, then finish those in flight.

    An embedded database is migrated first. A PostgreSQL database is migrated by `reentry gateway migrate`.

    Raises:
        ServerError: an address or a port cannot be used.
        DatabaseUnavailableError: the database does not answer at the start.
    """
    log_json()
    if settings.embedded:
        migrate(settings)
    listener = _listen(settings)
    metrics = _serve_metrics(settings)
    try:
        config = uvicorn.Config(
            create_app(settings),
            loop="uvloop",
            http=BoundedProtocol,
            ws="none",
            lifespan="on",
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_graceful_shutdown=max(1, round(settings.drain_seconds)),
            ssl_certfile=settings.tls_certificate,
            ssl_keyfile=settings.tls_key,
        )
        server = _Server(config, metrics, announce)
        server.run(sockets=[listener])
        if not server.started:
            raise ServerError("the gateway did not start", fix="see the log above")
    finally:
        listener.close()


class _Server(uvicorn.Server):
    """HTTP server that announces itself, and that ends the streams of events at shutdown."""

    def __init__(self, config: uvicorn.Config, metrics_url: str, announce: Callable[[Started], None]) -> None:
        super().__init__(config)
        self._metrics_url = metrics_url
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to answer requests."""
        await super().startup(sockets)
        if not self.started or sockets is None:
            return
        services = self._services()
        host, port = sockets[0].getsockname()[:2]
        scheme = "https" if self.config.is_ssl else "http"
        url = f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
        gc.collect()
        gc.freeze()  # searching for garbage in what exists by now would only hold up requests
        self._announce(Started(url=url, metrics_url=self._metrics_url, first_key=await first_key(services)))

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin the shutdown."""
        asyncio.get_running_loop().call_soon_threadsafe(self._services().stopping.set)
        super().handle_exit(sig, frame)
        self._captured_signals.clear()  # uvicorn would end the process by the signal, although it has stopped in order

    def _services(self) -> Services:
        services: Services = self.config.app.state.services  # type: ignore[union-attr]
        return services


async def first_key(services: Services) -> str | None:
    """Create a key for everything if the embedded database has none, and return it. Its account is `default`."""
    if not services.settings.embedded or await services.directory.has_keys():
        return None
    tier = "premium" if "premium" in services.settings.tiers else "standard"
    try:
        account_id = await services.directory.create_account("default", tier)
    except Problem as problem:
        if problem.code != "conflict":
            raise
        # A command created the account, or an earlier start ended before it created the key.
        account_id = (await services.directory.account("default")).id
    _, text = await services.directory.create_key(account_id, name="first key", scopes=Scope)
    return text


def _listen(settings: GatewaySettings) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in settings.address else socket.AF_INET
        return socket.create_server((settings.address, settings.port), family=family, backlog=2048)
    except OSError as error:
        raise ServerError(
            f"cannot listen: {error.strerror}",
            where=f"{settings.address}:{settings.port}",
            fix="choose another port with --port, or end the program that uses it",
        ) from error


def _serve_metrics(settings: GatewaySettings) -> str:
    """Serve the metrics in a thread of their own, and return their address."""
    try:
        server, _ = start_http_server(settings.metrics_port, settings.address)
    except OSError as error:
        raise ServerError(
            f"cannot listen: {error.strerror}",
            where=f"{settings.address}:{settings.metrics_port}",
            fix="choose another port with --metrics-port",
        ) from error
    return f"http://{settings.address}:{server.server_port}/metrics"
