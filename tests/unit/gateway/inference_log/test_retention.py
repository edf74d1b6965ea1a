"""Old rows are deleted in small transactions, and new ones stay."""

from __future__ import annotations

import asyncio

import pytest

from gateway.database.engine import Database
from gateway.inference_log import retention
from gateway.inference_log.log import InferenceLog
from gateway.settings import GatewaySettings
from tests.unit.gateway.inference_log.rows import read, row_of


def test_only_rows_before_the_time_are_deleted(
    gateway_settings: GatewaySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "_BATCH", 10)

    async def run() -> None:
        database = Database(gateway_settings)
        log = InferenceLog(database, gateway_settings)
        log.open()
        log.record([row_of(number, at=float(number)) for number in range(100)])
        await log.close()
        assert await retention.delete_before(database, 73.0) == 73
        assert await read(database, "SELECT count(*), min(track_id) FROM inference_log") == [(27, 73)]
        assert await read(database, "SELECT sum(tracks) FROM usage") == [(100,)]
        assert await retention.delete_before(database, 73.0) == 0
        await database.close()

    asyncio.run(run())
