"""What the gateway is measured beside: other ways to reach a real Triton, which give the same answers."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.ipc

from client.batching import RequestBatch
from client.connection import Connection, Endpoint
from client.scoring import inputs_of
from perf.gateway.process import running_plain_chain
from perf.gateway.requests import arrow_request
from perf.scoring import draw_flights
from perf.transports import _compare
from reentry.schema import ENSEMBLE
from reentry.serving import EmbeddedServer


def test_http_and_grpc_give_the_same_answer_to_the_last_bit(server: EmbeddedServer) -> None:
    batch = RequestBatch(tuple(draw_flights(3, 120)))

    async def ask(url: str) -> dict[str, np.ndarray]:
        async with Connection(Endpoint.parse(url), timeout=60.0) as connection:
            return await connection.infer(ENSEMBLE, inputs_of(batch))

    over_http, over_grpc = (asyncio.run(ask(url)) for url in (f"http://{server.http_url}", f"grpc://{server.grpc_url}"))
    assert over_http.keys() == over_grpc.keys() == {tensor.name for tensor in ENSEMBLE.outputs}
    for name, values in over_http.items():
        assert values.dtype == over_grpc[name].dtype, name
        assert values.shape == over_grpc[name].shape, name
        assert values.tolist() == over_grpc[name].tolist(), name


def test_all_ways_to_send_a_request_are_measured(server: EmbeddedServer) -> None:
    rows = asyncio.run(_compare(server, tracks=2, turns=1, requests=2))
    assert [row[0] for row in rows] == ["HTTP", "gRPC", "tritonclient, HTTP"]
    assert rows[0][2] == "1.00"
    assert all(float(figure) > 0 for row in rows for figure in row[1:])


def test_the_plain_chain_scores_a_track(server: EmbeddedServer, tmp_path: Path) -> None:
    (track,) = draw_flights(1, 90)

    async def ask() -> dict[str, np.ndarray]:
        async with Connection(Endpoint.parse(f"http://{server.http_url}"), timeout=60.0) as connection:
            return await connection.infer(ENSEMBLE, inputs_of(RequestBatch((track,))))

    expected = asyncio.run(ask())
    with running_plain_chain(tmp_path, server.grpc_url) as chain:
        request = arrow_request([track])
        answer = httpx.post(f"{chain.url}/score", content=request.body, headers=request.headers, timeout=60)
    assert answer.status_code == 200, answer.text
    rows = pa.ipc.open_stream(answer.content).read_all()
    assert rows["reentry_probability"].to_pylist() == expected["reentry_probability"][0].tolist()
    assert rows["reentry_phase"].to_pylist() == expected["reentry_phase"][0].tolist()
