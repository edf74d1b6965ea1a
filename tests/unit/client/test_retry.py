"""Requests to a silent server are retried with growing delays until the patience ends; a refusal is an answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from types import SimpleNamespace

import pytest

from client import retry as module
from client.connection import Endpoint, RefusedError, ServerUnavailableError
from client.retry import Retry, RetryConfig
from reentry.errors import ClientError, ConfigError

ENDPOINT = Endpoint.parse("grpc://host")
QUICK = RetryConfig(patience=0.2, first_delay=0.001, longest_delay=0.01)
PATIENT = RetryConfig(patience=60.0, first_delay=0.001, longest_delay=0.01)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Clock of the patience, which stands still unless a test moves its attribute `now`, s."""
    clock = SimpleNamespace(now=1_000.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def away_for(times: int) -> Callable[[], Awaitable[str]]:
    left = times

    async def ask() -> str:
        nonlocal left
        if left:
            left -= 1
            raise ServerUnavailableError("connection refused")
        return "answer"

    return ask


def test_an_answer_after_failures_is_returned_and_the_failures_are_one_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert asyncio.run(Retry(ENDPOINT, PATIENT)(away_for(5))) == "answer"
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert caplog.messages == ["grpc://host:8001 is unavailable (connection refused); retrying for 60 s"]


def test_each_outage_is_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    async def twice() -> None:
        retry = Retry(ENDPOINT, PATIENT)
        await retry(away_for(2))
        await retry(away_for(2))

    asyncio.run(twice())
    assert len(caplog.messages) == 2


def test_the_error_at_the_end_of_the_patience_has_the_reason_the_address_and_a_fix() -> None:
    with pytest.raises(ClientError, match=r"no answer .* connection refused") as error:
        asyncio.run(Retry(ENDPOINT, QUICK)(away_for(10_000)))
    assert error.value.where == "grpc://host:8001"
    assert "reentry serve" in str(error.value.fix)


def test_answers_to_other_requests_restart_the_patience(clock: SimpleNamespace) -> None:
    async def beside_answers() -> str:
        retry, answer = Retry(ENDPOINT, QUICK), away_for(10)

        async def away() -> str:
            clock.now += 0.6 * QUICK.patience  # two tries are longer than the patience
            await retry(away_for(0))
            return await answer()

        return await retry(away)

    assert asyncio.run(beside_answers()) == "answer"


def test_a_refusal_is_not_retried() -> None:
    calls = 0

    async def refuse() -> None:
        nonlocal calls
        calls += 1
        raise RefusedError("wrong shape")

    with pytest.raises(RefusedError, match="wrong shape"):
        asyncio.run(Retry(ENDPOINT, QUICK)(refuse))
    assert calls == 1


@pytest.mark.parametrize("wrong", [{"patience": -1.0}, {"first_delay": 0.0}, {"first_delay": 3.0}], ids=str)
def test_a_setting_out_of_range_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError) as error:
        RetryConfig(**wrong)
    assert error.value.expected is not None


@pytest.mark.parametrize("patience", [float("nan"), float("inf"), 1e300])
def test_an_infinite_patience_is_refused(patience: float) -> None:
    with pytest.raises(ConfigError, match="patience out of range") as error:
        RetryConfig(patience=patience)
    assert error.value.expected == "0 to 1,000,000 s"


def test_thousands_of_tries_do_not_overflow_the_delay() -> None:
    config = RetryConfig(patience=1_000.0, first_delay=1e-9, longest_delay=1e-9)
    assert asyncio.run(Retry(ENDPOINT, config)(away_for(1_200))) == "answer"


def test_the_request_to_a_silent_server_is_cancelled_when_the_patience_ends() -> None:
    cancelled = False

    async def silence() -> None:
        nonlocal cancelled
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled = True
            raise

    async def ask() -> None:
        with pytest.raises(ClientError, match=r"no answer from the server for \d+ s: timed out"):
            await Retry(ENDPOINT, QUICK)(silence)
        await asyncio.sleep(0)

    asyncio.run(ask())
    assert cancelled


def test_a_slow_answer_is_awaited_while_other_answers_restart_the_patience(clock: SimpleNamespace) -> None:
    calls = 0

    async def beside_answers() -> str:
        retry = Retry(ENDPOINT, QUICK)

        async def slow() -> str:
            nonlocal calls
            calls += 1
            for _ in range(3):
                clock.now += 0.6 * QUICK.patience
                await retry(away_for(0))
                await asyncio.sleep(1.2 * QUICK.patience)  # the retry looks at the clock meanwhile
            return "slow"

        return await retry(slow)

    assert asyncio.run(beside_answers()) == "slow"
    assert calls == 1
