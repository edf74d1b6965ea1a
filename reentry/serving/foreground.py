"""A server that runs until it is told to end."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType
from typing import Final

from reentry.serving.config import ServerConfig
from reentry.serving.server import EmbeddedServer

_ENDING: Final = (signal.SIGINT, signal.SIGTERM)


class _Ended(BaseException):
    """A signal asked for the end."""


def serve_until_ended(config: ServerConfig, on_ready: Callable[[EmbeddedServer], None]) -> None:
    """Serve until SIGINT or SIGTERM, then drain; call `on_ready` once every model is.

    Raises:
        ServerError: as `EmbeddedServer`, and if the server ends by itself.
    """

    def end(_number: int, _frame: FrameType | None) -> None:
        for ending in _ENDING:
            signal.signal(ending, signal.SIG_IGN)  # the drain has its own deadline
        raise _Ended

    before = {ending: signal.signal(ending, end) for ending in _ENDING}
    try:
        with EmbeddedServer(config) as server:
            on_ready(server)
            server.wait()
    except _Ended:
        pass
    finally:
        for ending, handler in before.items():
            signal.signal(ending, handler)
