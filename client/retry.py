"""Retries while the server is unavailable: exponential backoff with jitter, within a bounded time without an answer."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from client.connection import Endpoint, RefusedError, ServerUnavailableError
from reentry.errors import ClientError, ConfigError
from reentry.runtime.arguments import require_between

T = TypeVar("T")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryConfig:
    """Delays between retries, and the time after which they end."""

    patience: float = 60.0
    """Time without any answer after which the run gives up, s."""
    first_delay: float = 0.05
    """Delay before the first retry, s; each further delay is twice as long."""
    longest_delay: float = 2.0
    """Longest delay between two tries, s; also the shortest time that a try waits for its answer."""

    def __post_init__(self) -> None:
        require_between("patience", self.patience, 0, 1_000_000, unit="s")
        if not 0.0 < self.first_delay <= self.longest_delay:
            raise ConfigError(
                "delays between tries out of range",
                expected="0 < first_delay <= longest_delay",
                got=f"{self.first_delay} and {self.longest_delay}",
            )


class Retry:
    """Retries for all requests of a run; an answer to one request restarts the patience of the others."""

    def __init__(self, endpoint: Endpoint, config: RetryConfig) -> None:
        self._endpoint = endpoint
        self._config = config
        self._last_answer = 0.0
        self._away = False

    async def __call__(self, send: Callable[[], Awaitable[T]]) -> T:
        """Await `send()` until the server answers. A `RefusedError` is an answer and is raised at once.

        Raises:
            ClientError: no answer within the patience.
        """
        begun = time.monotonic()
        delay = self._config.first_delay
        while True:
            try:
                answer = await self._within_patience(send, begun)
            except ServerUnavailableError as error:
                silent = time.monotonic() - max(begun, self._last_answer)
                if silent >= self._config.patience:
                    raise ClientError(
                        f"no answer from the server for {silent:.0f} s: {error.problem}",
                        where=str(self._endpoint),
                        fix="start a server with `reentry serve`, give its address with --url, or use --start-server",
                    ) from error
                if not self._away:
                    self._away = True
                    _log.warning(
                        "%s is unavailable (%s); retrying for %.0f s",
                        self._endpoint,
                        error.problem,
                        self._config.patience,
                    )
            except RefusedError:
                self._last_answer = time.monotonic()
                raise
            else:
                self._last_answer = time.monotonic()
                self._away = False
                return answer
            # The random part keeps requests that failed together from returning together.
            pause = delay * random.uniform(0.5, 1.0)
            _log.debug("no answer from %s, next try in %.2f s", self._endpoint, pause)
            await asyncio.sleep(pause)
            delay = min(self._config.longest_delay, 2.0 * delay)

    async def _within_patience(self, send: Callable[[], Awaitable[T]], begun: float) -> T:
        """Await `send()` until the patience of a request that began at `begun` ends.

        Raises:
            ServerUnavailableError: no answer by then.
        """
        shortest = time.monotonic() + self._config.longest_delay
        task = asyncio.ensure_future(send())
        try:
            while not task.done():
                now, end = time.monotonic(), max(begun, self._last_answer) + self._config.patience
                if now >= max(end, shortest):
                    raise ServerUnavailableError("timed out")
                await asyncio.wait({task}, timeout=max(end, shortest) - now)
            return task.result()
        finally:
            task.cancel()
