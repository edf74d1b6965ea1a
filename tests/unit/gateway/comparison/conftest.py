"""Fixtures: the application over both databases, with two accounts, and rows in its inference log."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import httpx
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from fastapi import FastAPI
from sqlalchemy import create_engine, insert

from gateway.accounts.principal import Scope
from gateway.app import create_app
from gateway.database.engine import address_of
from gateway.database.tables import LoggedTrack
from gateway.ids import new_id
from gateway.services import Services
from gateway.settings import GatewaySettings


@dataclass
class Api:
    """The running application, and a client of one account that sends its key with each request."""

    app: FastAPI
    portal: BlockingPortal
    """Event loop of the application, in another thread."""
    client: httpx.AsyncClient
    account_id: str
    key: str
    settings: GatewaySettings

    @property
    def services(self) -> Services:
        services: Services = self.app.state.services
        return services

    def send(self, method: str, path: str, body: Any = None, *, status: int = 200) -> Any:
        """Send a request and return the content of its answer, which must have a status."""
        answer = self.answer(method, path, body)
        assert answer.status_code == status, answer.text
        return answer.json() if answer.content else None

    def answer(self, method: str, path: str, body: Any = None) -> httpx.Response:
        """Send a request, from any thread."""
        return self.portal.call(lambda: self.client.request(method, path, json=body, headers={"x-api-key": self.key}))

    def account(self, name: str, scopes: Sequence[Scope] = tuple(Scope)) -> Api:
        """Return the same application for another account."""
        account_id = self.portal.call(self.services.directory.create_account, name)
        _, key = self.portal.call(lambda: self.services.directory.create_key(account_id, name="key", scopes=scopes))
        return replace(self, account_id=account_id, key=key)

    def log(self, rows: list[dict[str, Any]]) -> list[str]:
        """Write rows into the inference log of the account, and return their ids."""
        complete = [log_row(self.account_id, **row) for row in rows]
        engine = create_engine(address_of(self.settings).replace("+aiosqlite", ""))
        with engine.begin() as connection:
            connection.execute(insert(LoggedTrack), complete)
        engine.dispose()
        return [row["id"] for row in complete]


def log_row(account_id: str, **given: Any) -> dict[str, Any]:
    """Return a row of the inference log with plausible values where none are given."""
    row = {
        "id": new_id("ans"),
        "account_id": account_id,
        "key_id": "key",
        "request_id": "request",
        "at": time.time(),
        "track_id": 1,
        "steps": 900,
        "first_timestamp": 1_000.0,
        "last_timestamp": 1_899.0,
        "peak_altitude": 2e5,
        "onset_timestamp": 1_500.0,
        "refined_onset_timestamp": None,
        "largest_probability": 0.9,
        "model": "reentry",
        "model_version": 1,
        "experiment_id": None,
        "variant": None,
        "shadow": False,
        "control_id": None,
        "cached": False,
        "degraded": False,
        "seconds": 0.01,
        "quantities": {},
    }
    return row | given


@pytest.fixture
def api(gateway_settings: GatewaySettings) -> Iterator[Api]:
    """The application over SQLite and over PostgreSQL, with a key of a new account for everything."""
    app = create_app(gateway_settings)
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway")
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(app.router.lifespan_context(app)),
        portal.wrap_async_context_manager(client),
    ):
        yield Api(app, portal, client, "", "", gateway_settings).account("one")
