"""Clock of the database, by which all processes agree on leases and deadlines."""

from __future__ import annotations

from typing import Final

from sqlalchemy import literal_column
from sqlalchemy.sql.elements import ColumnElement

from gateway.database.engine import Database

_EXPRESSIONS: Final = {
    "sqlite": "(julianday('now') - 2440587.5) * 86400.0",
    "postgresql": "extract(epoch FROM clock_timestamp())::float8",
}


def now(database: Database) -> ColumnElement[float]:
    """Return the Unix time of the database, s, as an expression of a statement."""
    return literal_column(f"({_EXPRESSIONS[database.dialect]})")
