"""Bus: messages between the parts and the processes of the gateway, delivered at most once.

A message reaches the listeners of its own process at once, and those of other processes through Redis, if one is
configured. While Redis is away the other processes get none, so nothing that must arrive depends on the bus alone.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Callable
from typing import Final

import structlog
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

_PREFIX: Final = "reentry:bus:"
_ORIGIN_BYTES: Final = 8
_SOCKET_SECONDS: Final = 3.0
_LONGEST_SILENCE: Final = 60.0
"""Longest wait for one message, s. No message at all is normal, so that the time has no further meaning."""
_BETWEEN_TRIES: Final = 0.5
_BETWEEN_LOOKS: Final = 1.0
"""Time between two questions which channels have listeners in other processes, s."""
_LARGEST_OUTBOX: Final = 16 * 2**20
"""Bytes of the messages that wait for Redis; beyond it the oldest are dropped."""
_TOGETHER: Final = 100

_log = structlog.get_logger(__name__)

Listener = Callable[[bytes], None]


class Bus:
    """Messages inside one process, on channels with a name."""

    def __init__(self) -> None:
        self._listeners: dict[str, list[Listener]] = {}

    async def open(self) -> None:
        """Connect."""

    async def close(self) -> None:
        """Disconnect."""

    def listen(self, channel: str, listener: Listener) -> Callable[[], None]:
        """Call a function with each message of a channel, until the function that is returned here is called."""
        listeners = self._listeners.setdefault(channel, [])
        listeners.append(listener)

        def stop() -> None:
            listeners.remove(listener)
            if not listeners and self._listeners.get(channel) is listeners:
                del self._listeners[channel]
                self._channels_changed()

        self._channels_changed()
        return stop

    def has_listeners(self, channel: str) -> bool:
        """Whether anybody listens; listeners in other processes are noticed within about a second."""
        return channel in self._listeners

    def publish(self, channel: str, message: bytes) -> None:
        """Send a message without waiting."""
        for listener in tuple(self._listeners.get(channel, ())):
            listener(message)

    def _channels_changed(self) -> None:
        """React to a channel with its first listener, or without its last one."""


class RedisBus(Bus):
    """Messages between processes."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        self._origin = secrets.token_bytes(_ORIGIN_BYTES)
        self._outbox: deque[tuple[str, bytes]] = deque()
        self._outbox_bytes = 0
        self._filled = asyncio.Event()
        self._changed = asyncio.Event()
        self._elsewhere: frozenset[str] = frozenset()
        self._task: asyncio.Task[None] | None = None
        self._subscription: PubSub | None = None
        self.is_connected = False

    async def open(self) -> None:
        """Connect in the background."""
        self._task = asyncio.ensure_future(self._run())

    async def close(self) -> None:
        """Disconnect."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def has_listeners(self, channel: str) -> bool:
        """Whether anybody listens, here or in another process."""
        return super().has_listeners(channel) or channel in self._elsewhere

    def publish(self, channel: str, message: bytes) -> None:
        """Send a message to this process and, in the background, to the others."""
        super().publish(channel, message)
        if self.is_connected:
            self._outbox.append((channel, message))
            self._outbox_bytes += len(message)
            while self._outbox_bytes > _LARGEST_OUTBOX:
                self._next()
            self._filled.set()

    def _next(self) -> tuple[str, bytes]:
        channel, message = self._outbox.popleft()
        self._outbox_bytes -= len(message)
        return channel, message

    def _channels_changed(self) -> None:
        self._changed.set()

    async def _run(self) -> None:
        while True:
            try:
                # A lost connection is connected again here, with the channels of that moment.
                async with Redis.from_url(
                    self._url,
                    socket_timeout=_SOCKET_SECONDS,
                    socket_connect_timeout=_SOCKET_SECONDS,
                    retry=Retry(NoBackoff(), 0),
                ) as redis:
                    await self._connected(redis)
            except (RedisError, OSError, TimeoutError) as error:
                if self.is_connected:
                    _log.warning("Redis is away; live events stay inside this process", error=type(error).__name__)
            except Exception:
                _log.exception("the bus failed and connects again")
            self.is_connected = False
            self._elsewhere = frozenset()
            self._outbox.clear()
            self._outbox_bytes = 0
            await asyncio.sleep(_BETWEEN_TRIES)

    async def _connected(self, redis: Redis) -> None:
        async with redis.pubsub() as subscription:
            await subscription.subscribe(_PREFIX)  # keeps the subscription alive without a listener
            self._subscription = subscription
            self._changed.set()
            self.is_connected = True
            parts = (self._receive(subscription), self._subscribe(subscription), self._send(redis), self._look(redis))
            tasks = [asyncio.ensure_future(part) for part in parts]
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _receive(self, subscription: PubSub) -> None:
        while True:
            message = await subscription.get_message(ignore_subscribe_messages=True, timeout=_LONGEST_SILENCE)
            if message is None:
                continue
            origin, content = message["data"][:_ORIGIN_BYTES], message["data"][_ORIGIN_BYTES:]
            if origin != self._origin:  # this process has it already
                super().publish(_channel_of(message["channel"]), content)

    async def _subscribe(self, subscription: PubSub) -> None:
        subscribed: set[str] = set()
        while True:
            await self._changed.wait()
            self._changed.clear()
            wanted = set(self._listeners)
            if new := wanted - subscribed:
                await subscription.subscribe(*(_PREFIX + channel for channel in new))
            if old := subscribed - wanted:
                await subscription.unsubscribe(*(_PREFIX + channel for channel in old))
            subscribed = wanted

    async def _send(self, redis: Redis) -> None:
        while True:
            await self._filled.wait()
            self._filled.clear()
            while self._outbox:
                async with redis.pipeline(transaction=False) as pipeline:
                    for _ in range(min(_TOGETHER, len(self._outbox))):
                        channel, message = self._next()
                        pipeline.publish(_PREFIX + channel, self._origin + message)
                    await pipeline.execute()

    async def _look(self, redis: Redis) -> None:
        """Learn which channels have listeners anywhere. It also notices a Redis that hangs."""
        while True:
            channels = await redis.pubsub_channels(_PREFIX + "?*")
            self._elsewhere = frozenset(map(_channel_of, channels))
            await asyncio.sleep(_BETWEEN_LOOKS)


def _channel_of(name: bytes | str) -> str:
    return (name.decode() if isinstance(name, bytes) else name).removeprefix(_PREFIX)


def bus_of(redis_url: str) -> Bus:
    """Return the bus of the settings."""
    return RedisBus(redis_url) if redis_url else Bus()
