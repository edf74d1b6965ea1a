from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest

from gateway.accounts import authentication as module
from gateway.accounts.authentication import Authentication
from gateway.accounts.directory import Directory
from gateway.accounts.keys import create_key
from gateway.accounts.principal import Scope
from gateway.database.engine import Database, DatabaseUnavailableError
from gateway.problems import Problem
from gateway.settings import DEFAULT_TIERS, GatewaySettings


@asynccontextmanager
async def open_database(settings: GatewaySettings) -> AsyncIterator[Database]:
    database = Database(settings)
    try:
        yield database
    finally:
        await database.close()


async def refusal(authentication: Authentication, text: str) -> str:
    with pytest.raises(Problem) as raised:
        await authentication.authenticate(text)
    assert raised.value.code == "unauthorized"
    return str(raised.value)


def test_a_key_gives_its_account_scopes_and_tier(gateway_settings: GatewaySettings) -> None:
    async def main() -> None:
        async with open_database(gateway_settings) as database:
            directory = Directory(database, gateway_settings)
            account_id = await directory.create_account("range", "premium")
            key_id, text = await directory.create_key(account_id, name="one", scopes=[Scope.SCORE, Scope.READ])
            principal = await Authentication(database, gateway_settings).authenticate(text)
            assert (principal.account_id, principal.key_id) == (account_id, key_id)
            assert principal.scopes == {"score", "read"}
            assert (principal.tier_name, principal.tier) == ("premium", DEFAULT_TIERS["premium"])

    asyncio.run(main())


def test_wrong_unknown_expired_and_revoked_keys_are_refused(
    gateway_settings: GatewaySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with open_database(gateway_settings) as database:
            directory = Directory(database, gateway_settings)
            authentication = Authentication(database, gateway_settings)
            account_id = await directory.create_account("range")
            key_id, text = await directory.create_key(account_id, name="one", scopes=[Scope.SCORE])
            other = create_key()
            assert "unknown" in await refusal(authentication, other.text)
            assert "malformed" in await refusal(authentication, text[:-1] + ("1" if text[-1] == "0" else "0"))
            assert "malformed" in await refusal(authentication, "")
            _, short = await directory.create_key(
                account_id, name="short", scopes=[Scope.SCORE], expires_at=time.time() + 600
            )
            assert (await authentication.authenticate(short)).account_id == account_id
            with monkeypatch.context() as patch:
                patch.setattr(module, "time", SimpleNamespace(time=lambda: time.time() + 601))
                assert "expired" in await refusal(authentication, short)
            await directory.revoke(key_id)
            assert "revoked" in await refusal(authentication, text)

    asyncio.run(main())


def test_another_secret_with_a_known_id_is_refused(gateway_settings: GatewaySettings) -> None:
    async def main() -> None:
        async with open_database(gateway_settings) as database:
            directory = Directory(database, gateway_settings)
            authentication = Authentication(database, gateway_settings)
            account_id = await directory.create_account("range")
            key_id, text = await directory.create_key(account_id, name="one", scopes=[Scope.SCORE])
            forged = f"rk_{key_id}_{create_key().text.split('_')[2]}"
            forged = f"{forged}_{module.id_of.__globals__['_checksum'](forged)}"
            for _ in range(2):  # before and after the key is known
                assert "unknown" in await refusal(authentication, forged)
                assert await authentication.authenticate(text)

    asyncio.run(main())


def test_an_unknown_key_is_compared_like_a_known_one(
    gateway_settings: GatewaySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = []

    def compare(_text: str, stored: bytes) -> bool:
        compared.append(stored)
        return False

    monkeypatch.setattr(module, "matches", compare)

    async def main() -> None:
        async with open_database(gateway_settings) as database:
            await refusal(Authentication(database, gateway_settings), create_key().text)

    asyncio.run(main())
    assert [len(each) for each in compared] == [32]


def test_nothing_of_a_refused_key_is_logged(
    gateway_settings: GatewaySettings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    key = create_key()

    async def main() -> None:
        async with open_database(gateway_settings) as database:
            authentication = Authentication(database, gateway_settings)
            assert key.text.split("_")[2] not in await refusal(authentication, key.text)

    asyncio.run(main())
    assert key.text.split("_")[2] not in caplog.text


def test_known_keys_work_while_the_database_is_away_and_others_get_503(
    gateway_settings: GatewaySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with open_database(gateway_settings) as database:
            directory = Directory(database, gateway_settings)
            authentication = Authentication(database, gateway_settings)
            account_id = await directory.create_account("range")
            _, text = await directory.create_key(account_id, name="one", scopes=[Scope.SCORE])
            _, unused = await directory.create_key(account_id, name="two", scopes=[Scope.SCORE])
            await authentication.authenticate(text)
            await database.close()

            def away() -> None:
                raise DatabaseUnavailableError

            monkeypatch.setattr(database, "reading", away)
            assert (await authentication.authenticate(text)).account_id == account_id
            with pytest.raises(Problem) as raised:
                await authentication.authenticate(unused)
            assert raised.value.code == "database-unavailable"

    asyncio.run(main())
