from __future__ import annotations

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, inspect

from gateway.database.engine import address_of
from gateway.database.migrate import migrate
from gateway.database.tables import Table
from gateway.settings import GatewaySettings


def test_the_revisions_create_the_tables_and_remove_them_again(gateway_settings: GatewaySettings) -> None:
    engine = create_engine(address_of(gateway_settings).replace("+aiosqlite", ""))
    try:
        for revision in ("head", "base", "head"):
            migrate(gateway_settings, revision)
            expected = set() if revision == "base" else set(Table.metadata.tables)
            assert set(inspect(engine).get_table_names()) - {"alembic_version"} == expected
        with engine.connect() as connection:
            assert compare_metadata(MigrationContext.configure(connection), Table.metadata) == []
    finally:
        engine.dispose()
