from __future__ import annotations

import asyncio
import itertools
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import REGISTRY
from redis.asyncio import Redis

from gateway.accounts import limits as module
from gateway.accounts.limits import Limits
from gateway.accounts.principal import Principal
from gateway.context import RequestContext
from gateway.problems import Problem
from gateway.settings import GatewaySettings, Tier
from tests.gateway_servers import Server, running_redis

SLOW = Tier(requests_per_second=0.01, burst=5, steps_per_minute=1_000)
"""A tier whose quota does not refill during a test."""
_names = itertools.count()


def limits_of(tier: Tier = SLOW, **settings: Any) -> Limits:
    return Limits(GatewaySettings(tiers={"standard": tier}, **settings))


def sender(tier: Tier = SLOW) -> Principal:
    return Principal(
        account_id=f"acct_{next(_names)}", key_id="key", scopes=frozenset(), tier_name="standard", tier=tier
    )


async def request(limits: Limits, principal: Principal) -> dict[str, str]:
    """Headers of an accepted request."""
    context = RequestContext(request_id="req")
    await limits.check_request(principal, context)
    return context.headers


async def accepted(limits: Limits, principal: Principal, count: int) -> int:
    """Number of requests that pass."""
    answers = await asyncio.gather(*(request(limits, principal) for _ in range(count)), return_exceptions=True)
    assert all(not isinstance(each, BaseException) or isinstance(each, Problem) for each in answers), answers
    return sum(not isinstance(each, Problem) for each in answers)


@pytest.mark.usefixtures("limits_clock")
def test_exactly_the_burst_passes_at_once_and_each_account_has_its_own() -> None:
    async def main() -> None:
        limits, first, second = limits_of(), sender(), sender()
        assert await accepted(limits, first, 50) == 5
        assert await accepted(limits, second, 50) == 5

    asyncio.run(main())


@pytest.mark.usefixtures("limits_clock")
def test_the_headers_state_the_policy_and_what_remains() -> None:
    async def main() -> None:
        limits, principal = limits_of(), sender()
        headers = [await request(limits, principal) for _ in range(5)]
        assert [each["ratelimit"] for each in headers] == [
            f'"requests";r={remaining};t={100 * (5 - remaining)}' for remaining in (4, 3, 2, 1, 0)
        ]
        assert headers[0]["ratelimit-policy"] == '"requests";q=5;w=500, "steps";q=1000;w=60'

    asyncio.run(main())


@pytest.mark.usefixtures("limits_clock")
def test_a_refused_request_gets_429_with_the_time_to_wait() -> None:
    async def main() -> None:
        limits, principal = limits_of(), sender()
        await accepted(limits, principal, 5)
        for _ in range(2):  # the second refusal is answered without a look into the store
            context = RequestContext(request_id="req")
            with pytest.raises(Problem) as raised:
                await limits.check_request(principal, context)
            assert (raised.value.code, raised.value.headers["retry-after"]) == ("rate-limited", "100")
            assert context.headers["ratelimit"] == '"requests";r=0;t=500'
            assert "ratelimit-policy" in context.headers

    asyncio.run(main())


def test_the_account_may_send_again_after_the_time_to_wait(limits_clock: SimpleNamespace) -> None:
    async def main() -> None:
        tier = Tier(requests_per_second=20, burst=1)
        limits, principal = limits_of(tier), sender(tier)
        assert await accepted(limits, principal, 3) == 1
        limits_clock.now += 0.06
        assert await accepted(limits, principal, 3) == 1

    asyncio.run(main())


def test_only_one_of_many_refusals_in_a_second_is_logged_with_their_number(limits_clock: SimpleNamespace) -> None:
    async def main() -> None:
        limits, principal = limits_of(), sender()
        await accepted(limits, principal, 5)
        contexts = [RequestContext(request_id="req") for _ in range(10)]
        for context in contexts:
            with pytest.raises(Problem):
                await limits.check_request(principal, context)
        assert [context.logged for context in contexts] == [True] + 9 * [False]
        limits_clock.now += 2
        context = RequestContext(request_id="req")
        with pytest.raises(Problem):
            await limits.check_request(principal, context)
        assert context.logged
        assert context.log == {"refused": 10}

    asyncio.run(main())


