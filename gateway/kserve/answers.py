"""Answers of the KServe protocol, version 2, over HTTP, with its extension for binary tensors.

Shapes: B tracks, T steps.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, Final

import msgspec
import numpy as np

from gateway.kserve.requests import DTYPES, HEADER_LENGTH, Array, InferRequest
from gateway.problems import Problem
from reentry.schema import Tensor

_DATATYPES: Final = {"STRING": "BYTES"}
"""Names of the protocol for Triton's types, where they differ."""
_TEXT: Final = np.dtype(np.object_)


def encode(request: InferRequest, answer: Mapping[str, Array], *, version: str = "1") -> tuple[dict[str, str], bytes]:
    """Return headers and body of an answer.

    Args:
        request: the request that is answered.
        answer: outputs of the model by tensor name.
        version: version of the model in the server, which is not the version of the network.

    Raises:
        Problem: the answer is not one of the model.
    """
    for tensor in request.model.outputs:  # all of them, because the inference log reads some
        _require(request, tensor, answer)
    tensors: list[dict[str, Any]] = []
    parts: list[bytes] = []
    for tensor, binary in request.outputs:
        values = answer[tensor.name]
        described: dict[str, Any] = {
            "name": tensor.name,
            "datatype": _DATATYPES.get(tensor.dtype, tensor.dtype),
            "shape": values.shape,
        }
        if binary:
            parts.append(_serialized(values))
            described["parameters"] = {"binary_data_size": len(parts[-1])}
        else:
            described["data"] = _texts(values) if values.dtype == _TEXT else _numbers(tensor, values)
        tensors.append(described)
    content: dict[str, Any] = {"id": request.request_id} if request.request_id else {}
    content |= {"model_name": request.model.name, "model_version": version, "outputs": tensors}
    head = msgspec.json.encode(content)
    if not parts:
        return {"content-type": "application/json"}, head
    headers = {"content-type": "application/octet-stream", HEADER_LENGTH: str(len(head))}
    return headers, b"".join((head, *parts))


def _require(request: InferRequest, tensor: Tensor, answer: Mapping[str, Array]) -> None:
    tracks, steps = request.measurements.shape[:2]
    shape = (tracks, *(steps if size == -1 else size for size in tensor.dims))
    dtype = DTYPES.get(tensor.dtype, _TEXT)
    values = answer.get(tensor.name)
    if values is None or values.shape != shape or values.dtype != dtype:
        got = "no such output" if values is None else f"shape {values.shape} of {values.dtype}"
        raise _faulty_answer(tensor, f"shape {shape} of {dtype}", got)


def _serialized(values: Array) -> bytes:
    """Bytes of a tensor; a text follows its length."""
    if values.dtype != _TEXT:
        return values.tobytes()
    return b"".join(struct.pack("<I", len(text)) + text for text in map(_bytes, values.ravel().tolist()))


def _texts(values: Array) -> list[str]:
    return [_bytes(text).decode(errors="replace") for text in values.ravel().tolist()]


def _bytes(text: bytes | str) -> bytes:
    return text.encode() if isinstance(text, str) else text


def _numbers(tensor: Tensor, values: Array) -> list[Any]:
    if not np.isfinite(values).all():  # JSON has no NaN
        raise _faulty_answer(tensor, "finite numbers", "a value that is not finite")
    numbers: list[Any] = values.ravel().tolist()
    return numbers


def _faulty_answer(tensor: Tensor, expected: str, got: str) -> Problem:
    return Problem("invalid-answer", "invalid answer of Triton", where=tensor.name, expected=expected, got=got)
