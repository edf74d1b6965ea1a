"""A request for gRPC is joined by hand, and protobuf reads from it what was put in."""

from __future__ import annotations

import numpy as np
import pytest
from tritonclient.grpc.service_pb2 import ModelInferRequest

from client.grpc_request import encoded_request
from reentry.schema import REENTRY_TRACK


@pytest.mark.parametrize("steps", [1, 2, 3, 400, 60_000])  # 48 bytes to 2.9 MB: lengths of one to four bytes
def test_protobuf_reads_the_tensors_of_a_request(steps: int) -> None:
    length = np.array([[steps]], dtype=np.int32)
    measurements = np.random.default_rng(0).normal(size=(1, steps, 6))
    request = ModelInferRequest.FromString(
        encoded_request(REENTRY_TRACK, {"track_length": length, "measurements": measurements})
    )
    assert request.model_name == "reentry_track"
    assert [(each.name, each.datatype, list(each.shape)) for each in request.inputs] == [
        ("track_length", "INT32", [1, 1]),
        ("measurements", "FP64", [1, steps, 6]),
    ]
    assert list(request.raw_input_contents) == [length.tobytes(), measurements.tobytes()]


def test_values_in_another_layout_or_type_are_converted() -> None:
    measurements = np.asfortranarray(np.arange(24, dtype=np.float32).reshape(2, 2, 6))
    inputs = {"track_length": np.array([[2], [2]], dtype=np.int64), "measurements": measurements}
    request = ModelInferRequest.FromString(encoded_request(REENTRY_TRACK, inputs))
    lengths, values = request.raw_input_contents
    np.testing.assert_array_equal(np.frombuffer(lengths, dtype=np.int32), [2, 2])
    np.testing.assert_array_equal(np.frombuffer(values), np.arange(24))
