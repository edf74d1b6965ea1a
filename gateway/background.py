"""Tasks that run beside the requests, from the start of a block to its end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

from gateway.database.engine import DatabaseUnavailableError

_LOG = logging.getLogger(__name__)


@asynccontextmanager
async def running(coroutine: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run a coroutine during the block, and cancel it at the end of the block."""
    task = asyncio.create_task(coroutine)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@asynccontextmanager
async def repeating(step: Callable[[], Awaitable[object]], *, seconds: float, failure: str) -> AsyncIterator[None]:
    """Take a step again and again during a block. A failed step is logged, and does not prevent the next one.

    Args:
        step: function to call, for the first time at the start of the block.
        seconds: time between the end of a step and the next one, s.
        failure: message to log when the step fails.
    """

    async def repeat() -> None:
        while True:
            try:
                await step()
            except DatabaseUnavailableError:
                _LOG.debug("%s: the database does not answer", failure)
            except Exception:
                _LOG.exception("%s", failure)
            await asyncio.sleep(seconds)

    async with running(repeat()):
        yield
