"""Pages of a query: each one continues after the last row of the one before (keyset pagination).

A cursor is the position of a row as base64 of a JSON list: the table's name, then the values by which the rows are
sorted. It is not signed: a forged one moves the position within the rows that the query allows, and shows no others.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import ColumnElement, Select, literal, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.problems import Problem

_LONGEST: Final = 1_024
"""Characters of the longest cursor."""
_LARGEST_INTEGER: Final = 2**63 - 1


async def read_page(
    connection: AsyncConnection,
    query: Select[*tuple[Any, ...]],
    columns: Sequence[Any],
    *,
    limit: int,
    cursor: str | None = None,
    newest_first: bool = False,
) -> tuple[list[Any], str | None]:
    """Read one page.

    Args:
        connection: connection to the database.
        query: query without an order, which selects the `columns` by their own names among others.
        columns: columns that sort the rows, together unique and never null; the first one's table names the list.
        limit: largest number of rows.
        cursor: where the page before ended; None for the first page.
        newest_first: whether the rows are sorted downwards.

    Returns:
        The rows, and the cursor of the next page, or None if there is none.

    Raises:
        Problem: the cursor is invalid.
    """
    name = str(columns[0].table.name)
    kinds = [column.type.python_type for column in columns]
    if cursor is not None:
        row = tuple_(*columns)
        values: ColumnElement[Any] = tuple_(
            *(literal(value, column.type) for value, column in zip(_decoded(cursor, name, kinds), columns, strict=True))
        )
        query = query.where(row < values if newest_first else row > values)
    order = [column.desc() if newest_first else column.asc() for column in columns]
    rows = list((await connection.execute(query.order_by(*order).limit(limit + 1))).all())
    if len(rows) <= limit:
        return rows, None
    rows = rows[:limit]
    last = rows[-1]._mapping
    return rows, _encoded([name, *(last[column.key] for column in columns)])


def _encoded(values: list[Any]) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(values)).decode().rstrip("=")


def _decoded(cursor: str, name: str, kinds: Sequence[type]) -> list[Any]:
    try:
        if len(cursor) > _LONGEST:
            raise ValueError(len(cursor))  # noqa: TRY301  # the same end as other faults
        content = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        table, *values = msgspec.json.decode(content, type=list)
        if table != name or len(values) != len(kinds):
            raise ValueError(table)  # noqa: TRY301
        return [_checked(msgspec.convert(value, kind)) for value, kind in zip(values, kinds, strict=True)]
    except (ValueError, binascii.Error, msgspec.MsgspecError) as error:
        raise Problem(
            "invalid-value",
            "the cursor is invalid",
            where="query parameter cursor",
            expected="`next` of an answer of the same list, unchanged",
            got=cursor,
        ) from error


def _checked(value: Any) -> Any:
    """Return a value that both databases accept."""
    is_too_large = isinstance(value, int) and abs(value) > _LARGEST_INTEGER
    if is_too_large or (isinstance(value, str) and not value.isprintable()):
        raise ValueError(value)
    return value
