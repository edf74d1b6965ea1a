from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, Request, Response
from sqlalchemy import func, select, update
from structlog.testing import capture_logs

from gateway.accounts import claims as claims_module
from gateway.accounts.claims import LARGEST_ANSWER, LOCK_SECONDS, Claim, Claims
from gateway.accounts.principal import Scope
from gateway.database.engine import Database, DatabaseUnavailableError
from gateway.database.tables import Account, IdempotencyKey
from gateway.middleware import idempotency as module
from gateway.problems import Problem
from gateway.settings import GatewaySettings
from tests.gateway_app import RunningApp, running_app

on_sqlite = pytest.mark.parametrize("gateway_settings", ["sqlite"], indirect=True)


@dataclass
class Echo:
    """Routes that count their executions."""

    executed: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    claim: Claim | None = None

    def router(self) -> APIRouter:
        router = APIRouter()
        router.add_api_route("/v1/echo", self.echo, methods=["POST", "GET"])
        router.add_api_route("/v1/deaf", self.deaf, methods=["POST"])
        router.add_api_route("/v1/broken", self.broken, methods=["POST"])
        router.add_api_route("/v1/accounts-of", self.create, methods=["POST"])
        return router

    async def echo(self, request: Request, status: int = 201, size: int = 0, *, waits: bool = False) -> Response:
        """Answer with the number of the execution and the body, filled up to a size."""
        self.executed += 1
        body = await request.body()
        if waits:
            await self.gate.wait()
        content = f"{self.executed} ".encode() + body
        headers = {"location": "/v1/echo/1", "content-type": "text/plain"}
        return Response(content.ljust(size, b"."), status, headers)

    async def deaf(self, status: int = 201) -> Response:
        """Answer without reading the body."""
        self.executed += 1
        return Response(str(self.executed), status)

    async def broken(self) -> Response:
        self.executed += 1
        raise RuntimeError

    async def create(self, request: Request, name: str) -> Response:
        """Create an account, and store the answer in the same transaction."""
        self.executed += 1
        await request.body()
        claim: Claim = request.scope["state"]["claim"]
        self.claim = claim
        await self.gate.wait()
        database: Database = request.app.state.services.database
        async with database.writing() as connection:
            values = {"id": f"acct_{self.executed}", "name": name, "tier": "standard", "created_at": 0.0}
            await connection.execute(Account.__table__.insert().values(values))
            await claim.store_within(connection, 201, {"content-type": "text/plain"}, b"created")
        return Response("created", 201, media_type="text/plain")


async def post(
    gateway: RunningApp | httpx.AsyncClient, path: str, key: str = "once", body: Any = b"body"
) -> httpx.Response:
    client = gateway if isinstance(gateway, httpx.AsyncClient) else gateway.client
    return await client.post(path, content=body, headers={"Idempotency-Key": key})


def is_replayed(answer: httpx.Response) -> bool:
    return answer.headers.get("idempotent-replayed") == "true"


def test_a_repetition_gets_the_stored_answer_and_is_not_executed(gateway_settings: GatewaySettings) -> None:
    async def main() -> None:
        echo = Echo()
        async with running_app(gateway_settings, routes=echo.router()) as gateway:
            first, second = await post(gateway, "/v1/echo"), await post(gateway, "/v1/echo")
            assert (first.status_code, first.text, is_replayed(first)) == (201, "1 body", False)
            assert (second.status_code, second.text, is_replayed(second)) == (201, "1 body", True)
            for name in ("content-type", "location", "content-length"):
                assert first.headers[name] == second.headers[name]
            assert first.headers["x-request-id"] != second.headers["x-request-id"]
            assert "ratelimit" in second.headers
            assert (await post(gateway, "/v1/echo", "twice")).text == "2 body"
            assert (await gateway.client.post("/v1/echo")).text == "3 "

    asyncio.run(main())


