"""GET /v1/usage."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.accounts.principal import Scope
from gateway.database.tables import Usage
from gateway.database.upsert import insert_into
from gateway.inference_log.usage import SUMS
from gateway.settings import GatewaySettings
from tests.gateway_app import RunningApp, running_app

HOUR = 3600


async def use(gateway: RunningApp, hour: int, *sums: int, account_id: str | None = None) -> None:
    async with gateway.services.database.writing() as connection:
        values: dict[str, Any] = dict(zip(SUMS, sums, strict=True))
        await connection.execute(
            insert_into(connection, Usage).values(account_id=account_id or gateway.account_id, hour=hour, **values)
        )


def test_the_usage_of_the_account_is_summed_by_hours(gateway_settings: GatewaySettings) -> None:
    async def main() -> None:
        async with running_app(gateway_settings) as gateway:
            for hour, factor in ((100, 1), (101, 10), (103, 100)):
                await use(gateway, hour, *(factor * number for number in range(1, 7)))
            await use(gateway, 101, *[9] * 6, account_id="acct_other")
            answer = await gateway.client.get("/v1/usage", params={"since": 100.5 * HOUR, "until": 103 * HOUR + 1})
            assert answer.json() == {
                "since": 100.5 * HOUR,
                "until": 103.0 * HOUR + 1,
                "total": dict(zip(SUMS, (110, 220, 330, 440, 550, 660), strict=True)),
                "hours": [
                    {"begins_at": 101.0 * HOUR, **dict(zip(SUMS, (10, 20, 30, 40, 50, 60), strict=True))},
                    {"begins_at": 103.0 * HOUR, **dict(zip(SUMS, (100, 200, 300, 400, 500, 600), strict=True))},
                ],
            }
            day = (await gateway.client.get("/api/v1/usage", params={"until": 200 * HOUR})).json()
            assert (day["since"], day["hours"], day["total"]["tracks"]) == (176.0 * HOUR, [], 0)
            until_now = (await gateway.client.get("/v1/usage")).json()
            assert until_now["until"] - until_now["since"] == 86_400.0

    asyncio.run(main())


@pytest.mark.parametrize("gateway_settings", ["sqlite"], indirect=True)
def test_impossible_times_and_a_missing_scope_are_refused(gateway_settings: GatewaySettings) -> None:
    async def main() -> None:
        async with running_app(gateway_settings) as gateway:
            for given in ({"since": 2, "until": 1}, {"since": 0, "until": 4e7}, {"since": "nan"}, {"until": -1}):
                answer = await gateway.client.get("/v1/usage", params=given)
                assert (answer.status_code, answer.json()["code"]) == (422, "invalid-value"), given
            client = await gateway.client_of(Scope.SCORE)
            assert (await client.get("/v1/usage")).json()["code"] == "forbidden"

    asyncio.run(main())
