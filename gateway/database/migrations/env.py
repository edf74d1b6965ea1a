"""Environment in which alembic runs the revisions."""

from __future__ import annotations

from alembic import context
from sqlalchemy import create_engine, text

from gateway.database.tables import Table

_LOCK = 0x7265656E747279
"""Number of the lock that lets one process migrate at a time."""

engine = create_engine(context.config.attributes["address"])
with engine.connect() as connection:
    context.configure(connection=connection, target_metadata=Table.metadata)
    with context.begin_transaction():
        if engine.dialect.name == "postgresql":
            connection.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
        else:
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        context.run_migrations()
engine.dispose()
