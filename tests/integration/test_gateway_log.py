"""The inference log of real gateway processes: every answer is logged once, whatever is stopped or killed.

There is no Triton server here: the tier of the account allows answers of the altitude-fraction rule.
"""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.database.engine import Database
from gateway.database.migrate import migrate
from gateway.settings import GatewaySettings
from tests.gateway_servers import (
    GatewayProcess,
    new_postgresql_database,
    running_gateway,
    running_postgresql,
    wait_until,
)
from tests.integration.test_gateway_events import key_in
from tests.unit.gateway.inference_log.rows import read

AWAY = 3.0
"""Time for which the database is stopped, s."""


def track_of(track_id: int, intensity: float, steps: int = 30) -> dict[str, Any]:
    """A track that comes down."""
    return {
        "track_id": track_id,
        "timestamp": [1_000.0 + step for step in range(steps)],
        "latitude": [40.0] * steps,
        "longitude": [120.0 + 0.01 * step for step in range(steps)],
        "altitude": [100_000.0 - 3_000.0 * step for step in range(steps)],
        "radiometric_intensity": [intensity] * steps,
        "sensor_id": 1,
    }


class Load:
    """Clients that send requests of two tracks all the time, and note which were answered."""

    def __init__(self, gateway: GatewayProcess, key: str, clients: int = 2) -> None:
        self.answered: list[str] = []
        """Ids of the requests with an answer."""
        self.statuses: set[int] = set()
        self._gateway, self._key = gateway, key
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._send, args=(number,)) for number in range(clients)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the load."""
        self._is_over.set()
        for thread in self._threads:
            thread.join(180)

    def wait_for(self, count: int) -> None:
        """Wait for a number of further answers."""
        goal = len(self.answered) + count
        wait_until(lambda: len(self.answered) >= goal, seconds=180, what=f"{count} more answers")

    def _send(self, client_number: int) -> None:
        number = 0
        with httpx.Client(base_url=self._gateway.url, headers={"X-API-Key": self._key}, timeout=120) as client:
            while not self._is_over.wait(0.005):  # the gateway needs the processors, too
                number += 1
                request_id = f"load-{client_number}-{time.monotonic_ns()}"
                # No answer comes from the cache.
                body = {"tracks": [track_of(1, float(number)), track_of(2, float(number))]}
                try:
                    answer = client.post("/v1/tracks:score", json=body, headers={"X-Request-Id": request_id})
                except httpx.HTTPError:
                    time.sleep(0.02)
                    continue
                self.statuses.add(answer.status_code)
                if answer.status_code == 200:
                    self.answered.append(request_id)


def logged(settings: GatewaySettings) -> tuple[dict[str, int], list[tuple[Any, ...]]]:
    """Number of logged tracks by request, and the sums of the usage."""

    async def run() -> tuple[dict[str, int], list[tuple[Any, ...]]]:
        database = Database(settings)
        try:
            rows = await read(database, "SELECT request_id, count(*) FROM inference_log GROUP BY request_id")
            sums = await read(database, "SELECT sum(requests), sum(tracks), sum(degraded) FROM usage")
        finally:
            await database.close()
        return {str(name): int(count) for name, count in rows}, sums

    return asyncio.run(run())


def assert_every_answer_is_logged_once(settings: GatewaySettings, load: Load, lost: int) -> None:
    """Every answer has its two rows. At most `lost` requests were logged and killed before their answer."""
    requests, sums = logged(settings)
    assert set(load.answered) <= set(requests)
    assert set(requests.values()) == {2}
    assert len(requests) - len(load.answered) <= lost
    assert sums == [(len(requests), 2 * len(requests), 2 * len(requests))]


def spool_is_empty(folder: Path) -> bool:
    return not list((folder / "gateway" / "spool").glob("*/*.part"))


def test_postgresql_is_stopped_under_load_and_every_answer_is_logged_once(tmp_path: Path) -> None:
    with running_postgresql(tmp_path) as database:
        migrate(settings := GatewaySettings(database_url=new_postgresql_database(database)))
        key = key_in(settings)
        with running_gateway(tmp_path, database_url=settings.database_url, triton_url="grpc://127.0.0.1:1") as gateway:
            load = Load(gateway, key)
            try:
                load.wait_for(50)
                database.stop(signal.SIGQUIT)
                stopped = time.monotonic()
                load.wait_for(50)  # the key is known
                time.sleep(max(0.0, stopped + AWAY - time.monotonic()))
                database.start()
                load.wait_for(50)
            finally:
                load.stop()
            wait_until(lambda: spool_is_empty(tmp_path), what="an empty spool")
        assert load.statuses == {200}
        assert_every_answer_is_logged_once(settings, load, lost=0)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_the_gateway_is_killed_under_load_and_every_answer_is_logged_once(
    tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    settings = GatewaySettings(data=tmp_path / "gateway")
    key = ""
    if kind == "postgresql":
        url = new_postgresql_database(request.getfixturevalue("postgresql"))
        migrate(settings := GatewaySettings(database_url=url))
        key = key_in(settings)
    with running_gateway(tmp_path, database_url=settings.database_url, triton_url="grpc://127.0.0.1:1") as gateway:
        load = Load(gateway, key or gateway.key)
        try:
            for answers in (40, 57):
                load.wait_for(answers)
                gateway.stop(signal.SIGKILL)
                gateway.start()
            load.wait_for(20)
        finally:
            load.stop()
        wait_until(lambda: spool_is_empty(tmp_path), what="an empty spool")
    assert_every_answer_is_logged_once(settings, load, lost=4)  # two clients, two kills
