"""The whole OpenAPI document of the gateway against a real gateway and Triton, with a key and without one."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from schemathesis import Case
from schemathesis.checks import CheckFunction
from schemathesis.config import SchemathesisConfig
from schemathesis.generation.feedback import NO_FEEDBACK
from schemathesis.pytest._test_builder import build_operation_test
from schemathesis.specs.openapi import checks

from gateway.accounts.keys import create_key
from gateway.accounts.principal import Scope
from gateway.problems import CATALOGUE, MEDIA_TYPE, TYPE_PREFIX
from gateway.scoring.bodies import ARROW, CSV, PARQUET
from reentry.serving import EmbeddedServer
from tests.gateway_servers import GatewayProcess, running_gateway, wait_until
from tests.unit.gateway.scoring.test_bodies import as_arrow, as_parquet, table

EXAMPLES = int(os.environ.get("GATEWAY_FUZZ_EXAMPLES", "10"))
"""Random requests of each operation. `make gateway-fuzz` sends more."""
SEED = int(os.environ.get("GATEWAY_FUZZ_SEED", "0"))
DOCUMENT = json.loads((Path(__file__).parents[2] / "gateway" / "openapi.json").read_text())
OPERATIONS = [(method, path) for path, item in DOCUMENT["paths"].items() for method in item]
NUMBERS = itertools.count()
FRAME = table(2, 20)
FILES = {CSV: FRAME.to_csv(index=False).encode(), PARQUET: as_parquet(FRAME), ARROW: as_arrow(FRAME)}
TIERS = """
[tiers.standard]

[tiers.premium]
requests_per_second = 1e6
burst = 1000000
steps_per_minute = 1000000000000
degraded = true
"""
CHECKS: list[CheckFunction] = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
    checks.unsupported_method,
    checks.allow_header_conformance,
]


class ProblemBody(msgspec.Struct, forbid_unknown_fields=True):
    """A problem, with no other members than gateway/problems.py names."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    instance: str
    request_id: str
    expected: str | None = None
    got: str | None = None
    where: str | None = None
    fix: str | None = None
    faults: list[dict[str, Any]] | None = None
    error: str | None = None


@dataclass
class Gateway:
    """A gateway with one of each resource, and its document."""

    process: GatewayProcess
    client: httpx.Client
    session: requests.Session
    document: dict[str, Any]


def damaged(file: bytes) -> st.SearchStrategy[bytes]:
    """A file as it is, random bytes, and the file with a part cut out or replaced."""
    places = st.integers(0, len(file))
    cut = st.tuples(places, places, st.binary(max_size=8)).map(lambda cut: file[: cut[0]] + cut[2] + file[cut[1] :])
    return st.one_of(st.just(file), st.binary(max_size=64), cut)


for media_type, file in FILES.items():
    schemathesis.openapi.media_type(media_type, damaged(file))

    @schemathesis.serializer(media_type)
    def as_sent(_context: object, value: Any) -> bytes:
        return value if isinstance(value, bytes) else str(value).encode(errors="replace")


