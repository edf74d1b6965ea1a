"""Accounts, limits and idempotency of two gateway processes over PostgreSQL and Redis."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import httpx
import pytest

from gateway.accounts.directory import Directory
from gateway.accounts.principal import Scope
from gateway.database.engine import Database
from gateway.database.migrate import migrate
from gateway.settings import GatewaySettings
from tests.gateway_servers import (
    GatewayProcess,
    Server,
    listens,
    new_postgresql_database,
    running_gateway,
    running_postgresql,
    running_redis,
    wait_until,
)

TIERS = """
[tiers.standard]
requests_per_second = 0.01
burst = 40

[tiers.premium]
requests_per_second = 100000
burst = 100000
"""


@dataclass
class Pair:
    """Two gateway processes with one database and one Redis, which a test may stop and start again."""

    postgresql: Server
    redis: Server
    first: GatewayProcess
    second: GatewayProcess
    settings: GatewaySettings
    admin: str
    """Key with all scopes of an account of the tier premium."""

    def new_key(self, name: str, tier: str) -> str:
        return new_key(self.settings, name, tier)[1]


def new_key(settings: GatewaySettings, name: str, tier: str) -> tuple[str, str]:
    """Account and key of a new account."""

    async def create() -> tuple[str, str]:
        database = Database(settings)
        try:
            directory = Directory(database, settings)
            account_id = await directory.create_account(name, tier)
            return account_id, (await directory.create_key(account_id, name="test", scopes=Scope))[1]
        finally:
            await database.close()

    return asyncio.run(create())


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("pair")
    config = folder / "gateway.toml"
    config.write_text(TIERS)
    with ExitStack() as stack:
        postgresql = stack.enter_context(running_postgresql(folder))
        redis = stack.enter_context(running_redis(folder))
        database_url = new_postgresql_database(postgresql)
        settings = GatewaySettings(data=folder, database_url=database_url)
        migrate(settings)
        _, admin = new_key(settings, "operator", "premium")
        gateways = []
        for name in ("a", "b"):
            (folder / name).mkdir()
            given = {"config": config, "database_url": database_url, "redis_url": f"redis://127.0.0.1:{redis.port}/0"}
            gateways.append(stack.enter_context(running_gateway(folder / name, **given)))
        yield Pair(postgresql, redis, *gateways, settings, admin)


def headers(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def metric(gateway: GatewayProcess, name: str) -> float:
    with urllib.request.urlopen(gateway.metrics_url, timeout=60) as answer:
        found = re.search(rf"^{re.escape(name)} (\S+)$", answer.read().decode(), re.MULTILINE)
    return float(found[1]) if found else 0.0


async def statuses_of_both(pair: Pair, key: str, count: int) -> list[int]:
    async with httpx.AsyncClient(headers=headers(key), timeout=30) as client:
        urls = [f"{gateway.url}/v1/keys" for gateway in (pair.first, pair.second)]
        answers = await asyncio.gather(*(client.get(urls[number % 2]) for number in range(count)))
    return [answer.status_code for answer in answers]


def test_a_burst_over_two_processes_passes_exactly_the_allowed_requests(pair: Pair) -> None:
    key = pair.new_key("burst", "standard")
    statuses = asyncio.run(statuses_of_both(pair, key, 200))
    assert (statuses.count(200), statuses.count(429)) == (40, 160)
    assert asyncio.run(statuses_of_both(pair, key, 10)) == 10 * [429]
    for gateway in (pair.first, pair.second):
        assert metric(gateway, "reentry_gateway_redis_up") == 1
        assert metric(gateway, 'reentry_gateway_limited_total{kind="requests"}') >= 60


def test_a_revoked_key_is_refused_by_every_process_within_about_a_second(pair: Pair) -> None:
    with httpx.Client(headers=headers(pair.admin), timeout=30) as client:
        created = client.post(f"{pair.first.url}/v1/keys", json={"name": "short", "scopes": ["admin"]}).json()
        mine = headers(created["key"])
        for gateway in (pair.first, pair.second):
            assert client.get(f"{gateway.url}/v1/keys", headers=mine).status_code == 200
        assert client.delete(f"{pair.first.url}/v1/keys/{created['id']}").status_code == 200
        assert client.get(f"{pair.first.url}/v1/keys", headers=mine).status_code == 401
        wait_until(
            lambda: client.get(f"{pair.second.url}/v1/keys", headers=mine).status_code == 401,
            seconds=30,
            what="the refusal by the other process",
        )


def test_of_fifty_posts_of_one_idempotency_key_over_two_processes_one_is_executed(pair: Pair) -> None:
    async def main() -> list[httpx.Response]:
        async with httpx.AsyncClient(headers=headers(pair.admin) | {"Idempotency-Key": "fifty"}, timeout=30) as client:
            urls = [f"{gateway.url}/v1/accounts" for gateway in (pair.first, pair.second)]
            posts = (client.post(urls[number % 2], json={"name": "one of fifty"}) for number in range(50))
            answers = await asyncio.gather(*posts)
            return [*answers, await client.post(urls[0], json={"name": "one of fifty"})]

    answers = asyncio.run(main())
    executed = [each for each in answers if each.status_code == 201 and "idempotent-replayed" not in each.headers]
    assert len(executed) == 1
    for answer in answers:
        if answer.status_code == 201:
            assert answer.content == executed[0].content
        else:
            assert (answer.status_code, answer.json()["code"]) == (409, "request-in-flight")
    assert (answers[-1].status_code, answers[-1].headers["idempotent-replayed"]) == (201, "true")
    with httpx.Client(headers=headers(pair.admin), timeout=30) as client:
        accounts = client.get(f"{pair.second.url}/v1/accounts?limit=1000").json()["accounts"]
    assert [account["name"] for account in accounts].count("one of fifty") == 1


def test_every_route_except_the_open_ones_refuses_without_a_key(pair: Pair) -> None:
    with httpx.Client(base_url=pair.first.url, timeout=30) as client:
        paths = client.get("/openapi.json").json()["paths"]
        calls = [(method, path) for path, methods in paths.items() for method in methods]
        protected = [
            (method, re.sub(r"\{[^}]*\}", "1", path)) for method, path in calls if path.startswith(("/v1", "/v2"))
        ]
        assert ("post", "/v1/keys") in protected
        for method, path in protected:
            answer = client.request(method, path)
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized"), (method, path)
            assert answer.headers["content-type"] == "application/problem+json"
        open_paths = {path for _, path in calls if not path.startswith(("/v1", "/v2"))}
        assert {"/health/live", "/health/ready"} <= open_paths
        assert all(path.startswith(("/health/", "/docs", "/openapi", "/assets")) or path == "/" for path in open_paths)


class Load(threading.Thread):
    """Requests of one account to both processes, one after another, until it is stopped."""

    def __init__(self, pair_urls: list[str], key: str) -> None:
        super().__init__()
        self._urls = pair_urls
        self._key = key
        self._stop_now = threading.Event()
        self.statuses: list[int] = []

    def run(self) -> None:
        """Send requests."""
        with httpx.Client(headers=headers(self._key), timeout=30) as client:
            while not self._stop_now.is_set():
                for url in self._urls:
                    self.statuses.append(client.get(f"{url}/v1/keys").status_code)

    def stop(self) -> None:
        """End the requests."""
        self._stop_now.set()
        self.join()


def test_requests_continue_while_redis_is_away_and_the_limits_are_shared_again_afterwards(pair: Pair) -> None:
    def redis_is(up: int) -> bool:
        return all(metric(gateway, "reentry_gateway_redis_up") == up for gateway in (pair.first, pair.second))

    before, away, after = (pair.new_key(name, "standard") for name in ("before", "away", "after"))
    load = Load([pair.first.url, pair.second.url], pair.admin)
    load.start()
    try:
        wait_until(lambda: len(load.statuses) > 50, what="the load")
        assert asyncio.run(statuses_of_both(pair, before, 200)).count(200) == 40

        pair.redis.stop(signal.SIGKILL)
        wait_until(lambda: redis_is(0), what="both processes noticing")
        assert asyncio.run(statuses_of_both(pair, away, 200)).count(200) == 2 * 40
        count = len(load.statuses)
        wait_until(lambda: len(load.statuses) > count + 50, what="the load going on")

        pair.redis.start()
        wait_until(lambda: redis_is(1), what="the return of Redis")
        assert asyncio.run(statuses_of_both(pair, after, 200)).count(200) == 40
    finally:
        load.stop()
    assert set(load.statuses) == {200}


def test_known_keys_are_accepted_and_nothing_else_while_the_database_is_away(pair: Pair) -> None:
    unknown = pair.new_key("unknown", "premium")
    with httpx.Client(base_url=pair.first.url, headers=headers(pair.admin), timeout=30) as client:
        assert client.get("/v1/keys").status_code == 200
        pair.postgresql.stop(signal.SIGINT)
        wait_until(lambda: not listens(pair.postgresql.port), what="the end of PostgreSQL")
        # The key is accepted: only the route needs the database.
        answer = client.get("/v1/none")
        assert (answer.status_code, "ratelimit" in answer.headers) == (404, True)
        answer = client.get("/v1/none", headers=headers(unknown))
        assert (answer.status_code, answer.json()["code"]) == (503, "database-unavailable")
        assert answer.headers["retry-after"]
        answer = client.post("/v1/none", headers={"Idempotency-Key": "away"})
        assert (answer.status_code, answer.json()["code"]) == (503, "database-unavailable")
        pair.postgresql.start()
        wait_until(
            lambda: client.get("/v1/keys", headers=headers(unknown)).status_code == 200,
            what="the return of the database",
        )


def flood(connection: socket.socket) -> None:
    """Send 64 MiB."""
    for _ in range(1_000):
        connection.sendall(2**16 * b"a")


@pytest.mark.parametrize(
    "beginning",
    [
        b"GET /v1/keys HTTP/1.1\r\nhost: x\r\nx-long: ",
        b"GET /",
        b"POST /v1/keys HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx-long: ",
    ],
    ids=["header", "path", "trailer"],
)
def test_an_endless_head_or_trailer_ends_the_connection(pair: Pair, beginning: bytes) -> None:
    with socket.create_connection(("127.0.0.1", pair.first.port), timeout=30) as connection:
        connection.sendall(beginning)
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            flood(connection)
    assert httpx.get(f"{pair.first.url}/health/live", timeout=60).status_code == 200
