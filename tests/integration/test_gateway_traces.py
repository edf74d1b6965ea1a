"""Traces of a real gateway process and a real Triton server, joined in a collector.

The collector is a stand-in, `tests.trace_collector`: a small HTTP server that takes OTLP/JSON.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from client.grpc_request import METHOD
from reentry.serving import EmbeddedServer
from tests.conftest import on_free_ports
from tests.gateway_servers import GatewayProcess, free_port, running_gateway, wait_until
from tests.job_client import JobClient
from tests.trace_collector import CLIENT, SERVER, Collector, ReceivedSpan, running_collector
from tests.unit.gateway.scoring.test_bodies import table

CALL = METHOD.removeprefix("/")
CLIENT_SPAN = "00f067aa0ba902b7"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    """A collector for the gateway and Triton. Both send spans at once instead of every five seconds."""
    with running_collector() as running, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        yield running


@pytest.fixture(scope="module")
def triton(collector: Collector, model_repository: Path) -> Iterator[EmbeddedServer]:
    """A Triton server that sends its spans to the collector."""
    with EmbeddedServer(on_free_ports(model_repository, otlp_endpoint=collector.url)) as running:
        yield running


@pytest.fixture(scope="module")
def gateway(
    collector: Collector, triton: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayProcess]:
    """A gateway that sends its spans to the collector, with one call to Triton in flight at a time."""
    folder = tmp_path_factory.mktemp("gateway")
    with running_gateway(
        folder, triton_url=f"grpc://{triton.grpc_url}", otlp_endpoint=collector.url, calls_in_flight=1
    ) as running:
        yield running


def score(
    gateway: GatewayProcess,
    trace_id: str,
    *,
    tracks: int = 2,
    steps: int = 40,
    sampled: bool = True,
    timeout: float = 60,
) -> httpx.Response:
    """Score tracks as a client whose own span is `CLIENT_SPAN`."""
    return httpx.post(
        f"{gateway.url}/v1/tracks:score",
        content=table(tracks, steps).to_csv(index=False),
        headers={
            "authorization": f"Bearer {gateway.key}",
            "content-type": "text/csv",
            "traceparent": f"00-{trace_id}-{CLIENT_SPAN}-0{int(sampled)}",
            "x-request-id": f"request-{trace_id[:8]}",
        },
        timeout=timeout,
    )


def names_of(collector: Collector, trace_id: str) -> set[str]:
    """Names of the spans of a trace that have arrived."""
    return {span.name for span in collector.of_trace(trace_id)}


def arrive(collector: Collector, trace_id: str, *names: str) -> bool:
    """Whether spans of a trace arrive within 20 seconds."""
    with suppress(AssertionError):
        wait_until(lambda: {*names} <= names_of(collector, trace_id), seconds=20)
        return True
    return False


def traced(
    gateway: GatewayProcess, collector: Collector, digit: str, *names: str, steps: int
) -> tuple[str, dict[str, ReceivedSpan]]:
    """Score tracks, the more steps the later, until all spans of a request have arrived: exporters drop some.

    Returns:
        The id of the trace, which begins with a digit, and its spans by name.
    """
    for attempt in range(5):
        trace_id = f"{digit}{attempt}" * 16
        answer = score(gateway, trace_id, steps=steps + attempt)
        assert answer.status_code == 200, answer.text
        if arrive(collector, trace_id, *names):
            return trace_id, {span.name: span for span in collector.of_trace(trace_id)}
    return trace_id, trace(collector, trace_id, *names)


def trace(collector: Collector, trace_id: str, *names: str) -> dict[str, ReceivedSpan]:
    """Wait until spans of a trace have arrived, and return all its spans by name."""
    try:
        wait_until(lambda: {*names} <= names_of(collector, trace_id), seconds=120, what="the trace")
    except AssertionError:
        pytest.fail(
            f"of the spans {names}, {names_of(collector, trace_id)} arrived; of all traces, {len(collector.spans)} "
            f"spans in {len(collector.bodies)} requests; unread: {collector.unread}"
        )
    return {span.name: span for span in collector.of_trace(trace_id)}


def test_a_request_gives_one_trace_from_the_client_through_the_gateway_to_each_model_of_triton(
    gateway: GatewayProcess, collector: Collector
) -> None:
    names = ("POST /tracks:score", "read body", "read tracks", CALL, "InferRequest", "reentry")
    models = ("track_features", "reentry_lstm", "track_decision")
    trace_id, spans = traced(gateway, collector, "4", *names, *models, steps=40)
    steps = 40 + int(trace_id[1])
    request, call = spans[names[0]], spans[CALL]
    assert (request.kind, request.parent_id, request.service) == (SERVER, CLIENT_SPAN, "reentry-gateway")
    assert request.attributes == {
        "http.request.method": "POST",
        "url.scheme": "http",
        "http.route": "/tracks:score",
        "http.response.status_code": 200,
        "reentry.request_id": f"request-{trace_id[:8]}",
    }
    assert spans["read body"].parent_id == spans["read tracks"].parent_id == request.span_id
    assert spans["read body"].attributes == {"http.request.body.size": len(table(2, steps).to_csv(index=False))}
    assert (call.kind, call.parent_id, call.links) == (CLIENT, request.span_id, [])
    host, port = call.attributes.pop("server.address"), call.attributes.pop("server.port")
    assert host == "127.0.0.1"
    assert port > 0
    assert call.attributes == {
        "rpc.system.name": "grpc",
        "rpc.method": CALL,
        "reentry.model": "reentry",
        "reentry.tracks": 2,
        "reentry.model_version": 1,
        "reentry.result": "answered",
    }
    assert spans["InferRequest"].service == "triton-inference-server"
    assert spans["InferRequest"].parent_id == call.span_id
    assert spans["reentry"].parent_id == spans["InferRequest"].span_id
    assert [spans[model].parent_id for model in models] == [spans["reentry"].span_id] * 3
    assert not any(span.failed for span in spans.values())


def test_a_request_without_a_traceparent_begins_a_trace_that_triton_continues(
    gateway: GatewayProcess, collector: Collector
) -> None:
    def begun(request_id: str) -> list[ReceivedSpan]:
        return [span for span in collector.spans if span.attributes.get("reentry.request_id") == request_id]

    for attempt in range(5):  # exporters drop some spans
        request_id = f"begins-{attempt}"
        headers = {"authorization": f"Bearer {gateway.key}", "content-type": "text/csv", "x-request-id": request_id}
        body = table(1, 35 + attempt).to_csv(index=False)
        answer = httpx.post(f"{gateway.url}/v1/tracks:score", content=body, headers=headers, timeout=60)
        assert answer.status_code == 200, answer.text
        wait_until(lambda: bool(begun(request_id)), seconds=120, what="the span of the request")  # noqa: B023
        (root,) = begun(request_id)
        assert root.parent_id == ""
        if arrive(collector, root.trace_id, CALL, "InferRequest"):
            break
    spans = trace(collector, root.trace_id, CALL, "InferRequest")
    assert spans["InferRequest"].parent_id == spans[CALL].span_id


def test_the_log_line_of_a_request_has_its_trace_id(gateway: GatewayProcess) -> None:
    trace_id = "b0" * 16
    assert score(gateway, trace_id).status_code == 200

    def logged() -> list[dict[str, object]]:
        lines = gateway.log.read_text().splitlines()
        found = [json.loads(line) for line in lines if line.startswith("{")]
        return [line for line in found if line.get("request_id") == f"request-{trace_id[:8]}"]

    wait_until(lambda: bool(logged()), what="the log line")
    assert [line["trace_id"] for line in logged()] == [trace_id]


def test_each_of_many_requests_is_the_parent_of_its_call_or_linked_from_it(
    gateway: GatewayProcess, collector: Collector
) -> None:
    ids = [f"{number:02x}" * 16 for number in range(1, 13)]
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda each: score(gateway, each, tracks=1, steps=60 + int(each[:2], 16)), ids))
    assert [answer.status_code for answer in answers] == [200] * 12

    def requests() -> list[str]:
        return [
            s.span_id
            for each in ids
            for s in collector.of_trace(each)
            if s.kind == SERVER and s.parent_id == CLIENT_SPAN
        ]

    def served() -> list[str]:
        calls = [s for each in ids for s in collector.of_trace(each) if s.name == CALL]
        return [span_id for call in calls for span_id in (call.parent_id, *call.links)]

    wait_until(lambda: len(requests()) == 12 and len(served()) >= 12, what="the spans of 12 requests")
    assert sorted(served()) == sorted(requests())


def test_a_refused_request_has_its_status_and_no_call(gateway: GatewayProcess, collector: Collector) -> None:
    trace_id = "cd" * 16
    wrong = GatewayProcess(0, [], Path(), {}, url=gateway.url, key="rk_wrong")
    assert score(wrong, trace_id).status_code == 401
    spans = trace(collector, trace_id, "POST unmatched")
    assert spans["POST unmatched"].attributes["http.response.status_code"] == 401
    assert len(spans) == 1


def test_a_request_that_its_client_does_not_sample_has_no_span_in_the_gateway_and_in_triton(
    gateway: GatewayProcess, collector: Collector
) -> None:
    # Spans arrive in order, so those of the sampled requests show that those of the others would have arrived. An
    # exporter may drop spans when it cannot send them, so one pair of spans is enough.
    names = {"POST /tracks:score", "InferRequest"}
    pairs = [(f"e{number}" * 16, f"d{number}" * 16) for number in range(5)]
    for number, (silent_id, sampled_id) in enumerate(pairs):
        assert score(gateway, silent_id, steps=100 + number, sampled=False).status_code == 200
        assert score(gateway, sampled_id, steps=120 + number).status_code == 200
        if arrive(collector, sampled_id, *names):
            break
    trace(collector, sampled_id, *names)
    assert not any(collector.of_trace(silent) for silent, _ in pairs)


def test_a_job_has_a_span_with_its_id_and_its_end(
    gateway: GatewayProcess, collector: Collector, tmp_path: Path
) -> None:
    table(2, 40).to_csv(tmp_path / "tracks.csv", index=False)
    client = JobClient(gateway.url, gateway.key)
    try:
        job = client.create(tmp_path / "tracks.csv")
        assert client.wait(job["id"])["state"] == "completed"
    finally:
        client.close()

    def found() -> list[ReceivedSpan]:
        return [s for s in collector.spans if s.name == "job" and s.attributes["reentry.job_id"] == job["id"]]

    wait_until(lambda: bool(found()), what="the span of the job")
    assert found()[0].attributes == {
        "reentry.job_id": job["id"],
        "reentry.attempt": 1,
        "reentry.state": "completed",
        "reentry.tracks": 2,
    }


def test_no_span_contains_a_key_a_coordinate_or_a_body(gateway: GatewayProcess, collector: Collector) -> None:
    trace_id = "fa" * 16
    body = "timestamp,track_id,latitude\n1700000000.0,7,48.1234567\n"
    headers = {"authorization": f"Bearer {gateway.key}", "content-type": "text/csv"}
    query = f"?note={gateway.key}"
    traced = {**headers, "traceparent": f"00-{trace_id}-{CLIENT_SPAN}-01"}
    answer = httpx.post(f"{gateway.url}/v1/tracks:score{query}", content=body, headers=traced, timeout=60)
    assert answer.status_code == 422, answer.text
    trace(collector, trace_id, "POST /tracks:score")
    received = b"".join(collector.bodies)
    assert trace_id.encode() in received
    for secret in (gateway.key, "48.1234567", "1700000000.0", "latitude"):
        assert secret.encode() not in received


def test_over_http_the_spans_of_triton_are_children_of_the_call_too(
    collector: Collector, triton: EmbeddedServer, tmp_path: Path
) -> None:
    url = f"http://{triton.http_url}"
    with running_gateway(tmp_path, triton_url=url, otlp_endpoint=collector.url) as gateway:
        name = "POST /v2/models/reentry/infer"
        _, spans = traced(gateway, collector, "c", "POST /tracks:score", name, "InferRequest", steps=70)
    call = spans[name]
    assert call.attributes["url.full"] == f"{url}/v2/models/reentry/infer"
    assert call.attributes["http.request.method"] == "POST"
    assert spans["InferRequest"].parent_id == call.span_id


def test_without_an_endpoint_nothing_is_sent(
    gateway: GatewayProcess, collector: Collector, triton: EmbeddedServer, tmp_path: Path
) -> None:
    silent_id = "5a" * 16
    with running_gateway(tmp_path, triton_url=f"grpc://{triton.grpc_url}") as silent:
        assert score(silent, silent_id).status_code == 200
        assert "trace_id" not in silent.log.read_text()
    traced(gateway, collector, "6", "POST /tracks:score", "InferRequest", steps=80)  # Triton's spans arrive in order
    assert not collector.of_trace(silent_id)


def test_a_collector_that_hangs_or_is_away_never_delays_a_request_or_the_shutdown(
    triton: EmbeddedServer, tmp_path: Path
) -> None:
    port = free_port()
    with running_gateway(
        tmp_path,
        first="import gateway.traces; gateway.traces._EXPORT_SECONDS = 300.0",
        triton_url=f"grpc://{triton.grpc_url}",
        otlp_endpoint=f"http://127.0.0.1:{port}",
    ) as gateway:

        def score_five(steps: int) -> None:
            # The exporter waits for longer than this client.
            answers = [score(gateway, "a1" * 16, steps=steps + each) for each in range(5)]
            assert [answer.status_code for answer in answers] == [200] * 5

        score_five(30)  # the collector is away
        with hanging_collector(gateway, port):
            score_five(40)
        with running_collector(port) as back:
            assert score(gateway, "a2" * 16).status_code == 200
            trace(back, "a2" * 16, "POST /tracks:score")
        with hanging_collector(gateway, port):
            gateway.stop()
        assert gateway.process is not None
        assert gateway.process.returncode == 0  # it was not killed


@contextmanager
def hanging_collector(gateway: GatewayProcess, port: int) -> Iterator[None]:
    """A collector that has accepted the connection of the gateway, and never answers."""
    with socket.create_server(("127.0.0.1", port)) as listener:
        listener.settimeout(60)
        assert score(gateway, "a3" * 16).status_code == 200
        connection, _ = listener.accept()
        with connection:
            yield
