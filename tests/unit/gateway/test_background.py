from __future__ import annotations

import asyncio

import pytest

from gateway.background import repeating, running
from gateway.database.engine import DatabaseUnavailableError


def test_a_task_runs_during_its_block_and_is_cancelled_at_the_end() -> None:
    seen: list[str] = []
    begun = asyncio.Event()

    async def task() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            seen.append("cancelled")

    async def main() -> None:
        async with running(task()):
            await begun.wait()
            assert seen == []
        assert seen == ["cancelled"]

    asyncio.run(main())


def test_steps_continue_after_a_failure_and_only_unexpected_ones_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    failures: list[Exception | None] = [DatabaseUnavailableError("away"), ValueError("wrong"), None]
    done = asyncio.Event()

    async def step() -> None:
        if failures and (failure := failures.pop(0)) is not None:
            raise failure
        done.set()

    async def main() -> None:
        async with repeating(step, seconds=0.0, failure="nothing was counted"):
            await asyncio.wait_for(done.wait(), 30)

    caplog.set_level("INFO")
    asyncio.run(main())
    (record,) = [each for each in caplog.records if each.name == "gateway.background"]
    assert (record.levelname, record.message) == ("ERROR", "nothing was counted")
    assert "ValueError: wrong" in caplog.text
