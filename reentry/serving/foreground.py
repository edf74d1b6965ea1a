"""A server that runs in the foreground until a signal stops it."""

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
"""Largest number of restarts without `STABLE_SECONDS` of service between them."""

STABLE_SECONDS: Final = 60.0
"""Seconds of service after which earlier crashes no longer count."""

_LONGEST_PAUSE: Final = 30.0
"""Largest number of seconds before a restart."""


def serve_until_ended(
    config: ServerConfig,
    on_ready: Callable[[EmbeddedServer], None],
    on_restart: Callable[[ServerError, float], None] | None = None,
) -> None:
    """Serve until SIGINT, SIGTERM or SIGHUP, then drain.

    Args:
        config: configuration of the server. Free ports are chosen once and kept over restarts.
        on_ready: called after each start, when every model is ready.
        on_restart: called before each restart with the error and the seconds until the next start; None to exit at the
            first crash. A server that was never ready is not restarted.

    Raises:
        ServerError: the server did not start, crashed without `on_restart`, or crashed more than `RESTARTS` times.
    """
    with contextlib.suppress(Ended), ended_by_signals():
        crashes, was_ready = 0, False
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
                crashes = 1 if stable else crashes + 1
                if crashes > RESTARTS:
                    raise ServerError(f"{error.problem}, after {RESTARTS} restarts in a row", fix=error.fix) from error
                pause = min(2.0 ** (crashes - 1), _LONGEST_PAUSE)
                on_restart(error, pause)
                time.sleep(pause)
