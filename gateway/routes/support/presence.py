"""Presence of the client during a call that it waits for, and its right to a stream that is open."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Final, TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.types import Scope as AsgiScope

from gateway.accounts.principal import Scope
from gateway.middleware.access import credentials_of
from gateway.problems import Problem
from gateway.services import Services

Result = TypeVar("Result")

_SECONDS: Final = 0.05
"""Time after which it is watched whether the client is still there. Most calls end before, and are not watched."""


async def while_connected(request: Request, call: Awaitable[Result]) -> Result:
    """Await a call, and cancel it when the client closes the connection. The body must have been read.

    Raises:
        ClientDisconnect: the client is gone.
    """
    caller = asyncio.current_task()
    assert caller is not None
    watches: list[asyncio.Task[None]] = []
    is_gone = False

    async def watch() -> None:
        nonlocal is_gone
        while (await request.receive())["type"] != "http.disconnect":
            pass
        is_gone = True
        caller.cancel()

    loop = asyncio.get_running_loop()
    timer = loop.call_later(_SECONDS, lambda: watches.append(loop.create_task(watch())))
    try:
        return await call
    except asyncio.CancelledError:
        if is_gone:
            raise ClientDisconnect from None
        raise
    finally:
        timer.cancel()
        for each in watches:
            each.cancel()


async def still_valid(services: Services, request: AsgiScope, needed: Scope) -> bool:
    """Whether the key of a request that is still being answered is valid, and has a scope."""
    try:
        principal = await services.authentication.authenticate(credentials_of(request))
    except Problem as problem:
        return problem.code != "unauthorized"
    return needed in principal.scopes
