"""Asking again when the server is away: exponential backoff with jitter, within a bounded time without any answer."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from client.connection import Endpoint, RefusedError, ServerAwayError
from reentry.errors import ClientError, ConfigError
from reentry.runtime.arguments import require_between

T = TypeVar("T")

_MOST_PATIENCE: Final = 1_000_000
"""s, more than eleven days."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryConfig:
    """How long and how often a silent server is asked again."""

    patience: float = 60.0
    """s without any answer after which the work is given up."""
    first_delay: float = 0.05
    """s before the second try; each further one waits twice as long."""
    longest_delay: float = 2.0
    """s, the longest delay between two tries, and the shortest time that a try gets for its answer."""

    def __post_init__(self) -> None:
        require_between("patience", self.patience, 0, _MOST_PATIENCE, unit="s")
        if not 0.0 < self.first_delay <= self.longest_delay:
            raise ConfigError(
                "delays between tries",
                expected="0 < first_delay <= longest_delay",
                got=f"{self.first_delay} and {self.longest_delay}",
            )


class Retry:
    """Retries for all requests of a run; an answer to one of them renews the patience with the others."""

    def __init__(self, endpoint: Endpoint, config: RetryConfig, say: Callable[[str], None]) -> None:
        self._endpoint = endpoint
        self._config = config
        self._say = say
        self._answered = 0.0
        self._away = False

    async def __call__(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Await `ask()` until it gives an answer; a RefusedError is an answer and passes through.

        Raises:
            ClientError: the server stayed away for longer than the patience.
        """
        begun = time.monotonic()
        delay = self._config.first_delay
        while True:
            try:
                answer = await self._within_patience(ask, begun)
            except ServerAwayError as error:
                silent = time.monotonic() - max(begun, self._answered)
                if silent >= self._config.patience:
                    raise ClientError(
                        f"no answer from the server for {silent:.0f} s: {error.problem}",
                        where=str(self._endpoint),
                        fix="start one with `reentry serve`, give its address with --url, or use --start-server",
                    ) from error
                if not self._away:
                    self._away = True
                    self._say(
                        f"{self._endpoint} is away ({error.problem}); asking again for {self._config.patience:.0f} s"
                    )
            except RefusedError:
                self._answered = time.monotonic()
                raise
            else:
                self._answered = time.monotonic()
                self._away = False
                return answer
            # Spread over half the delay, so that requests refused together do not come back together.
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))
            delay = min(self._config.longest_delay, 2.0 * delay)

    async def _within_patience(self, ask: Callable[[], Awaitable[T]], begun: float) -> T:
        """Await `ask()` until the patience of a request that began at `begun` ends.

        Raises:
            ServerAwayError: there is no answer by then.
        """
        shortest = time.monotonic() + self._config.longest_delay
        task = asyncio.ensure_future(ask())
        try:
            while not task.done():
                now, end = time.monotonic(), max(begun, self._answered) + self._config.patience
                if now >= max(end, shortest):
                    raise ServerAwayError("timed out")
                await asyncio.wait({task}, timeout=max(end, shortest) - now)
            return task.result()
        finally:
            task.cancel()
