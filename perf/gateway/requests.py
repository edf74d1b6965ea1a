"""Requests with tracks in the formats of the gateway."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.ipc

from client.batching import RequestBatch
from client.connection import Array
from perf.peers.protocols import HttpRequest
from reentry.schema import (
    ENSEMBLE,
    MEASUREMENT_COLUMNS,
    MEASUREMENTS,
    SENSOR_ID,
    TRACK_ID,
    TRACK_ID_TENSOR,
    TRACK_LENGTH,
)
from reentry.tracks import Track


def kserve_request(tracks: Sequence[Track]) -> HttpRequest:
    """Binary tensors of the KServe protocol, with all outputs as binary tensors."""
    from tritonclient.http import InferenceServerClient, InferInput

    batch = RequestBatch(tuple(tracks))
    values: dict[str, Array] = {
        TRACK_ID_TENSOR.name: batch.track_ids(),
        TRACK_LENGTH.name: batch.lengths(),
        MEASUREMENTS.name: batch.measurements(),
    }
    inputs = []
    for tensor in ENSEMBLE.inputs:
        inputs.append(InferInput(tensor.name, list(values[tensor.name].shape), tensor.dtype))
        inputs[-1].set_data_from_numpy(values[tensor.name])
    body, length = InferenceServerClient.generate_request_body(inputs)
    return HttpRequest({"Inference-Header-Content-Length": str(length)}, bytes(body))


def arrow_request(tracks: Sequence[Track]) -> HttpRequest:
    """Tracks as an Arrow stream, answered as one."""
    columns: dict[str, Array] = {
        TRACK_ID.name: np.repeat([each.track_id for each in tracks], [len(each) for each in tracks])
    }
    measurements = np.concatenate([each.measurements for each in tracks])
    for place, name in enumerate(MEASUREMENT_COLUMNS):
        column = measurements[:, place]
        columns[name] = column.astype(np.int64) if name == SENSOR_ID.name else column
    rows = pa.table(columns)
    out = io.BytesIO()
    with pyarrow.ipc.new_stream(out, rows.schema) as writer:
        writer.write_table(rows)
    return HttpRequest({"Content-Type": "application/vnd.apache.arrow.stream"}, out.getvalue())


def json_request(tracks: Sequence[Track]) -> HttpRequest:
    """Tracks as JSON, answered as JSON."""
    content = []
    for track in tracks:
        columns = dict(zip(MEASUREMENT_COLUMNS, track.measurements.T.tolist(), strict=True))
        columns[SENSOR_ID.name] = [int(sensor) for sensor in columns[SENSOR_ID.name]]
        content.append({TRACK_ID.name: track.track_id, **columns})
    return HttpRequest({"Content-Type": "application/json"}, json.dumps({"tracks": content}).encode())
