"""Requests of the KServe protocol, version 2, over HTTP, with its extension for binary tensors.

A body is JSON. With the header Inference-Header-Content-Length only that many of its bytes are, and the binary tensors
follow one after another, each with the parameter `binary_data_size`.

Nothing is allocated by a size that a request only declares. The JSON is read in two passes. The first one keeps shapes
and values of tensors as text. The second one reads the values once the shape is valid and fits the number of values.

Shapes: B tracks, T steps, M measurement columns.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from gateway.problems import Problem
from reentry.schema import (
    CANDIDATE_ENSEMBLE,
    ENSEMBLE,
    LARGEST_REQUEST,
    LONGEST_TRACK,
    MEASUREMENTS,
    REENTRY_FAST,
    TRACK_ID_TENSOR,
    TRACK_LENGTH,
    Model,
    Tensor,
)
from reentry.triton.checks import require_measurements

Array = npt.NDArray[Any]

HEADER_LENGTH: Final = "inference-header-content-length"
"""Header with the number of bytes of the JSON in front of binary tensors."""
MODELS: Final[Mapping[str, Model]] = {model.name: model for model in (ENSEMBLE, REENTRY_FAST, CANDIDATE_ENSEMBLE)}
"""Models that the protocol reaches, by name."""

DTYPES: Final = {
    name: np.dtype(code)
    for name, code in {"FP32": "<f4", "FP64": "<f8", "UINT8": "u1", "INT32": "<i4", "INT64": "<i8"}.items()
}
"""numpy type of each datatype of numbers."""
_MOST_OBJECTS: Final = 64
"""JSON objects of a request. One with all tensors of a model, and their parameters, has at most 26."""
_LONGEST_SHAPE: Final = 128
"""Characters of a shape."""

_FIX: Final = (
    "use only the parameters binary_data_size, binary_data and binary_data_output; shared memory, sequences, "
    "priorities, timeouts and classification are not available"
)


class _InputParameters(msgspec.Struct, forbid_unknown_fields=True):
    binary_data_size: Annotated[int, msgspec.Meta(ge=0)] | None = None


class _Input(msgspec.Struct):
    name: str
    datatype: str
    shape: msgspec.Raw
    parameters: _InputParameters = msgspec.field(default_factory=_InputParameters)
    data: msgspec.Raw = msgspec.Raw()


class _OutputParameters(msgspec.Struct, forbid_unknown_fields=True):
    binary_data: bool | None = None


class _Output(msgspec.Struct):
    name: str
    parameters: _OutputParameters = msgspec.field(default_factory=_OutputParameters)


class _Parameters(msgspec.Struct, forbid_unknown_fields=True):
    binary_data_output: bool = False


class _Request(msgspec.Struct):
    inputs: list[_Input]
    outputs: list[_Output] = msgspec.field(default_factory=list)
    id: Annotated[str, msgspec.Meta(max_length=1_000)] = ""
    parameters: _Parameters = msgspec.field(default_factory=_Parameters)


_REQUEST: Final = msgspec.json.Decoder(_Request)
_SHAPE: Final = msgspec.json.Decoder(list[int])
_INT32 = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)]
_INT64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_VALUES: Final[Mapping[tuple[str, int], msgspec.json.Decoder[Any]]] = {
    ("INT32", 1): msgspec.json.Decoder(list[_INT32]),
    ("INT32", 2): msgspec.json.Decoder(list[list[_INT32]]),
    ("INT64", 1): msgspec.json.Decoder(list[_INT64]),
    ("INT64", 2): msgspec.json.Decoder(list[list[_INT64]]),
    ("FP64", 1): msgspec.json.Decoder(list[float]),
    ("FP64", 3): msgspec.json.Decoder(list[list[list[float]]]),
}
"""Decoders of a tensor's values in JSON, by datatype and depth of the lists: flat, or nested as the shape says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InferRequest:
    """A request whose inputs have the names, types, shapes and values that the model requires."""

    model: Model
    request_id: str
    """Id that the answer repeats; empty if the request has none."""
    inputs: Mapping[str, Array]
    """Read-only or writable views of the body by tensor name, which may not be aligned in memory."""
    outputs: tuple[tuple[Tensor, bool], ...]
    """Outputs to answer with, and whether each one is binary."""

    @property
    def tracks(self) -> int:
        """Number of tracks."""
        return len(self.measurements)

    @property
    def steps(self) -> int:
        """Number of steps of all tracks, padding included."""
        tracks, steps = self.measurements.shape[:2]
        return tracks * steps

    @property
    def measurements(self) -> npt.NDArray[np.float64]:
        """Measurements, (B, T, M)."""
        return self.inputs[MEASUREMENTS.name]

    @property
    def track_length(self) -> npt.NDArray[np.int32]:
        """Number of steps of each track, (B, 1)."""
        return self.inputs[TRACK_LENGTH.name]

    @property
    def track_id(self) -> npt.NDArray[np.int64]:
        """Id of each track, (B, 1)."""
        return self.inputs[TRACK_ID_TENSOR.name]


