"""Scoring through a real gateway process and a real Triton server."""

from __future__ import annotations

import http.client
import io
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet
import pytest

from client import Reentry
from gateway.scoring.bodies import ARROW, CSV, JSON, PARQUET
from reentry.serving import EmbeddedServer
from tests.conftest import make_repository, on_free_ports
from tests.gateway_servers import GatewayProcess, running_gateway, wait_until
from tests.network_link import open_link
from tests.unit.gateway.scoring.test_bodies import as_arrow, as_json, as_parquet, table

FRAME = table(6, 40)
CLIENT = httpx.Client(timeout=60, limits=httpx.Limits(max_connections=200))
WRITERS = {JSON: as_json, CSV: lambda frame: frame.to_csv(index=False).encode(), PARQUET: as_parquet, ARROW: as_arrow}


@pytest.fixture(scope="module", autouse=True)
def client() -> Iterator[None]:
    """Closes the connections of the tests at the end."""
    yield
    CLIENT.close()


@pytest.fixture(scope="module")
def gateway(server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """A gateway in front of the shared server. Its first key has the tier premium, which allows the fallback."""
    with running_gateway(tmp_path_factory.mktemp("gateway"), triton_url=f"http://{server.http_url}") as running:
        yield running


def post(gateway: GatewayProcess, body: bytes, sent: str = CSV, **headers: str) -> httpx.Response:
    query = headers.pop("query", "")
    given = {"authorization": f"Bearer {gateway.key}", "content-type": sent, **headers}
    return CLIENT.post(f"{gateway.url}/v1/tracks:score{query}", content=body, headers=given)


def metric(gateway: GatewayProcess, name: str) -> float:
    """Sum of the samples of a metric, such as reentry_gateway_tracks_total{result="scored"}."""
    lines = httpx.get(gateway.metrics_url, timeout=60).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


def table_of(answer: httpx.Response) -> pd.DataFrame:
    kind = answer.headers["content-type"].partition(";")[0]
    if kind == CSV:
        return pd.read_csv(io.BytesIO(answer.content))
    if kind == PARQUET:
        return pa.parquet.read_table(io.BytesIO(answer.content)).to_pandas()
    return pa.ipc.open_stream(answer.content).read_all().to_pandas()


@pytest.fixture(scope="module")
def expected(server: EmbeddedServer) -> pd.DataFrame:
    """The same rows, scored by the client without the gateway."""
    return Reentry(f"grpc://{server.grpc_url}").score(FRAME).rows


@pytest.mark.parametrize("sent", WRITERS)
@pytest.mark.parametrize("answered", [CSV, PARQUET, ARROW])
def test_every_pair_of_media_types_gives_the_scores_of_the_client(
    gateway: GatewayProcess, expected: pd.DataFrame, sent: str, answered: str
) -> None:
    answer = post(gateway, WRITERS[sent](FRAME), sent, accept=answered)
    assert answer.status_code == 200, answer.text
    rows = table_of(answer)
    assert rows["track_id"].tolist() == FRAME["track_id"].tolist()
    np.testing.assert_allclose(rows["reentry_probability"], expected["reentry_probability"], atol=1e-6)
    assert rows["reentry_phase"].tolist() == expected["reentry_phase"].tolist()


def test_a_json_answer_has_the_rows_and_the_onset_of_each_track(
    gateway: GatewayProcess, server: EmbeddedServer, expected: pd.DataFrame
) -> None:
    answer = post(gateway, as_json(FRAME), JSON).json()
    assert (answer["degraded"], answer["refused"]) == (False, [])
    tracks = Reentry(f"grpc://{server.grpc_url}").score(FRAME).tracks
    assert [track["track_id"] for track in answer["tracks"]] == tracks["track_id"].tolist()
    for track, row in zip(answer["tracks"], tracks.itertuples(), strict=True):
        assert track["onset_row"] == (None if pd.isna(row.onset_row) else row.onset_row)
        assert track["model_version"] == row.model_version
        of_track = expected[FRAME["track_id"] == track["track_id"]]
        np.testing.assert_allclose(track["reentry_probability"], of_track["reentry_probability"], atol=1e-6)
        assert track["reentry_phase"] == of_track["reentry_phase"].tolist()


def test_rows_in_another_order_are_answered_in_the_order_of_the_body(
    gateway: GatewayProcess, expected: pd.DataFrame
) -> None:
    order = np.random.default_rng(1).permutation(len(FRAME))
    answer = post(gateway, as_parquet(FRAME.iloc[order]), PARQUET, accept=CSV)
    np.testing.assert_allclose(
        table_of(answer)["reentry_probability"], expected["reentry_probability"].to_numpy()[order], atol=1e-6
    )
    shuffled = post(gateway, as_json(FRAME.iloc[order]), JSON).json()
    by_track = {track["track_id"]: track["reentry_probability"] for track in shuffled["tracks"]}
    positions = order[FRAME["track_id"].to_numpy()[order] == 2]
    np.testing.assert_allclose(by_track[2], expected["reentry_probability"].to_numpy()[positions], atol=1e-6)


def test_good_tracks_are_answered_beside_the_faults_of_the_others(gateway: GatewayProcess) -> None:
    frame = FRAME.copy()
    frame.loc[3, "latitude"] = 95.0
    frame.loc[44, "altitude"] = 1e9
    answer = post(gateway, as_arrow(frame), ARROW, accept=JSON)
    assert (answer.status_code, answer.headers["x-tracks-refused"]) == (200, "2")
    content = answer.json()
    assert [track["track_id"] for track in content["tracks"]] == [2, 3, 4, 5]
    assert [
        (track["track_id"], track["faults"][0]["row"], track["faults"][0]["column"]) for track in content["refused"]
    ] == [
        (0, 3, "latitude"),
        (1, 44, "altitude"),
    ]
    rows = table_of(post(gateway, as_arrow(frame), ARROW))
    assert rows["reentry_probability"].isna().tolist() == (frame["track_id"] < 2).tolist()
    tracks = table_of(post(gateway, as_arrow(frame), ARROW, query="?result=tracks"))
    assert tracks["problem"].notna().tolist() == [False] * 4 + [True] * 2


def test_a_body_without_a_usable_track_is_a_problem_with_all_faults(gateway: GatewayProcess) -> None:
    frame = FRAME.assign(latitude=123.0)
    answer = post(gateway, as_arrow(frame), ARROW)
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    assert answer.json()["code"] == "invalid-tracks"
    assert [fault["track_id"] for fault in answer.json()["faults"]] == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"accept": "text/html"}, 406),
        ({"sent": "text/plain"}, 415),
        ({"content-encoding": "gzip"}, 415),
        ({"query": "?model=other"}, 422),
        ({"query": "?result=all"}, 422),
    ],
)
def test_a_request_that_cannot_be_understood_is_refused(
    gateway: GatewayProcess, headers: dict[str, str], status: int
) -> None:
    answer = post(gateway, as_arrow(FRAME), **{"sent": ARROW, **headers})
    assert answer.status_code == status
    assert answer.json()["status"] == status


