from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway.accounts.principal import Scope
from gateway.database.migrate import migrate
from gateway.process import first_key
from gateway.services import Services
from gateway.settings import GatewaySettings, Tier


@pytest.mark.parametrize("is_created", [False, True], ids=["no account", "account without a key"])
def test_the_first_key_needs_no_tier_but_standard(tmp_path: Path, is_created: bool) -> None:
    settings = GatewaySettings(data=tmp_path, tiers={"standard": Tier(), "gold": Tier(degraded=True)})

    async def main() -> None:
        services = Services(settings)
        try:
            if is_created:
                await services.directory.create_account("default", "gold")
            text = await first_key(services)
            assert text is not None
            principal = await services.authentication.authenticate(text)
            assert principal.tier_name == ("gold" if is_created else "standard")
            assert principal.scopes == set(Scope)
            assert await first_key(services) is None
        finally:
            await services.database.close()

    migrate(settings)
    asyncio.run(main())
