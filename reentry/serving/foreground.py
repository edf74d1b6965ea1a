"""A server that runs until it is told to end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Final

from reentry.errors import ServerError
from reentry.runtime.signals import Ended, ended_by_signals
from reentry.serving.config import ServerConfig
from reentry.serving.server import EmbeddedServer

RESTARTS: Final = 5
"""Most restarts in a row, without `STABLE_SECONDS` of service between them."""

STABLE_SECONDS: Final = 60.0
"""s of service after which earlier deaths no longer count."""

_LONGEST_PAUSE: Final = 30.0


def serve_until_ended(
    config: ServerConfig,
    on_ready: Callable[[EmbeddedServer], None],
    on_restart: Callable[[ServerError, float], None] | None = None,
) -> None:
    """Serve until SIGINT, SIGTERM or SIGHUP, then drain.

    Args:
        config: of the server. Ports that it leaves free stay the same over restarts.
        on_ready: called each time that every model is ready.
        on_restart: called with the reason and the seconds until the next start, when a server that was ready has died
            or lost a part. None: there is no restart.

    Raises:
        ServerError: as `EmbeddedServer`; without restarts, if the server ends by itself or loses a part; with them, if
            it does so too often.
    """
    with contextlib.suppress(Ended), ended_by_signals():
        deaths, was_ready = 0, False
        while True:
            ready = None
            try:
                with EmbeddedServer(config) as server:
                    ready, was_ready, config = time.monotonic(), True, server.config
                    on_ready(server)
                    server.wait()
            except ServerError as error:
                if on_restart is None or not was_ready:
                    raise
                stable = ready is not None and time.monotonic() - ready > STABLE_SECONDS
                deaths = 1 if stable else deaths + 1
                if deaths > RESTARTS:
                    raise ServerError(f"{error.problem}, after {RESTARTS} restarts in a row", fix=error.fix) from error
                pause = min(2.0 ** (deaths - 1), _LONGEST_PAUSE)
                on_restart(error, pause)
                time.sleep(pause)