def test_another_body_path_or_query_is_refused_and_another_account_is_not(gateway_settings: GatewaySettings) -> None:
    async def main() -> None:
        echo = Echo()
        async with running_app(gateway_settings, routes=echo.router()) as gateway:
            await post(gateway, "/v1/echo")
            for path, body in (
                ("/v1/echo", b"bodY"),
                ("/v1/echo", b""),
                ("/v1/deaf", b"body"),
                ("/v1/echo?size=9", b"body"),
            ):
                answer = await post(gateway, path, body=body)
                assert (answer.status_code, answer.json()["code"]) == (422, "idempotency-mismatch"), (path, body)
            assert echo.executed == 1
            async with await gateway.client_of("score") as other:
                assert (await post(other, "/v1/echo")).text == "2 body"

    asyncio.run(main())


def test_a_stored_answer_is_not_sent_to_a_key_with_other_scopes(gateway_settings: GatewaySettings) -> None:
    async def main() -> None:
        echo = Echo()
        async with running_app(gateway_settings, routes=echo.router()) as gateway:
            await post(gateway, "/v1/echo")
            async with await gateway.client_of(Scope.READ, account_id=gateway.account_id) as reader:
                assert (await post(reader, "/v1/echo")).json()["code"] == "idempotency-mismatch"
            async with await gateway.client_of(*Scope, account_id=gateway.account_id) as equal:
                assert is_replayed(await post(equal, "/v1/echo"))

    asyncio.run(main())


def test_of_fifty_requests_at_once_one_is_executed(gateway_settings: GatewaySettings) -> None:
    async def main() -> None:
        echo = Echo()
        async with running_app(gateway_settings, routes=echo.router()) as gateway:
            requests = [asyncio.create_task(post(gateway, "/v1/echo?waits=1")) for _ in range(50)]
            async with asyncio.timeout(60):
                while sum(request.done() for request in requests) < 49:
                    await asyncio.sleep(0.01)
            refused = [request.result() for request in requests if request.done()]
            assert {(answer.status_code, answer.json()["code"]) for answer in refused} == {(409, "request-in-flight")}
            assert {answer.headers["retry-after"] for answer in refused} == {"1"}
            echo.gate.set()
            answers = [await request for request in requests]
            assert [answer.text for answer in answers if answer.status_code == 201] == ["1 body"]
            assert is_replayed(await post(gateway, "/v1/echo?waits=1"))
            assert echo.executed == 1

    asyncio.run(main())


@on_sqlite
def test_answers_of_refused_and_failed_requests_are_not_stored_and_others_are(
    gateway_settings: GatewaySettings,
) -> None:
    async def main() -> None:
        echo = Echo()
        async with running_app(gateway_settings, routes=echo.router()) as gateway:
            for status, stored in (
                (200, True),
                (404, True),
                (422, True),
                (401, False),
                (403, False),
                (429, False),
                (500, False),
                (503, False),
            ):
                answers = [await post(gateway, f"/v1/echo?status={status}", f"key {status}") for _ in range(2)]
                assert [answer.status_code for answer in answers] == [status, status]
                assert [is_replayed(answer) for answer in answers] == [False, stored], status
            before = echo.executed
            with capture_logs() as logged:
                for _ in range(2):
                    assert (await post(gateway, "/v1/broken", "broken")).json()["code"] == "internal"
            assert [line["event"] for line in logged if line["log_level"] == "error"] == 2 * ["request failed"]
            assert echo.executed == before + 2

    asyncio.run(main())


@on_sqlite
def test_a_body_that_the_route_does_not_read_counts_too(gateway_settings: GatewaySettings) -> None:
    async def main() -> None:
        echo = Echo()
        async with running_app(gateway_settings, routes=echo.router()) as gateway:
            assert (await post(gateway, "/v1/deaf")).text == "1"
            assert (await post(gateway, "/v1/deaf", body=b"other")).status_code == 422
            assert is_replayed(await post(gateway, "/v1/deaf"))
            # A refusal before the end of the body changed nothing and is not stored.
            for _ in range(2):
                assert not is_replayed(await post(gateway, "/v1/deaf?status=413", "large"))

    asyncio.run(main())


@on_sqlite
def test_an_answer_over_the_bound_is_sent_but_not_stored_and_says_so(gateway_settings: GatewaySettings) -> None:
    async def main() -> None:
        echo = Echo()
        async with running_app(gateway_settings, routes=echo.router()) as gateway:
            for size, stored in ((LARGEST_ANSWER, True), (LARGEST_ANSWER + 1, False)):
                path = f"/v1/echo?size={size}"
                answers = [await post(gateway, path, str(size)) for _ in range(2)]
                assert [len(answer.content) for answer in answers] == [size, size]
                assert [is_replayed(answer) for answer in answers] == [False, stored]
                assert answers[0].headers.get("idempotency-stored") == (None if stored else "false")

    asyncio.run(main())