def decode(
    body: bytes | bytearray, header_length: str | None, model: Model, *, max_batch: int = LARGEST_REQUEST
) -> InferRequest:
    """Read a request.

    Args:
        body: the whole body.
        header_length: value of the header `HEADER_LENGTH`; None if it is missing.
        model: the model of the path.
        max_batch: largest number of tracks that the served model takes in one request.

    Raises:
        Problem: the request is invalid.
    """
    view = memoryview(body)
    at = _json_length(header_length, len(view))
    request = _parsed(body, at)
    declared = _by_name([each.name for each in request.inputs], [tensor.name for tensor in model.inputs], "inputs")
    if missing := [tensor.name for tensor in model.inputs if tensor.name not in declared]:
        raise _invalid("missing inputs", where="inputs", expected=_names(model.inputs), got=f"no {', '.join(missing)}")
    tensors = {tensor.name: tensor for tensor in model.inputs}
    inputs: dict[str, Array] = {}
    tracks = None
    for each in request.inputs:
        tensor, where = tensors[each.name], f"input {each.name}"
        shape = _shape(each, tensor, where, max_batch)
        if tracks is not None and shape[0] != tracks:
            raise _invalid("inputs of different batch size", where=where, expected=str(tracks), got=str(shape[0]))
        tracks = shape[0]
        if (size := each.parameters.binary_data_size) is None:
            inputs[each.name] = _listed_values(each, tensor, shape, where)
            continue
        if len(each.data):
            raise _invalid("values given twice", where=where, expected="data or binary_data_size", got="both")
        count = math.prod(shape)
        dtype = DTYPES[tensor.dtype]
        if size != count * dtype.itemsize:
            raise _invalid(
                "binary_data_size does not match the shape",
                where=where,
                expected=f"{count * dtype.itemsize:,} bytes for {shape} of {tensor.dtype}",
                got=f"{size:,}",
            )
        if size > len(view) - at:
            raise _invalid(
                "the body is too short",
                where=where,
                expected=f"{size:,} bytes of the tensor",
                got=f"{len(view) - at:,}",
            )
        inputs[each.name] = np.frombuffer(view, dtype, count, at).reshape(shape)
        at += size
    if at != len(view):
        raise _invalid(
            "bytes after the last tensor",
            where="body",
            expected=f"{at:,} bytes",
            got=f"{len(view):,}",
            fix=f"give the parameter binary_data_size of each binary tensor, and {HEADER_LENGTH} for the JSON",
        )
    try:
        require_measurements(inputs[MEASUREMENTS.name], inputs[TRACK_LENGTH.name][:, 0])
    except ValueError as error:
        raise _invalid("invalid tracks", where="inputs", got=str(error)) from error
    return InferRequest(model=model, request_id=request.id, inputs=inputs, outputs=_outputs(request, model))


def _json_length(header: str | None, size: int) -> int:
    """Return the number of bytes of the JSON."""
    if header is None:
        return size
    if not (header.isascii() and header.isdigit() and len(header) < 20 and int(header) <= size):
        raise _invalid(
            "invalid header",
            where=HEADER_LENGTH,
            expected=f"a whole number up to {size:,}, the bytes of the body",
            got=repr(header[:100]),
        )
    return int(header)


def _parsed(body: bytes | bytearray, length: int) -> _Request:
    """Parse the JSON without the shapes and values of the tensors."""
    if body.count(b"{", 0, length) > _MOST_OBJECTS:
        raise _invalid("too many JSON objects", where="body", expected=f"at most {_MOST_OBJECTS}", got="more")
    try:
        return _REQUEST.decode(memoryview(body)[:length])
    except msgspec.ValidationError as error:
        raise _invalid(
            "the JSON is not an inference request",
            where="body",
            expected="inputs with name, datatype, shape and data or the parameter binary_data_size",
            got=str(error),
            fix=_FIX,
        ) from error
    except (msgspec.DecodeError, RecursionError) as error:
        binary = None if length < len(body) else f"with binary tensors, send the header {HEADER_LENGTH}"
        raise _invalid("the body is not JSON", where="body", got=str(error), fix=binary) from error


