from __future__ import annotations

import asyncio
import time

import pytest

from gateway.accounts.keys import id_of
from gateway.accounts.principal import Scope
from gateway.settings import GatewaySettings
from tests.gateway_app import running_app


def test_a_key_is_created_used_shown_listed_and_revoked(gateway_settings: GatewaySettings) -> None:
    async def main() -> None:
        async with running_app(gateway_settings) as gateway:
            account = (await gateway.client.post("/v1/accounts", json={"name": "range", "tier": "premium"})).json()
            assert account["tier"] == "premium"
            given = {"name": "one", "scopes": ["score", "admin"], "account_id": account["id"]}
            answer = await gateway.client.post("/v1/keys", json=given)
            assert (answer.status_code, answer.headers["cache-control"]) == (201, "no-store")
            created = answer.json()
            text = created.pop("key")
            assert id_of(text) == created["id"]
            expected = {"account_id": account["id"], "account": "range", "scopes": ["admin", "score"]}
            assert expected.items() <= created.items()
            shown = await gateway.client.get(f"/v1/keys/{created['id']}")
            assert shown.json() == created
            mine = {"Authorization": f"Bearer {text}"}
            assert (await gateway.client.get("/v1/accounts", headers=mine)).status_code == 200
            assert (
                await gateway.client.get("/v1/keys", headers={"X-API-Key": text, "Authorization": ""})
            ).status_code == 200
            for _ in range(2):
                revoked = await gateway.client.delete(f"/v1/keys/{created['id']}")
                assert revoked.json() == created | {"revoked_at": pytest.approx(time.time(), abs=60)}
            refused = await gateway.client.get("/v1/accounts", headers=mine)
            assert (refused.status_code, refused.json()["code"]) == (401, "unauthorized")
            assert refused.headers["www-authenticate"] == 'Bearer realm="reentry"'

    asyncio.run(main())


def test_a_key_belongs_to_the_account_of_the_request_by_default(gateway_settings: GatewaySettings) -> None:
    async def main() -> None:
        async with running_app(gateway_settings) as gateway:
            answer = await gateway.client.post("/v1/keys", json={"name": "one", "scopes": ["read"]})
            assert answer.json()["account_id"] == gateway.account_id

    asyncio.run(main())


def test_the_keys_are_listed_in_pages_and_by_account(gateway_settings: GatewaySettings) -> None:
    async def main() -> None:
        async with running_app(gateway_settings) as gateway:
            other = await gateway.services.directory.create_account("range")
            for number in range(5):
                await gateway.services.directory.create_key(other, name=str(number), scopes=[Scope.READ])
            found, cursor = [], ""
            while cursor is not None:
                given = {"limit": 2, "account_id": other} | ({"cursor": cursor} if cursor else {})
                page = (await gateway.client.get("/v1/keys", params=given)).json()
                found += page["keys"]
                cursor = page["next"]
            assert [key["name"] for key in found] == ["4", "3", "2", "1", "0"]
            assert "hash" not in found[0]
            everything = (await gateway.client.get("/api/v1/keys")).json()
            assert len(everything["keys"]) == 6
            accounts = (await gateway.client.get("/v1/accounts")).json()["accounts"]
            assert [account["name"] for account in accounts] == ["default", "range"]

    asyncio.run(main())


@pytest.mark.parametrize("gateway_settings", ["sqlite"], indirect=True)
def test_a_key_without_the_scope_admin_manages_nothing(gateway_settings: GatewaySettings) -> None:
    calls = [(method, path) for method in ("GET", "POST") for path in ("/v1/keys", "/v1/accounts")]
    calls += [(method, "/v1/keys/x") for method in ("GET", "DELETE")]

    async def main() -> None:
        async with running_app(gateway_settings) as gateway:
            scopes = sorted(set(Scope) - {Scope.ADMIN})
            async with await gateway.client_of(*scopes) as client:
                for method, path in calls:
                    answer = await client.request(method, path, json={"name": "x", "scopes": ["read"]})
                    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden"), (method, path)

    asyncio.run(main())


INVALID = [
    ("/v1/accounts", {"name": "default"}, 409, "conflict"),
    ("/v1/accounts", {"name": "new", "tier": "golden"}, 422, "invalid-value"),
    ("/v1/accounts", {"name": ""}, 422, "invalid-value"),
    ("/v1/accounts", {"name": "a\0b"}, 422, "invalid-value"),
    ("/v1/accounts", {"name": "new", "other": 1}, 422, "invalid-value"),
    ("/v1/keys", {"name": "x", "scopes": []}, 422, "invalid-value"),
    ("/v1/keys", {"name": "x", "scopes": ["root"]}, 422, "invalid-value"),
    ("/v1/keys", {"name": "x", "scopes": ["read"], "account_id": "acct_none"}, 404, "not-found"),
    ("/v1/keys", {"name": "x", "scopes": ["read"], "account_id": "\0"}, 422, "invalid-value"),
    ("/v1/keys", {"name": "x", "scopes": ["read"], "expires_at": 1.0}, 422, "invalid-value"),
    ("/v1/keys", {"name": "x", "scopes": ["read"], "expires_at": 1e300}, 422, "invalid-value"),
]


def test_invalid_values_are_problems(gateway_settings: GatewaySettings) -> None:
    async def main() -> None:
        async with running_app(gateway_settings) as gateway:
            for path, body, status, code in INVALID:
                answer = await gateway.client.post(path, json=body)
                assert (answer.status_code, answer.json()["code"]) == (status, code), (path, body)
                assert answer.headers["content-type"] == "application/problem+json"

    asyncio.run(main())


def test_the_creation_of_a_key_takes_no_idempotency_key_and_stores_no_secret(gateway_settings: GatewaySettings) -> None:
    async def main() -> None:
        async with running_app(gateway_settings) as gateway:
            headers = {"Idempotency-Key": "once"}
            given = {"name": "x", "scopes": ["read"]}
            answer = await gateway.client.post("/v1/keys", json=given, headers=headers)
            assert (answer.status_code, answer.json()["where"]) == (400, "Idempotency-Key")
            keys = (await gateway.client.get("/v1/keys")).json()["keys"]
            assert [key["id"] for key in keys] == [gateway.key_id]

    asyncio.run(main())