@pytest.fixture(scope="module")
def gateway(server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with SQLite in front of the shared server."""
    folder = tmp_path_factory.mktemp("api")
    (folder / "gateway.toml").write_text(TIERS)
    with (
        running_gateway(folder, triton_url=f"http://{server.http_url}", config=folder / "gateway.toml") as process,
        httpx.Client(base_url=process.url, headers={"authorization": f"Bearer {process.key}"}, timeout=60) as client,
        requests.Session() as session,
    ):
        yield Gateway(process, client, session, client.get("/openapi.json").raise_for_status().json())


@pytest.fixture(scope="module")
def schema(gateway: Gateway) -> schemathesis.BaseSchema:
    """The document, with the ids of existing resources as examples of its parameters."""
    document = json.loads(json.dumps(gateway.document))
    for item in document["paths"].values():
        for operation in item.values():
            for parameter in operation.get("parameters", ()):
                if (made := created(gateway, parameter["name"])) is not None:
                    parameter["examples"] = {"existing": {"value": made}}
    config = SchemathesisConfig.from_dict(
        {
            "seed": SEED,
            "generation": {
                "max-examples": EXAMPLES,
                "database": "none",
                "with-security-parameters": False,
            },
        }
    )
    return schemathesis.openapi.from_dict(document, config=config)


def created(gateway: Gateway, parameter: str) -> str | None:
    """Id of a new resource that a path parameter names, so that each operation has one of its own."""
    name = f"created {time.monotonic_ns()}"
    if parameter == "job_id":
        answer = gateway.client.post("/v1/jobs", content=FILES[CSV], headers={"content-type": CSV}).raise_for_status()
        path = answer.headers["location"]
        wait_until(lambda: gateway.client.get(path).json()["state"] == "completed", what="the end of a job")
        return str(answer.json()["id"])
    if parameter == "key_id":
        return str(gateway.client.post("/v1/keys", json={"name": name, "scopes": ["read"]}).json()["id"])
    if parameter == "experiment_id":
        # A generated request may have started one, and an account runs one experiment at a time.
        for each in gateway.client.get("/v1/experiments").json()["experiments"]:
            if each["state"] == "running":
                gateway.client.patch(f"/v1/experiments/{each['id']}", json={"state": "ended"}).raise_for_status()
        body = {"name": name, "mode": "shadow", "challenger": {"model": "reentry_candidate"}}
        made = gateway.client.post("/v1/experiments", json=body).raise_for_status().json()["id"]
        gateway.client.patch(f"/v1/experiments/{made}", json={"state": "ended"}).raise_for_status()
        return str(made)
    return None


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_every_answer_with_a_key_is_documented_and_none_is_a_defect(
    method: str, path: str, gateway: Gateway, schema: schemathesis.BaseSchema
) -> None:
    @settings(deadline=None, suppress_health_check=list(HealthCheck), print_blob=False)
    def check(case: Case) -> None:
        response = send(case, gateway)
        check_error(response, case)
        case.validate_response(response, checks=CHECKS)

    # `schema.parametrize` would need the ids of the existing resources when the tests are collected.
    operation = schema[path][method]
    build_operation_test(
        config=schema.config, operation=operation, test_func=check, given_kwargs={}, feedback=NO_FEEDBACK
    )()


def send(case: Case, gateway: Gateway) -> requests.Response:
    """Send a request with the key for everything, and read the beginning of a stream that does not end."""
    arguments = case.as_transport_kwargs(base_url=gateway.process.url)
    headers = arguments["headers"] = {**arguments["headers"], "Authorization": f"Bearer {gateway.process.key}"}
    if re.fullmatch(r"[ -~]{1,255}", key := headers.get("Idempotency-Key", "")):
        headers["Idempotency-Key"] = f"{next(NUMBERS)} {key}"[:255]  # one that was used with another body is refused
    response = gateway.session.request(**arguments, stream=True, timeout=60)
    if response.headers.get("content-type", "").startswith("text/event-stream"):
        response._content = next(response.iter_content(None))
        response.close()
    assert response.content is not None
    return response


def check_error(response: requests.Response, case: Case) -> None:
    """Check that an error is a complete problem, and that it is not one of the gateway itself."""
    assert response.status_code != 401
    if response.status_code < 400:
        return
    assert response.headers["content-type"] == MEDIA_TYPE, response.text
    problem = msgspec.json.decode(response.content, type=ProblemBody)
    assert problem.status == response.status_code
    assert CATALOGUE[problem.code].status == problem.status
    assert (problem.type, problem.title) == (TYPE_PREFIX + problem.code, CATALOGUE[problem.code].title)
    assert problem.request_id == response.headers["x-request-id"]
    if problem.status >= 500:
        # The shared server has no other model than the network and its ensemble.
        assert (problem.code, "reentry_fast" in response.url) == ("model-unavailable", True), response.text


def test_the_gateway_serves_the_committed_document(gateway: Gateway) -> None:
    assert gateway.document == DOCUMENT


@pytest.fixture(scope="module")
def existing(gateway: Gateway) -> dict[str, str | None]:
    """Ids of existing resources by the name of their parameter."""
    names = ("job_id", "key_id", "experiment_id")
    return {"name": "reentry_lstm", **{name: created(gateway, name) for name in names}}


@pytest.mark.parametrize("path", [path for method, path in OPERATIONS if (method, path[:4]) == ("get", "/v1/")])
def test_a_get_route_gives_the_same_answer_under_both_prefixes(
    gateway: Gateway, existing: dict[str, str | None], path: str
) -> None:
    path = path.format_map(existing) + {"/v1/usage": "?since=0&until=1000", "/v1/events": "?after=none"}.get(path, "")

    def answer(prefix: str) -> tuple[int, str, Any]:
        got = gateway.client.get(prefix + path)
        content: Any = got.content
        if got.status_code == 422:
            content = {name: value for name, value in got.json().items() if name not in ("instance", "request_id")}
        return got.status_code, got.headers["content-type"], content

    assert answer("/api")[0] == (422 if path.startswith("/v1/events") else 200)
    # The inference log of the tracks that other tests have scored may arrive between the two.
    wait_until(lambda: answer("") == answer("/api"), what="the same answer")


def invalid_credentials(gateway: Gateway) -> dict[str, dict[str, str]]:
    """Headers of requests whose sender is unknown, by the reason."""
    keys = {}
    for name in ("revoked", "expired"):
        expiry = {"expires_at": time.time() + 5.0} if name == "expired" else {}
        made = gateway.client.post("/v1/keys", json={"name": name, "scopes": list(Scope), **expiry}).raise_for_status()
        keys[name] = made.json()
    gateway.client.delete(f"/v1/keys/{keys['revoked']['id']}").raise_for_status()
    wait_until(lambda: time.time() > keys["expired"]["expires_at"], what="the expiry of a key")
    valid = gateway.process.key
    return {
        "none": {},
        "empty": {"Authorization": "Bearer "},
        "other scheme": {"Authorization": f"Basic {valid}"},
        "malformed": {"Authorization": "Bearer rk_malformed"},
        "unknown": {"X-API-Key": create_key().text},
        "wrong checksum": {"Authorization": f"Bearer {valid[:-1]}{'0' if valid[-1] != '0' else '1'}"},
        "in the query": {"query": f"?api_key={valid}&access_token={valid}"},
        "in a cookie": {"Cookie": f"X-API-Key={valid}; Authorization=Bearer {valid}"},
        "revoked": {"Authorization": f"Bearer {keys['revoked']['key']}"},
        "expired": {"X-API-Key": keys["expired"]["key"]},
    }


def test_every_operation_but_health_refuses_an_unknown_sender(gateway: Gateway) -> None:
    for name, headers in invalid_credentials(gateway).items():
        query = headers.pop("query", "")
        for method, path in OPERATIONS:
            if path.startswith("/health/"):
                continue
            for prefix in ("", "/api") if path.startswith("/v1/") else ("",):
                target = prefix + re.sub(r"\{\w+\}", "reentry", path) + query
                answer = refusal(gateway, method.upper(), target, headers)
                assert answer is None, (name, method, target, answer)


SPELLINGS = """
/v1 /v1/ /v1/none /api /api/ /api/v1 /api/v1/ /api/v1/none /v2/ /v2/none /v3
//v1/keys ///v1/keys /v1//keys /./v1/keys /v1/./keys /v1/../v1/keys /x/../v1/keys
/v1/keys/ /v1/keys/. /v1/keys%0A /v1/keys%00 /v1/keys;x /v1/keys%3Fx /v1/keys%23 /v1/keys#
/V1/keys /v1/KEYS /API/v1/keys /V2 /v1%2Fkeys /%76%31/keys /%2e/v1/keys /%2e%2e/v1/keys /v1/%2e%2e/v1/keys
/%2Fv1/keys /%5Cv1/keys /v1%5Ckeys /%EF%BC%8Fv1/keys /v%C2%B9/keys
/health/live/../../v1/keys /health/live%2F..%2F..%2Fv1/keys /health/../v1/keys /health/live/ /health/live%0A /health
/Health/live /openapi.json/../v1/keys /openapi.json/ /openapi.json%00 /docs /redoc /metrics /favicon.ico /index.html
http://x/v1/keys http://x//v1/keys HTTP://x/v1/keys * v1/keys //x/v1/keys /static/../v1/keys /assets /%61ssets
"""
"""Other spellings of protected paths, and paths without a route."""


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND"])
def test_no_spelling_of_a_path_reaches_a_route_without_a_key(gateway: Gateway, method: str) -> None:
    for target in SPELLINGS.split():
        answer = refusal(gateway, method, target)
        assert answer is None, (method, target, answer)
    for target in ("/assets/../v1/keys", "/assets%2F..%2Fv1/keys", "/assets/%2e%2e/v1/keys", "/assets/../../app.py"):
        answer = refusal(gateway, method, target)
        assert answer is not None
        assert answer[0] in (404, 405), (method, target, answer)  # a path of the page's files, which has none there


def refusal(
    gateway: Gateway, method: str, target: str, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], bytes] | None:
    """Send a request byte for byte. Return None if it was refused as it should be, and otherwise the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.process.port, timeout=30)
    with contextlib.closing(connection):
        connection.putrequest(method, target)
        for name, value in (headers or {}).items():
            connection.putheader(name, value)
        connection.putheader("Content-Length", "0")
        connection.endheaders()
        answer = connection.getresponse()
        given = {name.lower(): value for name, value in answer.getheaders()}
        # A stream of events would not end.
        body = b"" if given.get("content-type", "").startswith("text/event-stream") else answer.read()
    if answer.status == 400 and given.get("content-type", "").startswith("text/plain"):
        return None  # the HTTP parser refused it
    if answer.status != 401 or given["content-type"] != MEDIA_TYPE or "www-authenticate" not in given:
        return answer.status, given, body
    if method != "HEAD":
        problem = msgspec.json.decode(body, type=ProblemBody)
        assert (problem.status, problem.code) == (401, "unauthorized")
    return None
