"""A process that answers requests: it logs rows and then prints their ids, as a gateway sends answers.

Arguments: folder of the data, address of the database or "", number of its first track.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from gateway.database.engine import Database
from gateway.inference_log.log import InferenceLog
from gateway.settings import GatewaySettings
from tests.unit.gateway.inference_log.rows import row_of


async def main() -> None:
    """Answer until the process is killed."""
    settings = GatewaySettings(data=Path(sys.argv[1]), database_url=sys.argv[2])
    log = InferenceLog(Database(settings), settings)
    log.open()
    number = int(sys.argv[3])
    while True:
        rows = [row_of(number + each) for each in range(3)]
        number += 3
        log.record(rows)
        sys.stdout.write("".join(f"{row['id']}\n" for row in rows))
        sys.stdout.flush()
        await asyncio.sleep(0.001)


asyncio.run(main())
