"""The routes of jobs without a worker: creation, isolation of accounts, refusals, cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest
from fastapi import FastAPI

from gateway.accounts.principal import Scope
from gateway.app import create_app
from gateway.database.engine import Database, DatabaseUnavailableError
from gateway.services import Services
from gateway.settings import GatewaySettings, Tier
from tests.unit.gateway.jobs.conftest import ROWS

CSV = {"content-type": "text/csv"}


@dataclass
class Site:
    """The application in this process, with clients of two accounts."""

    app: FastAPI
    services: Services
    east: httpx.AsyncClient
    west: httpx.AsyncClient
    scorer: httpx.AsyncClient
    """Client of the first account whose key has no scope for jobs."""

    @property
    def stored(self) -> list[str]:
        """Ids of the jobs with files."""
        return self.services.jobs.files.job_ids()


@asynccontextmanager
async def open_site(settings: GatewaySettings) -> AsyncIterator[Site]:
    app = create_app(replace(settings, workers_inside=0))
    services: Services = app.state.services
    async with services.open():
        clients = []
        for name, scopes in (("east", Scope), ("west", Scope)):
            account_id = await services.directory.create_account(name)
            _, key = await services.directory.create_key(account_id, name="key", scopes=scopes)
            clients.append(client(app, key))
            if name == "east":
                _, key = await services.directory.create_key(account_id, name="key", scopes=[Scope.SCORE])
                scorer = client(app, key)
        async with clients[0], clients[1], scorer:
            yield Site(app, services, clients[0], clients[1], scorer)


def client(app: FastAPI, key: str) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app)
    return httpx.AsyncClient(transport=transport, base_url="http://gateway", headers={"x-api-key": key})


@pytest.fixture
def with_site(gateway_settings: GatewaySettings) -> Callable[..., None]:
    """Run a coroutine function with an open site, once for SQLite and once for PostgreSQL."""

    def run(work: Callable[[Site], Awaitable[None]], **settings: Any) -> None:
        async def main() -> None:
            async with open_site(replace(gateway_settings, **settings)) as site:
                await work(site)

        asyncio.run(main())

    return run


@pytest.fixture
def with_embedded_site(embedded_settings: GatewaySettings) -> Callable[..., None]:
    """The same for SQLite alone, for what no database takes part in."""

    def run(work: Callable[[Site], Awaitable[None]], **given: Any) -> None:
        async def main() -> None:
            async with open_site(replace(embedded_settings, **given)) as site:
                await work(site)

        asyncio.run(main())

    return run


async def create(account: httpx.AsyncClient, **headers: str) -> httpx.Response:
    return await account.post("/v1/jobs", content=ROWS, headers=CSV | headers)


def test_a_job_is_visible_to_its_own_account_only(with_site: Callable[..., None]) -> None:
    async def work(site: Site) -> None:
        answer = await create(site.east)
        assert answer.status_code == 202
        job = answer.json()
        path = answer.headers["location"]
        assert path == job["links"]["self"] == f"/v1/jobs/{job['id']}"
        assert (await site.east.get(path)).json() == job
        assert (await site.east.get(f"/api{path}")).json() == job
        for method, suffix in [
            *(("GET", each) for each in ("", "/results", "/errors", "/events")),
            ("DELETE", ""),
        ]:
            answer = await site.west.request(method, path + suffix)
            assert (answer.status_code, answer.json()["code"]) == (404, "not-found"), suffix
            answer = await site.scorer.request(method, path + suffix)
            assert (answer.status_code, answer.json()["code"]) == (403, "forbidden"), suffix
        assert (await site.west.get("/v1/jobs")).json() == {"jobs": [], "next": None}
        assert site.stored == [job["id"]]

    with_site(work)


@pytest.mark.parametrize("job_id", ["%00", "job_%00", "job_%F0%9F%9A%80", "j" * 65])
def test_an_id_that_no_job_can_have_is_refused(with_site: Callable[..., None], job_id: str) -> None:
    async def work(site: Site) -> None:
        for method, suffix in [*(("GET", each) for each in ("", "/results", "/errors", "/events")), ("DELETE", "")]:
            answer = await site.east.request(method, f"/v1/jobs/{job_id}{suffix}")
            assert (answer.status_code, answer.json()["code"]) == (422, "invalid-value"), answer.text

    with_site(work)


def test_jobs_are_listed_in_pages_from_the_newest_and_by_state(with_site: Callable[..., None]) -> None:
    async def work(site: Site) -> None:
        ids = [(await create(site.east)).json()["id"] for _ in range(5)]
        await site.east.delete(f"/v1/jobs/{ids[1]}")
        seen, cursor = [], None
        while True:
            query = {"limit": 2} | ({"cursor": cursor} if cursor else {})
            page = (await site.east.get("/v1/jobs", params=query)).json()
            seen += [job["id"] for job in page["jobs"]]
            if (cursor := page["next"]) is None:
                break
        assert seen == ids[::-1]
        page = (await site.east.get("/v1/jobs", params={"state": "cancelled"})).json()
        assert [job["id"] for job in page["jobs"]] == [ids[1]]
        assert (await site.east.get("/v1/jobs", params={"state": "unknown"})).status_code == 422

    with_site(work)


def test_a_waiting_job_is_cancelled_and_then_deleted(with_site: Callable[..., None]) -> None:
    async def work(site: Site) -> None:
        path = (await create(site.east)).headers["location"]
        for suffix in ("/results", "/errors"):
            answer = await site.east.get(path + suffix)
            assert (answer.status_code, answer.json()["got"]) == (409, "validating")
        answer = await site.east.delete(path)
        assert (answer.status_code, answer.json()["state"]) == (200, "cancelled")
        answer = await site.east.get(f"{path}/results")
        assert (answer.status_code, answer.json()["detail"]) == (409, "the job has no results")
        assert (await site.east.get(f"{path}/errors")).json() == {"error": None, "tracks": []}
        assert (await site.east.delete(path)).status_code == 204
        assert (await site.east.get(path)).status_code == 404
        assert site.stored == []

    with_site(work)


def test_the_events_of_a_job_end_when_the_key_is_revoked(with_embedded_site: Callable[..., None]) -> None:
    async def check(site: Site) -> None:
        job = (await create(site.east)).json()
        keys = (await site.east.get("/v1/keys")).json()["keys"]
        (account_id,) = {key["account_id"] for key in keys if key["account"] == "east"}
        new = {"name": "short", "scopes": ["jobs"], "account_id": account_id}
        created = (await site.east.post("/v1/keys", json=new)).json()
        async with client(site.app, created["key"]) as reader:
            reading = asyncio.create_task(reader.get(f"/v1/jobs/{job['id']}/events"))
            while not (created["id"] in site.services.readers._open or reading.done()):
                await asyncio.sleep(0.01)
            assert (await site.east.delete(f"/v1/keys/{created['id']}")).status_code == 200
            async with asyncio.timeout(60):
                answer = await reading
        assert answer.text.count("event: job") == 1
        assert (await site.east.get(f"/v1/jobs/{job['id']}")).json()["state"] == "validating"

    with_embedded_site(check)


def test_fifty_posts_with_one_idempotency_key_create_one_job(with_site: Callable[..., None]) -> None:
    async def work(site: Site) -> None:
        headers = {"idempotency-key": "night of 1 December"}
        answers = await asyncio.gather(*(create(site.east, **headers) for _ in range(50)))
        statuses = {answer.status_code for answer in answers}
        assert statuses <= {202, 409}
        ids = {answer.json()["id"] for answer in answers if answer.status_code == 202}
        again = await create(site.east, **headers)
        assert again.headers["idempotent-replayed"] == "true"
        assert {again.json()["id"]} | ids == ids
        assert again.headers["location"] == f"/v1/jobs/{again.json()['id']}"
        assert len((await site.east.get("/v1/jobs")).json()["jobs"]) == 1
        assert len(site.stored) == 1

    with_site(work)


def test_an_account_has_no_more_active_jobs_than_its_tier_allows(with_site: Callable[..., None]) -> None:
    async def work(site: Site) -> None:
        answers = await asyncio.gather(*(create(site.east) for _ in range(12)))
        assert sorted(answer.status_code for answer in answers) == [202] * 3 + [429] * 9
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert (refused.json()["code"], refused.json()["got"]) == ("rate-limited", "3 jobs")
        assert int(refused.headers["retry-after"]) == 10
        assert len(site.stored) == 3, "a refused upload leaves nothing"
        assert (await create(site.west)).status_code == 202
        path = next(answer.headers["location"] for answer in answers if answer.status_code == 202)
        assert (await site.east.delete(path)).json()["state"] == "cancelled"
        assert (await create(site.east)).status_code == 202
        assert (await create(site.east)).status_code == 429

    with_site(work, tiers={"standard": Tier(active_jobs=3)})


def test_a_deadline_is_part_of_the_job(with_embedded_site: Callable[..., None]) -> None:
    async def work(site: Site) -> None:
        answer = await site.east.post("/v1/jobs?deadline_seconds=60", content=ROWS, headers=CSV)
        job = answer.json()
        assert job["deadline_at"] - job["created_at"] == pytest.approx(60, abs=1)
        assert job["expires_at"] - job["deadline_at"] == pytest.approx(100, abs=1)
        for wrong in ("0", "nan", "1e9", "soon"):
            answer = await site.east.post(f"/v1/jobs?deadline_seconds={wrong}", content=ROWS, headers=CSV)
            assert answer.status_code == 422, wrong
        assert len(site.stored) == 1

    with_embedded_site(work, job_retention_seconds=100.0)


def test_uploads_that_are_refused_leave_nothing(with_embedded_site: Callable[..., None]) -> None:
    async def work(site: Site) -> None:
        for content, headers, status, code in [
            (b"", CSV, 400, "invalid-request"),
            (b"x" * 2_000, CSV, 413, "body-too-large"),
            (ROWS, {"content-type": "image/png"}, 415, "unsupported-media-type"),
            (ROWS, {}, 415, "unsupported-media-type"),
            (ROWS, CSV | {"content-encoding": "gzip"}, 415, "unsupported-media-type"),
            (b"{", {"content-type": "application/json"}, 400, "invalid-request"),
            (b'{"sources": 1}', {"content-type": "application/json"}, 422, "invalid-value"),
            (b'{"source": "' + b"s" * 20_000, {"content-type": "application/json"}, 413, "body-too-large"),
        ]:
            answer = await site.east.post("/v1/jobs", content=content, headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
        assert site.stored == []
        assert (await site.east.get("/v1/jobs")).json()["jobs"] == []

    with_embedded_site(work, largest_upload=1_024)


def test_an_upload_whose_client_goes_away_leaves_nothing(with_embedded_site: Callable[..., None]) -> None:
    async def work(site: Site) -> None:
        messages = [{"type": "http.request", "body": ROWS, "more_body": True}, {"type": "http.disconnect"}]
        key = site.east.headers["x-api-key"]
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/jobs",
            "raw_path": b"/v1/jobs",
            "query_string": b"",
            "headers": [(b"x-api-key", key.encode()), (b"content-type", b"text/csv")],
            "http_version": "1.1",
            "scheme": "http",
            "server": ("gateway", 80),
            "client": ("127.0.0.1", 1),
            "root_path": "",
        }
        sent = []

        async def receive() -> dict[str, Any]:
            if len(messages) == 1:
                assert site.stored, "the upload has begun"
            return messages.pop(0)

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await site.app(scope, receive, send)  # type: ignore[arg-type]
        assert sent[0]["status"] == 400
        assert site.stored == []

    with_embedded_site(work)


@pytest.mark.parametrize(
    "source",
    [
        "s3://tracks/private/a.csv",
        "s3://tracks/flights",
        "s3://tracks/flights/../private/a.csv",
        "s3://tracks/flights/%2e%2e/private/a.csv",
        "s3://tracks/flights//a.csv",
        "s3://tracks/flights/./a.csv",
        "s3://tracks/flights/a.csv?versionId=1",
        "s3://tracks/flights/*.csv",
        "s3://tracks/flights/a.csv#x",
        "s3://other/flights/a.csv",
        "S3://tracks/flights/a.csv",
        "s3:///tracks/flights/a.csv",
        "http://169.254.169.254/latest/meta-data",
        "https://example.com/a.csv",
        "file:///etc/passwd",
        "/etc/passwd",
        "source.csv",
        "../job_0/source.csv",
        "",
        "s3://tracks/flights/a.exe",
        "s3://tracks/flights/\u0000a.csv",
        "s3://tracks/flights/acct_someone_else/../a.csv",
        "s3://by-account/acct_of_another/a.csv",
    ],
)
def test_a_reference_outside_the_configured_prefixes_is_refused(
    with_embedded_site: Callable[..., None], source: str
) -> None:
    async def work(site: Site) -> None:
        answer = await site.east.post("/v1/jobs", json={"source": source})
        assert (answer.status_code, answer.json()["where"]) == (422, "source"), answer.text
        assert (await site.east.get("/v1/jobs")).json()["jobs"] == []

    with_embedded_site(work, sources=("s3://tracks/flights/", "s3://by-account/{account}/"))


def test_no_reference_is_allowed_by_default(with_embedded_site: Callable[..., None]) -> None:
    async def work(site: Site) -> None:
        answer = await site.east.post("/v1/jobs", json={"source": "s3://tracks/flights/a.csv"})
        assert answer.json()["expected"] == "an upload: no prefix is configured"

    with_embedded_site(work)


def test_the_secret_of_webhooks_is_shown_once(with_site: Callable[..., None]) -> None:
    async def work(site: Site) -> None:
        assert (await site.east.get("/v1/webhook-secret")).json() == {"created_at": None}
        answer = await site.east.post("/v1/webhook-secret")
        secret = answer.json()["secret"]
        assert (answer.status_code, answer.headers["cache-control"], secret[:6]) == (201, "no-store", "whsec_")
        shown = await site.east.get("/v1/webhook-secret")
        assert shown.json()["created_at"] > 0
        assert secret not in shown.text
        assert (await site.east.post("/v1/webhook-secret")).json()["secret"] != secret
        assert (await site.west.get("/v1/webhook-secret")).json() == {"created_at": None}

    with_site(work)


def test_the_secret_of_webhooks_is_never_stored_with_an_idempotency_key(with_site: Callable[..., None]) -> None:
    async def work(site: Site) -> None:
        answer = await site.east.post("/v1/webhook-secret", headers={"idempotency-key": "once"})
        assert (answer.status_code, answer.json()["where"]) == (400, "Idempotency-Key")
        assert (await site.east.get("/v1/webhook-secret")).json() == {"created_at": None}

    with_site(work)


def test_secrets_that_are_created_at_once_replace_each_other(with_site: Callable[..., None]) -> None:
    async def work(site: Site) -> None:
        answers = await asyncio.gather(*(site.east.post("/v1/webhook-secret") for _ in range(20)))
        assert {answer.status_code for answer in answers} == {201}
        assert len({answer.json()["secret"] for answer in answers}) == 20

    with_site(work)


def test_without_the_database_an_upload_is_refused_before_it_is_read(
    with_embedded_site: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(site: Site) -> None:
        await site.east.get("/v1/jobs")  # the key is known from now on

        @asynccontextmanager
        async def away(_self: Database) -> AsyncIterator[None]:
            raise DatabaseUnavailableError
            yield

        async def never() -> AsyncIterator[bytes]:
            raise AssertionError
            yield b""

        monkeypatch.setattr(Database, "reading", away)
        answer = await site.east.post("/v1/jobs", content=never(), headers=CSV)
        assert (answer.status_code, answer.json()["code"]) == (503, "database-unavailable")
        assert int(answer.headers["retry-after"]) >= 1
        assert site.stored == []

    with_embedded_site(work)


JSON_TRACKS = {
    "tracks": [
        {
            "track_id": 7,
            "timestamp": [1.0, 2.0],
            "latitude": [3.0, None],
            "longitude": [0.0, 0.0],
            "altitude": [9.0, 8.0],
            "radiometric_intensity": [0.1, 0.2],
        }
    ]
}


@pytest.mark.parametrize(
    ("query", "accept", "status", "where"),
    [
        ("?model=reentry_fast", "*/*", 422, "query parameter model"),
        ("?result=tracks", "*/*", 422, "query parameter result"),
        ("", "text/csv", 406, "Accept"),
        ("", "application/json;q=0, */*", 406, "Accept"),
    ],
)
def test_what_a_job_cannot_give_is_refused_instead_of_ignored(
    with_embedded_site: Callable[..., None], query: str, accept: str, status: int, where: str
) -> None:
    async def work(site: Site) -> None:
        headers = CSV | {"prefer": "respond-async", "accept": accept}
        answer = await site.east.post(f"/v1/tracks:score{query}", content=ROWS, headers=headers)
        assert (answer.status_code, answer.json()["where"]) == (status, where), answer.text
        assert site.stored == []
        allowed = headers | {"accept": "text/csv;q=0.5, application/json"}
        answer = await site.east.post("/v1/tracks:score?model=reentry&result=rows", content=ROWS, headers=allowed)
        assert answer.status_code == 202, answer.text

    with_embedded_site(work)


def test_a_request_to_score_becomes_a_job_if_it_prefers_one(with_embedded_site: Callable[..., None]) -> None:
    async def work(site: Site) -> None:
        prefer = {"prefer": "respond-async, wait=10", "idempotency-key": "one"}
        answer = await site.east.post("/v1/tracks:score", content=ROWS, headers=CSV | prefer)
        assert (answer.status_code, answer.headers["preference-applied"]) == (202, "respond-async")
        job = (await site.east.get(answer.headers["location"])).json()
        assert (job["id"], job["bytes"]) == (answer.json()["id"], len(ROWS))
        again = await site.east.post("/v1/tracks:score", content=ROWS, headers=CSV | prefer)
        assert again.json()["id"] == job["id"]
        assert again.headers["preference-applied"] == "respond-async"
        answer = await site.east.post("/v1/tracks:score", json=JSON_TRACKS, headers={"prefer": "respond-async"})
        assert answer.status_code == 202, answer.text
        files = site.services.jobs.files
        stored = files.source(answer.json()["id"], "source.arrows", Path()).read_bytes()
        table = pa.ipc.open_stream(stored).read_all()
        assert (table.num_rows, table["latitude"].to_pylist()) == (2, [3.0, None])
        without_key = CSV | {"prefer": "respond-async"}
        answer = await site.scorer.post("/v1/tracks:score", content=ROWS, headers=without_key)
        assert (answer.status_code, answer.json()["expected"]) == (403, "a key with the scope jobs")
        answer = await site.east.post("/v1/tracks:score", content=b"{}", headers={"prefer": "respond-async"})
        assert answer.status_code == 415

    with_embedded_site(work)
