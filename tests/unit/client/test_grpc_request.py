"""A request for gRPC is joined by hand, and protobuf reads from it what was put in."""

from __future__ import annotations

import numpy as np
import pytest
from tritonclient.grpc.service_pb2 import ModelInferRequest

from client.grpc_request import SequenceFlags, encoded_request, row_head, row_request
from reentry.schema import REENTRY_SCAN, REENTRY_STREAM, REENTRY_TRACK


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


@pytest.mark.parametrize("rows", [0, 1, 10_000])
def test_a_request_of_a_sequence_has_its_flags_and_its_id(rows: int) -> None:
    inputs = {"track_id": np.arange(rows), "measurements": np.ones((rows, 6))}
    flags = SequenceFlags(correlation_id="radar-3", start=True)
    request = ModelInferRequest.FromString(encoded_request(REENTRY_SCAN, inputs, request_id="17", sequence=flags))
    assert (request.model_name, request.id) == ("reentry_scan", "17")
    assert request.parameters["sequence_id"].string_param == "radar-3"
    assert request.parameters["sequence_start"].bool_param
    assert not request.parameters["sequence_end"].bool_param
    assert [list(each.shape) for each in request.inputs] == [[rows], [rows, 6]]
    assert [len(content) for content in request.raw_input_contents] == [8 * rows, 48 * rows]


def test_a_request_of_one_row_is_the_head_of_its_sequence_with_an_id_and_the_row() -> None:
    row = np.arange(6.0)
    for flags in (SequenceFlags(correlation_id="radar-3/7"), SequenceFlags(correlation_id="x" * 500, end=True)):
        joined = row_request(row_head(REENTRY_STREAM, flags), "4711", row)
        (tensor,) = ModelInferRequest.FromString(joined).inputs
        assert (tensor.name, list(tensor.shape)) == ("measurement", [1, 6])
        request = ModelInferRequest.FromString(joined)
        assert (request.model_name, request.id) == ("reentry_stream", "4711")
        assert request.parameters["sequence_id"].string_param == flags.correlation_id
        assert request.parameters["sequence_end"].bool_param == flags.end
        assert list(request.raw_input_contents) == [row.tobytes()]
