"""Limits of an account by its tier: requests per second and steps per minute.

Both are GCRA limits of throttled-py, in Redis if one is configured. While Redis is away, each process counts by itself.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from fractions import Fraction
from typing import TYPE_CHECKING, Final, cast

from cachetools import LRUCache
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from throttled.asyncio import MemoryStore, RateLimiterType, RateLimitState, RedisStore, Throttled
from throttled.asyncio.store import BaseStore
from throttled.exceptions import StoreUnavailableError
from throttled.rate_limiter import Quota, Rate

from gateway import metrics
from gateway.accounts.principal import Principal
from gateway.background import running
from gateway.context import RequestContext
from gateway.problems import Problem
from gateway.settings import GatewaySettings, Tier

if TYPE_CHECKING:
    from throttled.types import AsyncRedisClientP

_SOCKET_SECONDS: Final = 0.25
"""Longest wait for Redis; one repetition follows. Only requests that find Redis hung wait so long, see `_watch`."""
_PROBE_SECONDS: Final = 1.0
"""Time between two tries to reach a Redis that is away."""
_CALLS: Final = 16
"""Calls to Redis in flight at once, and so connections."""
_ACCOUNTS: Final = 100_000
"""Accounts whose limits this process holds; beyond them it forgets those that were used longest ago."""
_AWAY: Final = (StoreUnavailableError, RedisError, OSError, TimeoutError)
_LOG_SECONDS: Final = 1.0
"""Time between two log lines of refused requests of an account."""
_REFUSED_REQUESTS: Final = metrics.LIMITED.labels("requests")
_REFUSED_STEPS: Final = metrics.LIMITED.labels("steps")
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Refusals:
    """Refused requests of an account. Once a request is refused, the limit refuses every further one for a known time.

    Until then they need no look into the store, and only one of them in a second gets a log line, with their number.
    """

    until: float = 0.0
    """Time of the monotonic clock, s."""
    full_at: float = 0.0
    """Time at which the whole burst is available again."""
    logged_at: float = 0.0
    unlogged: int = 0


@dataclass(frozen=True, slots=True)
class _Quota:
    """One limit in both stores."""

    shared: Throttled | None
    own: Throttled


class Limits:
    """Limits of all accounts."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._own = MemoryStore(options={"MAX_SIZE": _ACCOUNTS})
        self._redis = _connect(settings.redis_url) if settings.redis_url else None
        self._shared = None if self._redis is None else _store_of(self._redis)
        self._requests: dict[str, _Quota] = {}
        self._steps: dict[str, _Quota] = {}
        self._policies: dict[str, str] = {}
        for name, tier in settings.tiers.items():
            self._requests[name] = self._quota("requests", _requests_quota(tier))
            self._steps[name] = self._quota("steps", _steps_quota(tier))
            window = math.ceil(tier.burst / tier.requests_per_second)
            self._policies[name] = f'"requests";q={tier.burst};w={window}, "steps";q={tier.steps_per_minute};w=60'
        self._refusals: LRUCache[tuple[str, str], _Refusals] = LRUCache(_ACCOUNTS)
        self._slots = asyncio.Semaphore(_CALLS)
        self._reachable = self._redis is not None
        self._lost = asyncio.Event()
        metrics.REDIS_UP.set(1)

    def _quota(self, kind: str, quota: Quota) -> _Quota:
        def limiter(store: BaseStore) -> Throttled:
            return Throttled(using=RateLimiterType.GCRA.value, quota=quota, store=store, key_prefix=f"reentry:{kind}")

        return _Quota(None if self._shared is None else limiter(self._shared), limiter(self._own))

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Watch Redis, so that limits are shared again when it returns."""
        if self._redis is None:
            yield
            return
        async with aclosing(self._redis), running(self._watch(self._redis)):
            yield

    async def check_request(self, principal: Principal, context: RequestContext) -> None:
        """Count one request of an account.

        Raises:
            Problem: the account sent more requests than its tier allows.
        """
        now = time.monotonic()
        context.headers["ratelimit-policy"] = self._policies[principal.tier_name]
        refusals = self._refusals.get((principal.account_id, principal.tier_name))
        if refusals is None or refusals.until <= now:
            limited, state = await self._take(self._requests[principal.tier_name], principal.account_id, 1)
            if not limited:
                context.headers["ratelimit"] = _remaining("requests", state.remaining, state.reset_after)
                return
            if refusals is None:
                refusals = self._refusals[principal.account_id, principal.tier_name] = _Refusals()
            refusals.until, refusals.full_at = now + state.retry_after, now + state.reset_after
        _log_some(refusals, now, context)
        context.headers["ratelimit"] = _remaining("requests", 0, refusals.full_at - now)
        _REFUSED_REQUESTS.inc()
        tier = principal.tier
        raise Problem(
            "rate-limited",
            "too many requests",
            expected=f"at most {tier.requests_per_second:g} requests per second, and {tier.burst} at once",
            retry_after=math.ceil(refusals.until - now),
        )

    async def charge_steps(self, principal: Principal, steps: int, context: RequestContext) -> None:
        """Count the rows of a request, those with faults included, as steps.

        Raises:
            Problem: the account sent more steps than its tier allows, or the request alone has more than that.
        """
        allowed = principal.tier.steps_per_minute
        if steps > allowed:
            raise Problem(
                "body-too-large",
                "the request has more steps than the account may send in a minute",
                expected=f"at most {allowed} steps",
                got=f"{steps} steps",
                fix="send fewer tracks in one request",
            )
        if steps <= 0:
            return
        limited, state = await self._take(self._steps[principal.tier_name], principal.account_id, steps)
        requests = context.headers.get("ratelimit", "")
        state_of_steps = _remaining("steps", state.remaining, state.reset_after)
        context.headers["ratelimit"] = f"{requests}, {state_of_steps}" if requests else state_of_steps
        if limited:
            _REFUSED_STEPS.inc()
            raise Problem(
                "rate-limited",
                "too many steps",
                expected=f"at most {allowed} steps per minute",
                got=f"{steps} steps, of which {state.remaining} are available",
                retry_after=math.ceil(state.retry_after),
            )

    async def take_steps(self, account_id: str, tier_name: str, steps: int) -> float | None:
        """Count steps of a job, and return None; or return the time after which they can be counted, s."""
        limited, state = await self._take(self._steps[tier_name], account_id, steps)
        if not limited:
            return None
        _REFUSED_STEPS.inc()
        return state.retry_after

    async def _take(self, quota: _Quota, account_id: str, cost: int) -> tuple[bool, RateLimitState]:
        if quota.shared is not None and self._reachable:
            async with self._slots:
                if self._reachable:  # a call that held the slot may have found Redis away
                    try:
                        result = await quota.shared.limit(account_id, cost)
                    except _AWAY as error:
                        self._lose(error)
                    else:
                        return result.limited, result.state
        result = await quota.own.limit(account_id, cost)
        return result.limited, result.state

    def _lose(self, error: Exception) -> None:
        if self._reachable:
            _log.warning("Redis is away, so each process limits by itself: %s", type(error.__cause__ or error).__name__)
            self._reachable = False
            metrics.REDIS_UP.set(0)
            self._lost.set()

    async def _watch(self, redis: Redis) -> None:
        while True:
            try:
                await redis.ping()
            except _AWAY as error:
                self._lose(error)
                await asyncio.sleep(_PROBE_SECONDS)
                continue
            if not self._reachable:
                _log.warning("Redis answers again, so all processes share the limits")
                self._reachable = True
                metrics.REDIS_UP.set(1)
            self._lost.clear()
            await self._lost.wait()


def _log_some(refusals: _Refusals, now: float, context: RequestContext) -> None:
    refusals.unlogged += 1
    if now - refusals.logged_at < _LOG_SECONDS:
        context.logged = False
        return
    context.log["refused"] = refusals.unlogged
    refusals.logged_at, refusals.unlogged = now, 0


def _connect(url: str) -> Redis:
    # A repetition takes a new connection in place of one that was closed in the meantime.
    retry = Retry(NoBackoff(), 1)
    return Redis.from_url(url, socket_timeout=_SOCKET_SECONDS, socket_connect_timeout=_SOCKET_SECONDS, retry=retry)


def _store_of(redis: Redis) -> RedisStore:
    store = RedisStore()
    # The store would put connections of its own into a table of the process, and keep them.
    store._backend._client = cast("AsyncRedisClientP", redis)
    return store


def _requests_quota(tier: Tier) -> Quota:
    rate = Fraction(tier.requests_per_second).limit_denominator(1_000)
    return Quota(Rate(timedelta(seconds=rate.denominator), rate.numerator), burst=tier.burst)


def _steps_quota(tier: Tier) -> Quota:
    return Quota(Rate(timedelta(minutes=1), tier.steps_per_minute), burst=tier.steps_per_minute)


def _remaining(kind: str, count: int, full_after: float) -> str:
    """Return one member of the header RateLimit: what remains, and the seconds until all of it is available again."""
    return f'"{kind}";r={count};t={max(0, math.ceil(round(full_after, 3)))}'
