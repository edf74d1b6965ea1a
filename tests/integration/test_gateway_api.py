"""The whole OpenAPI document of the gateway against a real gateway and Triton, with a key and without one."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
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
from schemathesis.specs.openapi import checks

from gateway.problems import CATALOGUE, MEDIA_TYPE, TYPE_PREFIX
from gateway.scoring.bodies import ARROW, CSV, JSON, PARQUET
from reentry.serving import EmbeddedServer
from tests.gateway_servers import GatewayProcess, running_gateway, wait_until
from tests.unit.gateway.scoring.test_bodies import as_arrow, as_json, as_parquet, table

EXAMPLES = int(os.environ.get("GATEWAY_FUZZ_EXAMPLES", "10"))
"""Random requests of each operation. `make gateway-fuzz` sends more."""
SEED = int(os.environ.get("GATEWAY_FUZZ_SEED", "0"))
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
    checks.unsupported_method,
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
        running_gateway(folder, triton_url=f"grpc://{server.grpc_url}", config=folder / "gateway.toml") as process,
        httpx.Client(base_url=process.url, headers={"authorization": f"Bearer {process.key}"}, timeout=60) as client,
        requests.Session() as session,
    ):
        yield Gateway(process, client, session, client.get("/openapi.json").raise_for_status().json())


@pytest.fixture(scope="module")
def schema(gateway: Gateway) -> schemathesis.BaseSchema:
    """The document, with the ids of existing resources as examples of its parameters."""
    document = json.loads(json.dumps(gateway.document))
    for path, item in document["paths"].items():
        for method, operation in item.items():
            for parameter in operation.get("parameters", ()):
                if (made := created(gateway, parameter["name"])) is not None:
                    parameter["examples"] = {"existing": {"value": made}}
    config = SchemathesisConfig.from_dict(
        {"seed": SEED, "generation": {"max-examples": EXAMPLES, "deterministic": True, "database": "none"}}
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
        body = {"name": name, "mode": "shadow", "challenger": {"model": "reentry_candidate"}}
        made = gateway.client.post("/v1/experiments", json=body).raise_for_status().json()["id"]
        gateway.client.patch(f"/v1/experiments/{made}", json={"state": "ended"}).raise_for_status()
        return str(made)
    return None


api = schemathesis.pytest.from_fixture("schema")


@api.parametrize()
@settings(deadline=None, suppress_health_check=list(HealthCheck))
def test_every_answer_with_a_key_is_documented_and_none_is_a_defect(case: Case, gateway: Gateway) -> None:
    response = send(case, gateway)
    check_error(response, case)
    case.validate_response(response, checks=CHECKS)


def send(case: Case, gateway: Gateway) -> requests.Response:
    """Send a request with the key for everything, and read the beginning of a stream that does not end."""
    arguments = case.as_transport_kwargs(base_url=gateway.process.url)
    arguments["headers"] = {**arguments["headers"], "Authorization": f"Bearer {gateway.process.key}"}
    response = gateway.session.request(**arguments, stream=True, timeout=60)
    if response.headers.get("content-type", "").startswith("text/event-stream"):
        response._content = next(response.iter_content(None))
        response.close()
    assert response.content is not None
    return response


def check_error(response: requests.Response, case: Case) -> None:
    """Check that an error is a complete problem, and that it is not one of the gateway itself."""
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