@on_sqlite
def test_an_invalid_key_is_refused_before_the_work_and_a_get_request_ignores_it(
    gateway_settings: GatewaySettings,
) -> None:
    async def main() -> None:
        echo = Echo()
        async with running_app(gateway_settings, routes=echo.router()) as gateway:
            for key in ("", "x" * 256, "a\tb", "\xe9"):
                headers = [(b"idempotency-key", key.encode("latin-1"))]
                answer = await gateway.client.post("/v1/echo", headers=headers)
                assert (answer.status_code, answer.json()["where"]) == (400, "Idempotency-Key"), key
            twice = await gateway.client.post("/v1/echo", headers=[("idempotency-key", "a"), ("idempotency-key", "b")])
            assert (twice.status_code, twice.json()["got"]) == (400, "2 headers")
            assert echo.executed == 0
            assert (await post(gateway, "/v1/echo", "~" * 255)).status_code == 201
            for number in (2, 3):
                answer = await gateway.client.get("/v1/echo", headers={"Idempotency-Key": "get"})
                assert answer.text == f"{number} "

    asyncio.run(main())


def test_the_key_of_a_crashed_process_is_free_when_its_lock_expires(gateway_settings: GatewaySettings) -> None:
    async def main() -> None:
        echo = Echo()
        async with running_app(gateway_settings, routes=echo.router()) as gateway:
            crashed = await gateway.services.claims.claim(gateway.account_id, "once")
            assert (await post(gateway, "/v1/echo")).status_code == 409
            async with gateway.services.database.writing() as connection:
                await connection.execute(update(IdempotencyKey).values(locked_until=time.time() - 1))
            assert (await post(gateway, "/v1/echo")).text == "1 body"
            # The crashed owner was only slow: what it does now has no effect.
            assert isinstance(crashed, Claim)
            await crashed.renew()
            await crashed.store(200, {}, b"late")
            await crashed.release()
            repeated = await post(gateway, "/v1/echo")
            assert (repeated.text, is_replayed(repeated)) == ("1 body", True)

    asyncio.run(main())


