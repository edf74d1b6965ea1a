"""A silent server is asked again, ever more slowly, and given up in the end; a refusal is an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from client.connection import Endpoint, RefusedError, ServerAwayError
from client.retry import Retry, RetryConfig
from reentry.errors import ClientError, ConfigError

ENDPOINT = Endpoint.parse("grpc://host")
QUICK = RetryConfig(patience=0.2, first_delay=0.001, longest_delay=0.01)


def away_for(times: int) -> Callable[[], Awaitable[str]]:
    left = times

    async def ask() -> str:
        nonlocal left
        if left:
            left -= 1
            raise ServerAwayError("connection refused")
        return "answer"

    return ask


def test_the_answer_comes_through_after_failures_and_they_are_told_once() -> None:
    said: list[str] = []
    assert asyncio.run(Retry(ENDPOINT, QUICK, said.append)(away_for(5))) == "answer"
    assert said == ["grpc://host:8001 is away (connection refused); asking again for 0 s"]


def test_each_time_the_server_goes_away_is_told() -> None:
    said: list[str] = []

    async def twice() -> None:
        retry = Retry(ENDPOINT, QUICK, said.append)
        await retry(away_for(2))
        await retry(away_for(2))

    asyncio.run(twice())
    assert len(said) == 2


def test_patience_ends_with_the_reason_the_address_and_the_fix() -> None:
    with pytest.raises(ClientError, match=r"grpc://host:8001: no answer .* connection refused; fix: .*reentry serve"):
        asyncio.run(Retry(ENDPOINT, QUICK, lambda _: None)(away_for(10_000)))


def test_patience_is_renewed_by_answers_to_other_requests() -> None:
    async def beside_answers() -> str:
        retry = Retry(ENDPOINT, QUICK, lambda _: None)
        slow = asyncio.create_task(retry(away_for(60)))  # some 0.5 s, more than the patience
        while not slow.done():
            await retry(away_for(0))
            await asyncio.sleep(0.01)
        return slow.result()

    assert asyncio.run(beside_answers()) == "answer"


def test_a_refusal_is_not_retried() -> None:
    calls = 0

    async def refuse() -> None:
        nonlocal calls
        calls += 1
        raise RefusedError("wrong shape")

    with pytest.raises(RefusedError, match="wrong shape"):
        asyncio.run(Retry(ENDPOINT, QUICK, lambda _: None)(refuse))
    assert calls == 1


@pytest.mark.parametrize("wrong", [{"patience": -1.0}, {"first_delay": 0.0}, {"first_delay": 3.0}], ids=str)
def test_a_setting_out_of_range_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        RetryConfig(**wrong)


@pytest.mark.parametrize("patience", [float("nan"), float("inf"), 1e300])
def test_a_patience_without_end_is_refused(patience: float) -> None:
    with pytest.raises(ConfigError, match="patience out of range; expected 0 to 1,000,000 s"):
        RetryConfig(patience=patience)


def test_thousands_of_tries_do_not_overflow_the_delay() -> None:
    config = RetryConfig(patience=1_000.0, first_delay=1e-9, longest_delay=1e-9)
    assert asyncio.run(Retry(ENDPOINT, config, lambda _: None)(away_for(1_200))) == "answer"


def test_a_silent_server_is_given_up_when_the_patience_ends_and_its_request_is_cancelled() -> None:
    cancelled = False

    async def silence() -> None:
        nonlocal cancelled
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled = True
            raise

    async def ask() -> None:
        with pytest.raises(ClientError, match="no answer from the server for 0 s: timed out"):
            await Retry(ENDPOINT, QUICK, lambda _: None)(silence)
        await asyncio.sleep(0)

    asyncio.run(ask())
    assert cancelled


def test_a_slow_answer_is_waited_for_while_other_answers_renew_the_patience() -> None:
    calls = 0

    async def slow() -> str:
        nonlocal calls
        calls += 1
        await asyncio.sleep(3 * QUICK.patience)
        return "slow"

    async def beside_answers() -> str:
        retry = Retry(ENDPOINT, QUICK, lambda _: None)
        task = asyncio.create_task(retry(slow))
        while not task.done():
            await retry(away_for(0))
            await asyncio.sleep(0.01)
        return task.result()

    assert asyncio.run(beside_answers()) == "slow"
    assert calls == 1
