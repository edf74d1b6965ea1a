"""Migrations of the database to the newest tables, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config

from gateway.database.engine import address_of, unavailable
from gateway.settings import GatewaySettings

_FOLDER: Final = Path(__file__).parent / "migrations"


def migrate(settings: GatewaySettings, revision: str = "head") -> None:
    """Bring the tables to a revision. Several processes may do so at once.

    Args:
        settings: settings with the address of the database.
        revision: revision of alembic; `base` removes all tables.

    Raises:
        DatabaseUnavailableError: the database does not answer.
    """
    if settings.embedded:
        settings.data.mkdir(parents=True, exist_ok=True, mode=0o700)
    config = Config()
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    config.attributes["address"] = address_of(settings).replace("+aiosqlite", "")
    with unavailable():
        if revision == "base":
            command.downgrade(config, revision)
        else:
            command.upgrade(config, revision)
