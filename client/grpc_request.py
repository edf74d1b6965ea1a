"""Encodes inference requests for gRPC.

The message is joined from its parts: protobuf would copy the measurements three times, and that takes about as much
processor time as the rest of the client's work for a request.

Shapes: B tracks, T steps, M measurement columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from tritonclient.grpc import service_pb2
from tritonclient.utils import triton_to_np_dtype

from reentry.schema import Model

METHOD: Final = "/inference.GRPCInferenceService/ModelInfer"
"""Name of the call that takes the request."""

_LENGTH_DELIMITED: Final = 2  # type of a field whose value follows its length, in the encoding of protobuf
_TAG: Final = bytes([service_pb2.ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER << 3 | _LENGTH_DELIMITED])


def encoded_request(model: Model, inputs: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """Return a ModelInferRequest as its bytes in the encoding of protobuf.

    Args:
        model: the model to use; its inputs are numbers.
        inputs: values by tensor name, such as measurements (B, T, M).
    """
    request = service_pb2.ModelInferRequest(model_name=model.name)
    parts: list[bytes | memoryview] = []
    for tensor in model.inputs:
        values = np.ascontiguousarray(inputs[tensor.name], dtype=triton_to_np_dtype(tensor.dtype))
        request.inputs.add(name=tensor.name, datatype=tensor.dtype, shape=values.shape)
        parts += [_TAG, _varint(values.nbytes), values.data]
    return b"".join([request.SerializeToString(), *parts])  # the fields of a message may follow in any order


def _varint(number: int) -> bytes:
    """Encode a number as protobuf does: seven bits in each byte, the lowest first."""
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
