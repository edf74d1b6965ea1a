"""Cache of answers: in memory, and in Redis for several processes.

The key is the hash of the request's content and the version that Triton returned, so that a promotion is a miss.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final, Generic, TypeVar

import msgspec
from cachetools import TTLCache
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from gateway import metrics
from gateway.settings import GatewaySettings

T = TypeVar("T")

_LARGEST: Final = 4 * 2**20
"""Bytes of the largest answer that is cached."""
_SOCKET_SECONDS: Final = 0.05
_SHARED_SECONDS: Final = 60.0
"""Longest time for which an answer stays in Redis, s. It outlives a model that is replaced under its version number."""
_PAUSE_SECONDS: Final = 1.0
"""Time for which Redis is not asked after it failed, s."""
_HITS, _MISSES = metrics.CACHE.labels("hit"), metrics.CACHE.labels("miss")


class CachedAnswer(msgspec.Struct, frozen=True):
    """An answer that can be sent again."""

    body: bytes
    headers: dict[str, str]
    steps: int
    """Steps of the scored tracks, which count for the limit of the account."""
    refused: int
    """Number of tracks that were refused."""
    rows: list[dict[str, Any]]
    """Rows of the inference log, without what differs between requests."""


def _bytes_of(answer: CachedAnswer) -> int:
    """Return the memory that an answer takes. A row of the inference log has some twenty entries."""
    return 1_000 + len(answer.body) + 700 * len(answer.rows)


class AnswerCache:
    """Cache of one process."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._seconds = settings.cache_seconds
        self._memory: TTLCache[bytes, CachedAnswer] = TTLCache(
            settings.cache_bytes, settings.cache_seconds, getsizeof=_bytes_of
        )
        self._redis: Redis | None = None
        if settings.redis_url:
            self._redis = Redis.from_url(
                settings.redis_url,
                socket_timeout=_SOCKET_SECONDS,
                socket_connect_timeout=_SOCKET_SECONDS,
                retry=Retry(NoBackoff(), 1),
            )
        self._paused_until = 0.0

    async def close(self) -> None:
        """Close the connection to Redis."""
        if self._redis is not None:
            await self._redis.aclose()

    def clear(self) -> None:
        """Forget the answers in memory. Those in Redis expire within `_SHARED_SECONDS`."""
        self._memory.clear()

    async def get(self, content: bytes, version: int | None) -> CachedAnswer | None:
        """Return the answer for a content by a version; None if it is not cached or the version is unknown."""
        if version is None:
            _MISSES.inc()
            return None
        key = _key(content, version)
        answer = self._memory.get(key)
        if answer is None and (stored := await self._ask(lambda redis: redis.get(key))) is not None:
            try:
                answer = msgspec.msgpack.decode(stored, type=CachedAnswer)
                self._memory[key] = answer
            except (msgspec.MsgspecError, ValueError):  # of another release, or larger than the memory's share
                answer = None
        (_MISSES if answer is None else _HITS).inc()
        return answer

    async def put(self, content: bytes, version: int, answer: CachedAnswer) -> None:
        """Keep the answer of a version."""
        if len(answer.body) > _LARGEST:
            return
        key = _key(content, version)
        try:
            self._memory[key] = answer
        except ValueError:  # larger than the whole cache
            return
        if self._redis is not None:
            encoded = msgspec.msgpack.encode(answer)
            await self._ask(lambda redis: redis.set(key, encoded, px=round(1000 * min(self._seconds, _SHARED_SECONDS))))

    async def _ask(self, question: Callable[[Redis], Awaitable[Any]]) -> Any:
        """Ask Redis; None if there is none, or it is away."""
        now = asyncio.get_running_loop().time()
        if self._redis is None or now < self._paused_until:
            return None
        try:
            return await question(self._redis)
        except (RedisError, OSError):
            self._paused_until = now + _PAUSE_SECONDS
            return None


def content_key(*parts: bytes | str) -> bytes:
    """Return the hash of the parts of a request that decide its answer."""
    digest = sha256()
    for part in parts:
        content = part.encode() if isinstance(part, str) else part
        digest.update(len(content).to_bytes(8, "big"))
        digest.update(content)
    return digest.digest()


def _key(content: bytes, version: int) -> bytes:
    return b"reentry:answer:%b:%d" % (content.hex().encode(), version)


@dataclass(slots=True)
class _Flight(Generic[T]):
    task: asyncio.Task[T]
    waiters: int = 0


@dataclass(slots=True)
class SingleFlight(Generic[T]):
    """Runs the same work once for all who ask for it at the same time."""

    _flights: dict[Hashable, _Flight[T]] = field(default_factory=dict)

    async def run(self, key: Hashable, work: Callable[[], Awaitable[T]]) -> T:
        """Return the result of `work()`, which runs once for all concurrent callers with the same key.

        It is cancelled when its last caller is cancelled. Its error is raised in every caller.
        """
        flight = self._flights.get(key)
        if flight is None:
            flight = _Flight(asyncio.ensure_future(_awaited(work)))
            self._flights[key] = flight
        flight.waiters += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.waiters -= 1
            # A caller that comes before the result is cached, by one of these callers, still gets this result.
            if flight.waiters == 0:
                del self._flights[key]
                flight.task.cancel()


async def _awaited(work: Callable[[], Awaitable[T]]) -> T:
    return await work()
