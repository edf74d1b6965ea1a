"""What a service in front of Triton costs that only scores: FastAPI and tritonclient, as most teams begin.

It has no keys, limits, checks, log, cache or metrics. The gateway is measured beside it, see `perf.gateway`.

Shapes: T steps, M measurement columns.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import pyarrow as pa
import pyarrow.ipc
from fastapi import FastAPI, Request, Response
from tritonclient.grpc.aio import InferenceServerClient, InferInput

from reentry.schema import (
    ENSEMBLE,
    MEASUREMENT_COLUMNS,
    MEASUREMENTS,
    PHASE,
    PROBABILITY,
    TRACK_ID,
    TRACK_ID_TENSOR,
    TRACK_LENGTH,
)

ADDRESS = "PLAIN_CHAIN_TRITON"
"""Environment variable with the gRPC address of Triton."""


@asynccontextmanager
async def _connected(app: FastAPI) -> AsyncIterator[None]:
    async with InferenceServerClient(os.environ[ADDRESS]) as client:
        app.state.client = client
        yield


app = FastAPI(lifespan=_connected)


@app.post("/score")
async def score(request: Request) -> Response:
    """Score the one track of an Arrow stream, and answer with its rows as an Arrow stream."""
    table = pa.ipc.open_stream(await request.body()).read_all()
    track_id = table[TRACK_ID.name].to_numpy()
    measurements = np.column_stack([table[name].to_numpy().astype(np.float64) for name in MEASUREMENT_COLUMNS])
    values = {
        TRACK_ID_TENSOR.name: track_id[:1].reshape(1, 1),
        TRACK_LENGTH.name: np.array([[len(track_id)]], np.int32),
        MEASUREMENTS.name: measurements[None],
    }
    inputs = [InferInput(tensor.name, list(values[tensor.name].shape), tensor.dtype) for tensor in ENSEMBLE.inputs]
    for tensor in inputs:
        tensor.set_data_from_numpy(values[tensor.name()])
    answer = await request.app.state.client.infer(ENSEMBLE.name, inputs)
    rows = pa.table(
        {
            TRACK_ID.name: track_id,
            PROBABILITY.name: answer.as_numpy(PROBABILITY.name)[0],
            PHASE.name: answer.as_numpy(PHASE.name)[0],
        }
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    return Response(sink.getvalue().to_pybytes(), media_type="application/vnd.apache.arrow.stream")