def test_a_body_over_the_limit_is_refused_while_it_is_read(gateway: GatewayProcess) -> None:
    host, port = gateway.url.removeprefix("http://").split(":")
    head = (
        f"POST /v1/tracks:score HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {gateway.key}\r\n"
        f"content-type: {CSV}\r\ncontent-length: 999999999999\r\n\r\n"
    )
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(head.encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 413")


def test_the_same_content_comes_from_the_cache_with_the_same_bytes(gateway: GatewayProcess) -> None:
    body = as_arrow(FRAME.assign(altitude=FRAME["altitude"] + 1.0))
    first, second = post(gateway, body, ARROW), post(gateway, body, ARROW)
    assert (first.headers["x-cache"], second.headers["x-cache"]) == ("miss", "hit")
    assert first.content == second.content
    assert post(gateway, body, ARROW, accept=CSV).headers["x-cache"] == "miss"


def test_concurrent_misses_of_one_content_are_one_call_to_triton(gateway: GatewayProcess) -> None:
    body = as_arrow(FRAME.assign(altitude=FRAME["altitude"] + 2.0).head(40))
    tracks = metric(gateway, "reentry_gateway_gathered_tracks_sum")
    with ThreadPoolExecutor(100) as pool:
        answers = list(pool.map(lambda _: post(gateway, body, ARROW), range(100)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert metric(gateway, "reentry_gateway_gathered_tracks_sum") - tracks == 1


def test_every_answered_track_is_logged_once_with_its_usage(gateway: GatewayProcess) -> None:
    admin = {"x-api-key": gateway.key}
    account = CLIENT.post(f"{gateway.url}/v1/accounts", json={"name": "of its own"}, headers=admin).json()["id"]
    wanted = {"name": "k", "scopes": ["score", "read"], "account_id": account}
    bearer = f"Bearer {CLIENT.post(f'{gateway.url}/v1/keys', json=wanted, headers=admin).json()['key']}"
    for shift in (0.1, 0.2, 0.2):  # the last one comes from the cache
        body = as_arrow(FRAME.assign(altitude=FRAME["altitude"] + shift))
        assert post(gateway, body, ARROW, authorization=bearer).status_code == 200

    def usage() -> dict[str, Any]:
        total = CLIENT.get(f"{gateway.url}/v1/usage", headers={"authorization": bearer}).json()["total"]
        return {name: total[name] for name in ("requests", "tracks", "steps", "cached")}

    wait_until(lambda: usage()["requests"] == 3, what="the usage of three requests")
    assert usage() == {"requests": 3, "tracks": 18, "steps": 3 * len(FRAME), "cached": 6}


def test_a_gone_client_cancels_its_call(gateway: GatewayProcess, server: EmbeddedServer) -> None:
    name = 'reentry_gateway_triton_calls_total{result="cancelled"}'
    before = metric(gateway, name)

    def cancels(patience: float) -> bool:
        """Leave after a time; return whether a call was cancelled. A client that leaves too early has caused none."""
        connection = http.client.HTTPConnection(gateway.url.removeprefix("http://"), timeout=60)
        body = as_arrow(FRAME.assign(altitude=FRAME["altitude"] + 3.0 + patience))
        headers = {"authorization": f"Bearer {gateway.key}", "content-type": ARROW}
        connection.request("POST", "/v1/tracks:score", body, headers)
        wait_until(lambda: in_flight() == 1, what="the request in flight")
        time.sleep(patience)
        connection.close()
        wait_until(lambda: in_flight() == 0, what="the end of the request")
        with suppress(AssertionError):
            wait_until(lambda: metric(gateway, name) > before, seconds=2)
        return metric(gateway, name) > before

    def in_flight() -> float:
        return metric(gateway, "reentry_gateway_requests_in_flight")

    os.kill(server.process_id, signal.SIGSTOP)
    try:
        assert any(map(cancels, (0.1, 1.0, 4.0)))
    finally:
        os.kill(server.process_id, signal.SIGCONT)


def test_triton_away_gives_degraded_answers_or_503_and_recovers(tmp_path: Path) -> None:
    repository = make_repository(tmp_path)
    with EmbeddedServer(on_free_ports(repository)) as server:
        port = int(server.grpc_url.rpartition(":")[2])
        with running_gateway(tmp_path, triton_url=f"grpc://127.0.0.1:{port}", timeout=300) as gateway:
            assert post(gateway, as_arrow(FRAME), ARROW, accept=JSON).json()["degraded"] is False
            admin = {"x-api-key": gateway.key}
            account = CLIENT.post(f"{gateway.url}/v1/accounts", json={"name": "standard one"}, headers=admin).json()
            wanted = {"name": "k", "scopes": ["score"], "account_id": account["id"]}
            plain = CLIENT.post(f"{gateway.url}/v1/keys", json=wanted, headers=admin).json()["key"]
            server.stop()
            frame = FRAME.assign(altitude=np.tile(np.r_[np.linspace(0, 1e5, 20), np.linspace(1e5, 0, 20)], 6))
            degraded = post(gateway, as_arrow(frame), ARROW, accept=JSON)
            assert (degraded.status_code, degraded.headers["x-degraded"]) == (200, "true")
            track = degraded.json()["tracks"][0]
            assert (track["degraded"], track["model"], track["model_version"]) == (True, "altitude_fraction", None)
            assert track["onset_row"] == 30  # the first row below half of the peak
            assert post(gateway, as_arrow(frame), ARROW, accept=JSON).headers["x-cache"] == "miss"
            refused = post(gateway, as_arrow(frame), ARROW, authorization=f"Bearer {plain}")
            assert (refused.status_code, refused.json()["code"]) == (503, "model-unavailable")
            assert int(refused.headers["retry-after"]) >= 1
            wait_until(lambda: _is_open(gateway, frame), what="the open breaker")
            begun = time.monotonic()
            assert post(gateway, as_arrow(frame), ARROW).status_code == 200
            assert time.monotonic() - begun < 150.0  # at once, and not after the timeout
            with EmbeddedServer(on_free_ports(repository, grpc_port=port)):
                wait_until(
                    lambda: post(gateway, as_arrow(frame), ARROW).headers["x-degraded"] == "false",
                    what="answers of Triton",
                )


def _is_open(gateway: GatewayProcess, frame: pd.DataFrame) -> bool:
    post(gateway, as_arrow(frame), ARROW)
    return metric(gateway, "reentry_gateway_breaker_state") == 2


def test_sigterm_finishes_the_requests_in_flight(server: EmbeddedServer, tmp_path: Path) -> None:
    with (
        open_link(server.http_url) as link,
        running_gateway(tmp_path, triton_url=f"http://127.0.0.1:{link.port}", timeout=120) as gateway,
    ):
        body = as_arrow(table(400, 200))
        link.hold(after=20_000)  # so that it is in flight until the signal
        with ThreadPoolExecutor(2) as pool:
            running = pool.submit(post, gateway, body, ARROW)
            wait_until(lambda: metric(gateway, "reentry_gateway_requests_in_flight") >= 1, what="the request in flight")
            assert gateway.process is not None
            gateway.process.send_signal(signal.SIGTERM)
            link.release()
            assert running.result().status_code == 200
        assert gateway.process.wait(120) == 0
        assert "stopped" in gateway.log.read_text()
    with running_gateway(tmp_path, triton_url=f"http://{server.http_url}") as again:
        again.key = gateway.key
        usage = httpx.get(f"{again.url}/v1/usage", headers={"x-api-key": again.key}, timeout=60).json()["total"]
        assert (usage["tracks"], usage["steps"]) == (400, 80_000)


def test_all_faults_of_a_request_are_json(gateway: GatewayProcess) -> None:
    answer = post(gateway, b"{", JSON)
    assert answer.status_code == 400
    problem = json.loads(answer.content)
    assert {"type", "title", "status", "code", "detail", "request_id", "instance"} <= set(problem)
    assert problem["request_id"] == answer.headers["x-request-id"]
