"""Names of the parameters of a run that say which version of which table it was trained on."""

from __future__ import annotations

from typing import Final

TABLE: Final = "data.table"
VERSION: Final = "data.version"
TABLE_ID: Final = "data.table_id"
"""Id of the table; another table of the same name, in another lake, has another."""
SCHEMA_HASH: Final = "data.schema_hash"
FILTER: Final = "data.filter"
"""SQL condition, or an empty text."""