@on_sqlite
def test_the_lock_of_a_long_request_is_renewed(
    gateway_settings: GatewaySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(now=time.time())
    monkeypatch.setattr(claims_module, "time", SimpleNamespace(time=lambda: clock.now))
    monkeypatch.setattr(module, "RENEWAL_SECONDS", 0.05)

    async def is_locked(database: Database) -> bool:
        async with database.reading() as connection:
            until = await connection.scalar(select(IdempotencyKey.locked_until))
        return until is not None and until > clock.now + LOCK_SECONDS - 1

    async def main() -> None:
        echo = Echo()
        async with running_app(gateway_settings, routes=echo.router()) as gateway:
            first = asyncio.create_task(post(gateway, "/v1/echo?waits=1"))
            async with asyncio.timeout(60):
                for _ in range(4):  # three locks would have expired
                    while not echo.executed or not await is_locked(gateway.services.database):
                        await asyncio.sleep(0.01)
                    assert (await post(gateway, "/v1/echo?waits=1")).status_code == 409
                    clock.now += LOCK_SECONDS - 1
            echo.gate.set()
            assert (await first).text == "1 body"
            assert echo.executed == 1

    asyncio.run(main())


@on_sqlite
def test_a_key_is_forgotten_after_a_day(gateway_settings: GatewaySettings) -> None:
    async def main() -> None:
        echo = Echo()
        async with running_app(gateway_settings, routes=echo.router()) as gateway:
            await post(gateway, "/v1/echo")
            database = gateway.services.database
            async with database.reading() as connection:
                expires_at = await connection.scalar(select(IdempotencyKey.expires_at))
            assert expires_at == pytest.approx(time.time() + 86_400, abs=60)
            async with database.writing() as connection:
                await connection.execute(update(IdempotencyKey).values(expires_at=time.time() - 1))
            assert (await post(gateway, "/v1/echo", body=b"other")).text == "2 other"
            async with database.writing() as connection:
                await connection.execute(update(IdempotencyKey).values(expires_at=time.time() - 1))
            async with Claims(database).open(), asyncio.timeout(60):
                while await count_of(database) > 0:
                    await asyncio.sleep(0.01)

    asyncio.run(main())


async def count_of(database: Database) -> int:
    async with database.reading() as connection:
        return await connection.scalar(select(func.count()).select_from(IdempotencyKey)) or 0


@on_sqlite
def test_a_request_with_a_key_needs_the_database_before_its_work_and_not_after(
    gateway_settings: GatewaySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise DatabaseUnavailableError

    async def main() -> None:
        echo = Echo()
        async with running_app(gateway_settings, routes=echo.router()) as gateway:
            with monkeypatch.context() as patch:
                patch.setattr(Claims, "claim", away)
                answer = await post(gateway, "/v1/echo")
            assert (answer.status_code, answer.json()["code"], echo.executed) == (503, "database-unavailable", 0)
            assert (await gateway.client.post("/v1/echo")).status_code == 201
            with monkeypatch.context() as patch:
                patch.setattr(Claim, "store", away)
                assert (await post(gateway, "/v1/echo")).text == "2 body"
            assert (await post(gateway, "/v1/echo")).status_code == 409  # until the lock expires

    asyncio.run(main())


@on_sqlite
def test_a_cancelled_request_gives_its_key_back(gateway_settings: GatewaySettings) -> None:
    async def main() -> None:
        echo = Echo()
        async with running_app(gateway_settings, routes=echo.router()) as gateway:
            first = asyncio.create_task(post(gateway, "/v1/echo?waits=1"))
            while not echo.executed:
                await asyncio.sleep(0.01)
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            echo.gate.set()
            assert (await post(gateway, "/v1/echo?waits=1")).text == "2 body"

    asyncio.run(main())


def test_a_route_can_store_its_answer_together_with_its_effect(gateway_settings: GatewaySettings) -> None:
    async def main() -> None:
        echo = Echo()
        echo.gate.set()
        async with running_app(gateway_settings, routes=echo.router()) as gateway:
            first, second = [await post(gateway, "/v1/accounts-of?name=one") for _ in range(2)]
            assert (first.text, second.text, is_replayed(second), echo.executed) == ("created", "created", True, 1)

    asyncio.run(main())


def test_a_route_whose_key_was_taken_over_has_no_effect(gateway_settings: GatewaySettings) -> None:
    async def main() -> None:
        echo = Echo()
        async with running_app(gateway_settings, routes=echo.router()) as gateway:
            first = asyncio.create_task(post(gateway, "/v1/accounts-of?name=one"))
            async with asyncio.timeout(60):
                while echo.claim is None:
                    await asyncio.sleep(0.01)
            async with gateway.services.database.writing() as connection:
                await connection.execute(update(IdempotencyKey).values(locked_until=time.time() - 1))
            taken = await gateway.services.claims.claim(gateway.account_id, "once")
            assert isinstance(taken, Claim)
            echo.gate.set()
            assert (await first).json()["code"] == "request-in-flight"
            with pytest.raises(Problem):
                await gateway.services.directory.account("one")

    asyncio.run(main())


@on_sqlite
def test_a_body_is_passed_on_while_it_arrives(gateway_settings: GatewaySettings) -> None:
    async def main() -> None:
        echo = Echo()
        seen: list[bytes] = []
        router = echo.router()

        async def stream(request: Request) -> Response:
            async for part in request.stream():
                seen.append(part)  # noqa: PERF401  # the test looks at it after each part
            return Response(str(len(seen)))

        router.add_api_route("/v1/stream", stream, methods=["POST"])

        async def parts() -> Any:
            for number in range(5):
                assert len(seen) == number  # the route has read all earlier parts
                yield b"part"

        async with running_app(gateway_settings, routes=router) as gateway:
            assert (await post(gateway, "/v1/stream", body=parts())).text == "6"  # the last part is empty
            repeated = await post(gateway, "/v1/stream", body=5 * b"part")
            assert (repeated.text, is_replayed(repeated)) == ("6", True)

    asyncio.run(main())
