"""Encodes inference requests for gRPC.

The message is joined from its parts: protobuf would copy the measurements three times, and that takes about as much
processor time as the rest of the client's work for a request.

Shapes: B tracks, T steps, M measurement columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from tritonclient.grpc import service_pb2
from tritonclient.utils import triton_to_np_dtype

from reentry.schema import Model

METHOD: Final = "/inference.GRPCInferenceService/ModelInfer"
"""Name of the call that takes the request."""

STREAM_METHOD: Final = "/inference.GRPCInferenceService/ModelStreamInfer"
"""Name of the call that takes many requests on one stream."""

_LENGTH_DELIMITED: Final = 2  # type of a field whose value follows its length, in the encoding of protobuf
_ID_TAG: Final = service_pb2.ModelInferRequest.ID_FIELD_NUMBER << 3 | _LENGTH_DELIMITED
_TAG: Final = bytes([service_pb2.ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER << 3 | _LENGTH_DELIMITED])


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceFlags:
    """The place of a request in a sequence of requests."""

    correlation_id: str
    """Identifies the sequence."""
    start: bool = False
    """Whether the sequence begins with this request."""
    end: bool = False
    """Whether the sequence ends with this request."""
    timeout: float | None = None
    """Longest wait for a free slot of the server, s. After it the server refuses the request; otherwise it would keep
    the request although nobody waits any more."""


def encoded_request(
    model: Model, inputs: Mapping[str, npt.NDArray[Any]], *, request_id: str = "", sequence: SequenceFlags | None = None
) -> bytes:
    """Return a ModelInferRequest as its bytes in the encoding of protobuf.

    Args:
        model: the model to use; its inputs are numbers.
        inputs: values by tensor name, such as measurements (B, T, M).
        request_id: text that the answer repeats.
        sequence: the sequence to which the request belongs, if any.
    """
    request = _request(model, request_id, sequence)
    parts: list[bytes | memoryview] = []
    for tensor in model.inputs:
        values = np.ascontiguousarray(inputs[tensor.name], dtype=triton_to_np_dtype(tensor.dtype))
        request.inputs.add(name=tensor.name, datatype=tensor.dtype, shape=values.shape)
        parts += [_TAG, _varint(values.nbytes), values.data]
    return b"".join([request.SerializeToString(), *parts])  # the fields of a message may follow in any order


def row_head(model: Model, sequence: SequenceFlags) -> bytes:
    """Return the part that the requests of a sequence have in common, for a model with one row of FP64 as its input."""
    request = _request(model, "", sequence)
    (columns,) = model.inputs[0].dims
    request.inputs.add(name=model.inputs[0].name, datatype=model.inputs[0].dtype, shape=(1, columns))
    head: bytes = request.SerializeToString()
    return head


def row_request(head: bytes, request_id: str, row: npt.NDArray[np.float64]) -> bytes:
    """Return a request with a head of `row_head`, an id shorter than 128 characters, and a row (M,), M at most 15."""
    identity = request_id.encode()
    return b"%b%c%c%b%b%c%b" % (head, _ID_TAG, len(identity), identity, _TAG, row.nbytes, row.tobytes())


def _request(model: Model, request_id: str, sequence: SequenceFlags | None) -> service_pb2.ModelInferRequest:
    """Return a request without inputs."""
    request = service_pb2.ModelInferRequest(model_name=model.name, id=request_id)
    if sequence is not None:
        request.parameters["sequence_id"].string_param = sequence.correlation_id
        request.parameters["sequence_start"].bool_param = sequence.start
        request.parameters["sequence_end"].bool_param = sequence.end
        if sequence.timeout is not None:
            request.parameters["timeout"].int64_param = round(1e6 * sequence.timeout)
    return request


def _varint(number: int) -> bytes:
    """Encode a number as protobuf does: seven bits in each byte, the lowest first."""
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
