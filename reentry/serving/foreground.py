"""A server that runs until it is told to end."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from reentry.serving.config import ServerConfig
from reentry.serving.server import EmbeddedServer
from reentry.signals import Ended, ended_by_signals


def serve_until_ended(config: ServerConfig, on_ready: Callable[[EmbeddedServer], None]) -> None:
    """Serve until SIGINT, SIGTERM or SIGHUP, then drain; call `on_ready` once every model is.

    Raises:
        ServerError: as `EmbeddedServer`, and if the server ends by itself or loses a part.
    """
    with contextlib.suppress(Ended), ended_by_signals(), EmbeddedServer(config) as server:
        on_ready(server)
        server.wait()