@pytest.mark.usefixtures("limits_clock")
def test_steps_are_charged_until_the_quota_of_a_minute_is_used_up() -> None:
    async def main() -> None:
        limits, principal = limits_of(), sender()
        context = RequestContext(request_id="req")
        await limits.check_request(principal, context)
        await limits.charge_steps(principal, 900, context)
        assert context.headers["ratelimit"] == '"requests";r=4;t=100, "steps";r=100;t=54'
        with pytest.raises(Problem) as raised:
            await limits.charge_steps(principal, 200, context)
        assert raised.value.code == "rate-limited"
        assert raised.value.headers["retry-after"] == "6"
        await limits.charge_steps(principal, 99, context)  # what was refused is not charged

    asyncio.run(main())


def test_a_request_with_more_steps_than_a_minute_allows_is_too_large_and_not_told_to_wait() -> None:
    async def main() -> None:
        limits, principal = limits_of(), sender()
        with pytest.raises(Problem) as raised:
            await limits.charge_steps(principal, 1_001, RequestContext(request_id="req"))
        assert (raised.value.code, raised.value.fields["expected"]) == ("body-too-large", "at most 1000 steps")
        assert "retry-after" not in raised.value.headers

    asyncio.run(main())


@pytest.mark.parametrize(("rate", "window"), [(0.001, 5_000), (1 / 3, 15), (2.5, 2), (1_000, 1)])
def test_rates_below_and_between_whole_numbers_are_kept(rate: float, window: int) -> None:
    async def main() -> None:
        tier = replace(SLOW, requests_per_second=rate)
        headers = await request(limits_of(tier), sender(tier))
        assert headers["ratelimit-policy"].startswith(f'"requests";q=5;w={window},')

    asyncio.run(main())


def test_two_processes_share_the_limits_in_redis(redis_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SOCKET_SECONDS", 30.0)

    async def main() -> None:
        url = f"redis://127.0.0.1:{redis_server.port}/0"
        first, second, principal = limits_of(redis_url=url), limits_of(redis_url=url), sender()
        async with first.open(), second.open():
            counts = await asyncio.gather(accepted(first, principal, 100), accepted(second, principal, 100))
            assert sum(counts) == 5
            for limits in (first, second):
                await limits.charge_steps(principal, 500, RequestContext(request_id="req"))
            with pytest.raises(Problem, match="too many steps"):
                await second.charge_steps(principal, 500, RequestContext(request_id="req"))
            assert REGISTRY.get_sample_value("reentry_gateway_redis_up") == 1

    asyncio.run(main())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_each_process_limits_by_itself_while_redis_is_away_or_hangs(
    tmp_path: Path, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SOCKET_SECONDS", 1.0)

    async def main(redis: Server) -> None:
        url = f"redis://127.0.0.1:{redis.port}/0"
        first, second, principal = limits_of(redis_url=url), limits_of(redis_url=url), sender()

        def is_up() -> bool:
            return first._reachable and second._reachable and REGISTRY.get_sample_value("reentry_gateway_redis_up") == 1

        async with first.open(), second.open():
            assert await accepted(first, principal, 1) == 1
            redis.pause() if number == signal.SIGSTOP else redis.stop(number)
            assert await accepted(first, principal, 100) == 5
            assert await accepted(second, principal, 100) == 5
            assert REGISTRY.get_sample_value("reentry_gateway_redis_up") == 0
            redis.resume() if number == signal.SIGSTOP else redis.start()
            await until(is_up)
            later = sender()
            counts = await asyncio.gather(accepted(first, later, 100), accepted(second, later, 100))
            assert sum(counts) == 5

    with running_redis(tmp_path) as redis:
        asyncio.run(main(redis))


def test_a_hung_redis_delays_only_the_requests_that_find_it_hung(tmp_path: Path) -> None:
    async def main(redis: Server) -> None:
        tier = Tier(requests_per_second=1_000_000, burst=1_000_000)
        limits, principal = limits_of(tier, redis_url=f"redis://127.0.0.1:{redis.port}/0"), sender(tier)
        async with limits.open(), Redis(port=redis.port) as client:
            await accepted(limits, principal, 1)
            redis.pause()
            assert await accepted(limits, principal, 500) == 500
            assert await accepted(limits, principal, 500) == 500
            redis.resume()
            await until(lambda: limits._reachable)
            calls = (await client.info("commandstats"))["cmdstat_evalsha"]["calls"]
            assert 1 < calls <= 1 + 2 * 16  # calls in flight at once, and one repetition of each

    with running_redis(tmp_path) as redis:
        asyncio.run(main(redis))
