"""Everything that the routes need, opened and closed in one place."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from gateway.accounts.authentication import Authentication
from gateway.accounts.claims import Claims
from gateway.accounts.directory import Directory
from gateway.accounts.limits import Limits
from gateway.database.engine import Database
from gateway.settings import GatewaySettings


class Services:
    """Connections and state of one gateway process. They exist from the start; `open` connects them."""

    def __init__(self, settings: GatewaySettings) -> None:
        self.settings = settings
        self.database = Database(settings)
        self.directory = Directory(self.database, settings)
        self.authentication = Authentication(self.database, settings)
        self.limits = Limits(settings)
        self.claims = Claims(self.database)
        self.stopping = asyncio.Event()
        """Set when the process shuts down: it is no longer ready, and ends its streams of events."""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Services]:
        """Connect everything, and close it in the opposite order."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.database.close)
            await stack.enter_async_context(self.limits.open())
            await stack.enter_async_context(self.claims.open())
            if self.authentication.tokens is not None:
                await stack.enter_async_context(self.authentication.tokens.open())
            yield self