def _shape(given: _Input, tensor: Tensor, where: str, max_batch: int) -> tuple[int, ...]:
    """Return the shape of an input, which is that of its tensor and of an allowed size."""
    if given.datatype != tensor.dtype:
        raise _invalid("wrong datatype", where=where, expected=tensor.dtype, got=repr(given.datatype[:100]))
    text = bytes(memoryview(given.shape)[: _LONGEST_SHAPE + 1])
    try:
        shape = tuple(_SHAPE.decode(text)) if len(text) <= _LONGEST_SHAPE else ()
    except (msgspec.MsgspecError, RecursionError):
        shape = ()
    has_steps = tensor.dims[0] == -1
    fits = shape[1:] == tensor.dims
    if has_steps:
        fits = shape[2:] == tensor.dims[1:] and 1 <= shape[1] <= LONGEST_TRACK
    if not fits or not 1 <= shape[0] <= max_batch or (has_steps and shape[0] * shape[1] > LARGEST_REQUEST):
        sizes = ", ".join("T" if size == -1 else str(size) for size in tensor.dims)
        limits = f"B from 1 to {max_batch:,}"
        if has_steps:
            limits += f", T from 1 to {LONGEST_TRACK:,}, B x T at most {LARGEST_REQUEST:,}"
        raise _invalid(
            "wrong shape",
            where=where,
            expected=f"[B, {sizes}], {limits}",
            got=text.decode(errors="replace"),
            fix="send fewer tracks at once" if fits else None,
        )
    return shape


def _listed_values(given: _Input, tensor: Tensor, shape: tuple[int, ...], where: str) -> Array:
    """Read values in JSON, as a flat list or nested as the shape says."""
    text = memoryview(given.data)
    if not text:
        raise _invalid("no values", where=where, expected="data, or the parameter binary_data_size", got="neither")
    count = math.prod(shape)
    content = bytes(text)
    nested = content.find(b"[", content.find(b"[") + 1) != -1
    lists = sum(math.prod(shape[:axis]) for axis in range(len(shape))) if nested else 1
    # Checked before the lists are made, whose objects need far more memory than their text.
    expected = f"{count:,} numbers for the shape {list(shape)}, in one list or in lists nested as the shape says"
    if content.count(b",") != count - 1 or content.count(b"[") != lists:
        raise _invalid("data does not match the shape", where=where, expected=expected, got="another number of values")
    try:
        values = _VALUES[tensor.dtype, len(shape) if nested else 1].decode(content)
        array = np.array(values, DTYPES[tensor.dtype])
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise _invalid("invalid data", where=where, expected=expected, got=str(error)) from error
    if array.shape != shape and (nested or array.size != count):
        raise _invalid("data does not match the shape", where=where, expected=expected, got=str(list(array.shape)))
    return array.reshape(shape)


def _outputs(request: _Request, model: Model) -> tuple[tuple[Tensor, bool], ...]:
    binary = request.parameters.binary_data_output
    if not request.outputs:
        return tuple((tensor, binary) for tensor in model.outputs)
    tensors = {tensor.name: tensor for tensor in model.outputs}
    _by_name([each.name for each in request.outputs], list(tensors), "outputs")
    return tuple(
        (tensors[each.name], binary if each.parameters.binary_data is None else each.parameters.binary_data)
        for each in request.outputs
    )


def _by_name(given: list[str], known: list[str], where: str) -> set[str]:
    """Return the names, each of which is known and given once."""
    for name in given:
        if name not in known:
            raise _invalid(f"unknown {where[:-1]}", where=where, expected=", ".join(known), got=repr(name[:100]))
    names = set(given)
    if len(names) != len(given):
        twice = next(name for name in given if given.count(name) > 1)
        raise _invalid(f"{where[:-1]} given twice", where=where, expected="each name once", got=twice)
    return names


def _invalid(
    detail: str, *, where: str, expected: str | None = None, got: str | None = None, fix: str | None = None
) -> Problem:
    return Problem("invalid-request", detail, where=where, expected=expected, got=got, fix=fix)


def _names(tensors: tuple[Tensor, ...]) -> str:
    return ", ".join(tensor.name for tensor in tensors)
