"""Erasure of tracks from the gateway by the statements of docs/compliance.md."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, select, text

from gateway.database.engine import Database
from gateway.database.tables import DriftBaseline, Event, IdempotencyKey, LoggedTrack, Outcome, Table
from gateway.settings import GatewaySettings

PAGE = Path(__file__).parents[4] / "docs" / "compliance.md"
KEPT, ERASED = 16, 17


def row(track_id: int) -> dict[str, Any]:
    texts = {"id": f"trk_{track_id}", "account_id": "a", "key_id": "k", "request_id": "r", "model": "reentry"}
    times = dict.fromkeys(("at", "first_timestamp", "last_timestamp", "seconds"), 1.0)
    other = {"track_id": track_id, "steps": 2, "peak_altitude": 3.0, "largest_probability": 0.5, "quantities": {}}
    return texts | times | other


def test_the_statements_of_the_page_delete_every_row_about_the_tracks(gateway_settings: GatewaySettings) -> None:
    (block,) = re.findall(r"```sql\n(.*?)```", PAGE.read_text(), re.DOTALL)
    statements = [each.strip() for each in block.split(";") if each.strip()]

    async def work() -> tuple[list[list[int]], list[int]]:
        database = Database(gateway_settings)
        async with database.writing() as connection:
            for track_id in (KEPT, ERASED):
                event = {"account_id": "a", "kind": "alert", "identity": str(track_id), "at": 1.0}
                outcome = {"id": str(track_id), "account_id": "a", "track_id": track_id, "received_at": 1.0}
                key = {"account_id": "a", "key": str(track_id), "fingerprint": b"", "owner": "", "body": b"17"}
                await connection.execute(insert(LoggedTrack).values(row(track_id)))
                await connection.execute(insert(Event).values(event | {"content": {"track_id": track_id}}))
                await connection.execute(insert(Outcome).values(outcome))
                await connection.execute(insert(IdempotencyKey).values(key | {"locked_until": 1.0, "expires_at": 1.0}))
            baseline = {"account_id": "a", "answers": 2, "last_id": "x", "rows": b"17"}
            await connection.execute(insert(DriftBaseline).values(baseline))
        async with database.writing() as connection:
            for statement in statements:
                await connection.execute(text(statement))
        async with database.reading() as connection:
            columns = (LoggedTrack.track_id, Outcome.track_id, Event.identity)
            left = [[int(each) for each in (await connection.execute(select(column))).scalars()] for column in columns]
            tables = (DriftBaseline.account_id, IdempotencyKey.key)
            emptied = [len((await connection.execute(select(column))).all()) for column in tables]
        await database.close()
        return left, emptied

    left, emptied = asyncio.run(work())
    assert left == [[KEPT], [KEPT], [KEPT]]
    assert emptied == [0, 0]


@pytest.mark.parametrize("word", ["sensor", "operator", "latitude", "longitude"])
def test_no_table_of_the_gateway_has_a_column_of_a_sensor_an_operator_or_a_position(word: str) -> None:
    columns = {column.name for table in Table.metadata.tables.values() for column in table.columns}
    assert not [name for name in columns if word in name]


def test_the_page_names_every_table_with_a_column_of_tracks() -> None:
    named = set(re.findall(r"DELETE FROM (\w+)", PAGE.read_text()))
    assert {name for name, table in Table.metadata.tables.items() if "track_id" in table.columns} <= named
