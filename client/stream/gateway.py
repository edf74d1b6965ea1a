"""Posts a stream to the gateway in the background: positions of its tracks, alerts and refinements.

Positions are sent a few times in a second, only the latest of each track, and are dropped while the gateway is away.
Alerts and refinements are read from the file of alerts until the gateway has them, see `EventFile`. The gateway knows
the events that it has, so that a repeated post doubles none.

Shapes: N measurements of one scan, M measurement columns.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from client.stream.alert import Answers
from client.stream.event_file import EventFile
from client.stream.positions import Positions
from reentry.errors import ConfigError
from reentry.runtime.arguments import split_url

if TYPE_CHECKING:
    from aiohttp import ClientSession

KEY: Final = "REENTRY_KEY"
"""Environment variable with the key."""

_BETWEEN_POSTS: Final = 0.2
_EVENTS: Final = 1_000
"""Largest number of alerts and refinements in one post."""
_TIMEOUT: Final = 10.0
_LONGEST_DELAY: Final = 10.0
_END_SECONDS: Final = 5.0
"""Longest time for the last posts when the stream has ended, s."""

_log = logging.getLogger(__name__)


class _RefusedError(Exception):
    """The gateway refused the content of a post, and would refuse it again."""


class GatewayPoster:
    """Posts what a stream gives it. Nothing here waits for the gateway but `run` and `finish`."""

    def __init__(self, url: str, key: str, name: str, events: EventFile) -> None:
        """Prepare the posts.

        Args:
            url: address of the gateway.
            key: key with the scope `stream`.
            name: name of the feed in posts of alerts; each alert has its own.
            events: alerts and refinements.
        """
        self._url = url.rstrip("/")
        self._key = key.strip()
        self._name = name
        self._events = events
        self._positions: dict[str, Positions] = {}
        self._away_since: float | None = None

    def add(self, feed: str, track_ids: npt.NDArray[np.int64], rows: npt.NDArray[np.float64], answers: Answers) -> None:
        """Take the answers to a scan of a feed, (N,) and (N, M)."""
        self._positions.setdefault(feed, Positions()).add(track_ids, rows, answers)

    async def run(self) -> None:
        """Post until the task is cancelled."""
        delay = _BETWEEN_POSTS
        async with self._session() as session:
            while True:
                await asyncio.sleep(delay * random.uniform(0.8, 1.0))  # clients do not post in step
                delay = _BETWEEN_POSTS if await self._try(session) else min(2.0 * delay, _LONGEST_DELAY)

    async def finish(self) -> int:
        """Deliver what is left within a bounded time, and return the number of events that are not delivered."""
        try:
            async with asyncio.timeout(_END_SECONDS), self._session() as session:
                while not await self._try(session) or self._events.waiting or any(self._positions.values()):
                    await asyncio.sleep(_BETWEEN_POSTS)
        except TimeoutError:
            pass
        return self._events.count() if self._events.waiting else 0

    def _session(self) -> ClientSession:
        from aiohttp import ClientSession, ClientTimeout

        return ClientSession(timeout=ClientTimeout(total=_TIMEOUT), headers={"authorization": f"Bearer {self._key}"})

    async def _try(self, session: ClientSession) -> bool:
        """Post everything once; return False if the gateway is away."""
        from aiohttp import ClientError

        try:
            await self._post_events(session)
            for feed, positions in self._positions.items():
                if positions:
                    await self._post_updates(session, feed, positions.take())
        except (ClientError, OSError, TimeoutError) as error:
            if self._away_since is None:
                self._away_since = time.monotonic()
                _log.warning("the gateway %s is away: %s; alerts wait for it", self._url, error or type(error).__name__)
            return False
        except Exception:  # the stream must not end with it
            _log.exception("posting to the gateway failed")
            return False
        if self._away_since is not None:
            _log.warning("the gateway answers again after %.0f s", time.monotonic() - self._away_since)
            self._away_since = None
        return True

    async def _post_events(self, session: ClientSession) -> None:
        most = _EVENTS
        while self._events.waiting:
            events, offset = self._events.read(most)
            if offset == self._events.offset:
                return  # a line that is still being written
            try:
                if events:
                    await self._post(session, {"feed": self._name, "events": events})
            except _RefusedError as error:
                if most > 1:
                    most = 1  # to find the one that is refused
                    continue
                _log.warning("the gateway refuses an event, which is left out: %s", error)
            self._events.delivered(offset)

    async def _post_updates(self, session: ClientSession, feed: str, updates: list[dict[str, Any]]) -> None:
        try:
            await self._post(session, {"feed": feed, "updates": updates})
        except _RefusedError as error:
            _log.warning("the gateway refuses positions of feed %s: %s", feed, error)

    async def _post(self, session: ClientSession, content: dict[str, Any]) -> None:
        """Post a body.

        Raises:
            _RefusedError: the gateway refuses the content.
            ClientError: the gateway does not take it now; a repetition may help.
        """
        from aiohttp import ClientResponseError

        headers = {"content-type": "application/json"}
        async with session.post(
            f"{self._url}/v1/events", data=json.dumps(content), headers=headers, allow_redirects=False
        ) as answer:
            text = await answer.text()
            if answer.status in (400, 413, 422):
                raise _RefusedError(text[:500])
            if answer.status != 202:
                raise ClientResponseError(answer.request_info, answer.history, status=answer.status, message=text[:200])


def check_gateway(url: str, key: str) -> None:
    """Check the address of a gateway and the presence of a key.

    Raises:
        ConfigError: the URL is invalid, or there is no key.
    """
    parsed = split_url(url)
    if parsed is None or parsed[0] not in ("http", "https"):
        raise ConfigError(
            "not the URL of a gateway",
            expected="http://HOST:PORT or https://HOST:PORT",
            got=repr(url),
            where="--gateway",
        )
    if not key.strip().isprintable() or not key.strip():
        raise ConfigError(
            "no key for the gateway",
            where=KEY,
            expected="a key with the scope `stream` in the environment",
            fix=f"set it: export {KEY}=rk_...; `reentry gateway keys create` creates one",
        )
