from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.settings import GatewaySettings
from tests.gateway_app import running_app

OUTCOME = {"track_id": 1, "onset_timestamp": 2}
KEY = {"name": "a", "scopes": ["read"], "expires_at": None}
EXPERIMENT = {"name": "a", "mode": "shadow", "challenger": {"model": "reentry_candidate"}, "share": 1}


@pytest.mark.parametrize("gateway_settings", ["sqlite"], indirect=True)
def test_a_json_value_that_is_no_number_is_not_taken_for_one(gateway_settings: GatewaySettings) -> None:
    async def main() -> None:
        async with running_app(gateway_settings) as gateway:

            async def status(path: str, body: dict[str, Any]) -> int:
                return (await gateway.client.post(path, json=body)).status_code

            # The same bodies with numbers, integers in place of fractions among them, are accepted.
            assert await status("/v1/outcomes", {"outcomes": [OUTCOME]}) == 200
            assert await status("/v1/keys", KEY) == 201
            assert await status("/v1/experiments", EXPERIMENT) == 201
            assert await status("/v1/keys", KEY | {"expires_at": "9999999999"}) == 422
            for value in (True, "1"):
                for name in OUTCOME:
                    assert await status("/v1/outcomes", {"outcomes": [OUTCOME | {name: value}]}) == 422, name
                assert await status("/v1/experiments", EXPERIMENT | {"name": "b", "share": value}) == 422

    asyncio.run(main())
