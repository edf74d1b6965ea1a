"""The gateway inside the process of a test, without a socket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
from fastapi import APIRouter, FastAPI

from gateway.accounts.principal import Scope
from gateway.app import create_app
from gateway.services import Services
from gateway.settings import GatewaySettings


@dataclass
class RunningApp:
    """A gateway with an account."""

    app: FastAPI
    client: httpx.AsyncClient
    """Client that sends the key of the account, which has all scopes."""
    services: Services
    account_id: str
    key_id: str
    key: str

    async def client_of(
        self, *scopes: Scope, account_id: str | None = None, tier: str = "standard"
    ) -> httpx.AsyncClient:
        """Client with a key of its own, by default of a new account."""
        account_id = account_id or await self.services.directory.create_account(f"account of {scopes} {tier}", tier)
        _, text = await self.services.directory.create_key(account_id, name="test", scopes=scopes)
        return _client(self.app, text)


@asynccontextmanager
async def running_app(
    settings: GatewaySettings, *, tier: str = "premium", routes: APIRouter | None = None
) -> AsyncIterator[RunningApp]:
    """The gateway with open services, an account of a tier, and further routes of a test."""
    app = create_app(settings)
    if routes is not None:
        app.include_router(routes)
    services: Services = app.state.services
    async with services.open():
        account_id = await services.directory.create_account("default", tier)
        key_id, key = await services.directory.create_key(account_id, name="test", scopes=Scope)
        async with _client(app, key) as client:
            yield RunningApp(app, client, services, account_id, key_id, key)


def _client(app: FastAPI, key: str) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app)
    return httpx.AsyncClient(
        transport=transport, base_url="http://gateway", headers={"Authorization": f"Bearer {key}"}, timeout=30
    )
