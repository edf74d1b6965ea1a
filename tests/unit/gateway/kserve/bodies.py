"""Requests of the KServe protocol for tests: valid ones made by tritonclient, and hostile ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput

from client.batching import RequestBatch
from perf.scoring import draw_flights
from reentry.schema import ENSEMBLE, MEASUREMENTS, TRACK_ID_TENSOR, TRACK_LENGTH


def arrays(tracks: int = 1, steps: int = 50) -> dict[str, Any]:
    """Inputs of simulated tracks by tensor name."""
    batch = RequestBatch(tuple(draw_flights(tracks, max(steps, 10), seed=tracks)))
    return {
        TRACK_ID_TENSOR.name: batch.track_ids(),
        TRACK_LENGTH.name: np.minimum(batch.lengths(), np.int32(steps)),
        MEASUREMENTS.name: np.ascontiguousarray(batch.measurements()[:, :steps]),
    }


def infer_inputs(values: dict[str, Any], *, binary: bool = True) -> list[InferInput]:
    """Inputs for tritonclient."""
    inputs = []
    for tensor in ENSEMBLE.inputs:
        inputs.append(InferInput(tensor.name, list(values[tensor.name].shape), tensor.dtype))
        inputs[-1].set_data_from_numpy(values[tensor.name], binary_data=binary)
    return inputs


def request_body(
    values: dict[str, Any], *, binary: bool = True, outputs: dict[str, bool] | None = None, **options: Any
) -> tuple[bytes, str | None]:
    """Body and header of a request as tritonclient makes it; `outputs` are the wanted ones, and whether binary."""
    wanted = [InferRequestedOutput(name, binary_data=flag) for name, flag in (outputs or {}).items()]
    body, length = InferenceServerClient.generate_request_body(
        infer_inputs(values, binary=binary), wanted or None, **options
    )
    return bytes(body), None if length is None else str(length)


def content(tracks: int = 1, steps: int = 2) -> dict[str, Any]:
    """A small valid request as JSON, to be spoiled."""
    body, _ = request_body(arrays(tracks, steps), binary=False)
    return {"inputs": json.loads(body)["inputs"]}


def input_of(request: dict[str, Any], name: str) -> dict[str, Any]:
    """One input of a request in JSON."""
    found: dict[str, Any] = next(each for each in request["inputs"] if each["name"] == name)
    return found


def spoiled(tensor: str, **changes: Any) -> bytes:
    """A request with one input changed."""
    request = content()
    input_of(request, tensor).update(changes)
    return json.dumps(request).encode()


def bombs() -> Iterator[tuple[str, bytes, str | None]]:
    """Names, bodies and headers of requests that try to exhaust a server."""
    huge = 2**62
    flat = b"[" + b"0," * 4_000_000 + b"0]"
    tensor = b'{"name":"measurements","datatype":"FP64","shape":[1,2,6],"data":%b}'
    yield "lists nested deep", b"[" * 200_000 + b"]" * 200_000, None
    yield "inputs nested deep", b'{"inputs":' + b"[" * 200_000, None
    yield "objects nested deep", b'{"x":' + b'{"a":' * 200_000 + b"1" + b"}" * 200_000 + b',"inputs":[]}', None
    yield "an unknown member nested deep", b'{"x":' + b"[" * 200_000 + b"]" * 200_000 + b',"inputs":[]}', None
    yield "a shape nested deep", b'{"inputs":[%b]}' % tensor.replace(b"[1,2,6]", b"[" * 9_000 + b"]" * 9_000), None
    yield "values nested deep", b'{"inputs":[%b]}' % (tensor % (b"[" * 200_000 + b"]" * 200_000)), None
    yield "a long list of values", b'{"inputs":[%b]}' % (tensor % flat), None
    yield "empty lists as values", b'{"inputs":[%b]}' % (tensor % (b"[" + b"[]," * 3_000_000 + b"[]]")), None
    yield "a long number", b'{"inputs":[%b]}' % (tensor % (b"[" + b"9" * 8_000_000 + b"]")), None
    yield "a long fraction", b'{"inputs":[%b]}' % (tensor % (b"[0." + b"0" * 8_000_000 + b"1]")), None
    yield "a long shape", b'{"inputs":[%b]}' % (tensor.replace(b"[1,2,6]", flat) % b"[]"), None
    yield "many inputs", b'{"inputs":[' + b'{"name":"a","datatype":"b","shape":[]},' * 200_000 + b"{}]}", None
    yield "many outputs", b'{"inputs":[],"outputs":[' + b'{"name":"a"},' * 400_000 + b"{}]}", None
    yield "many parameters", b'{"inputs":[],"parameters":{' + b'"a":1,' * 1_000_000 + b'"b":1}}', None
    yield "a long name", b'{"inputs":[{"name":"' + b"a" * 8_000_000 + b'","datatype":"b","shape":[]}]}', None
    yield "a long id", b'{"inputs":[],"id":"' + b"a" * 8_000_000 + b'"}', None
    yield "escapes", b'{"inputs":[],"id":"' + b"\\u0041" * 1_000_000 + b'"}', None
    yield "spaces", b" " * 8_000_000, None
    for name, shape in (
        ("huge tracks", [huge, 2, 6]),
        ("huge steps", [1, huge, 6]),
        ("huge columns", [1, 2, huge]),
        ("a product that overflows", [2**32, 2**32, 6]),
        ("a product of 0 after an overflow", [2**32, 2**31, 2]),
        ("steps of LONGEST_TRACK in many tracks", [64, 100_000, 6]),
    ):
        for parameters in ({"binary_data_size": 96}, {"binary_data_size": huge}, {"binary_data_size": 0}):
            request = content()
            given = input_of(request, "measurements")
            del given["data"]
            given.update(shape=shape, parameters=parameters)
            text = json.dumps(request).encode()
            yield f"{name}, {parameters}", text + bytes(96), str(len(text))
        yield f"{name}, in JSON", spoiled("measurements", shape=shape), None


def same(one: Any, other: Any) -> bool:
    """Whether two arrays have the same type, shape and bits."""
    return one.dtype == other.dtype and one.shape == other.shape and np.array_equal(one, other)
