"""Requests and answers of each protocol over HTTP. Every request carries one whole track.

Shapes: B tracks, T steps, M measurement columns.
"""

from __future__ import annotations

import base64
import http.client
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from perf.peers.apps.track_bytes import DTYPES, MEDIA_TYPE, Array, pack_measurements, unpack_answer
from reentry.errors import ClientError
from reentry.schema import MEASUREMENTS, REENTRY_TRACK, TRACK_ID_TENSOR, TRACK_LENGTH, Model

JSON_TYPE: Final = "application/json"

_HEADER_LENGTH: Final = "inference-header-content-length"


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """One HTTP request by POST, without its path."""

    headers: dict[str, str]
    body: bytes


class Protocol(ABC):
    """A way to send a track and to read the answer."""

    body: str
    """Format of the bodies, as the report names it."""
    path: str
    """Path of the URL."""

    @abstractmethod
    def request(self, measurements: Array) -> HttpRequest:
        """Measurements of one track (T, M) -> request."""

    @abstractmethod
    def answer(self, headers: Mapping[str, str], content: bytes, steps: int) -> dict[str, Array]:
        """Headers and body of a response -> outputs of `schema.REENTRY_TRACK` by name, for a track of `steps` steps.

        The names of the headers are in lower case.

        Raises:
            ValueError: the response has another format.
            KeyError: the response lacks an output.
        """


class RawBytes(Protocol):
    """The bytes of `track_bytes`."""

    body = "binary"
    path = "/binary"

    def request(self, measurements: Array) -> HttpRequest:
        """See `Protocol.request`."""
        return HttpRequest({"Content-Type": MEDIA_TYPE}, pack_measurements(measurements))

    def answer(self, headers: Mapping[str, str], content: bytes, steps: int) -> dict[str, Array]:  # noqa: ARG002
        """See `Protocol.answer`."""
        return unpack_answer(content, steps)


class PlainJson(Protocol):
    """JSON objects: `measurements` as a list of rows, and each output as a list."""

    body = "JSON"
    path = "/json"

    def request(self, measurements: Array) -> HttpRequest:
        """See `Protocol.request`."""
        body = json.dumps({MEASUREMENTS.name: measurements.tolist()}).encode()
        return HttpRequest({"Content-Type": JSON_TYPE}, body)

    def answer(self, headers: Mapping[str, str], content: bytes, steps: int) -> dict[str, Array]:  # noqa: ARG002
        """See `Protocol.answer`."""
        answer = json.loads(content)
        return {tensor.name: np.array([answer[tensor.name]], DTYPES[tensor.dtype]) for tensor in REENTRY_TRACK.outputs}


class KServeBinary(Protocol):
    """The binary tensors of the KServe protocol, version 2, for a model in Triton."""

    body = "binary (KServe)"

    def __init__(self, model: Model) -> None:
        self.path = f"/v2/models/{model.name}/infer"
        self._inputs = {tensor.name for tensor in model.inputs}

    def request(self, measurements: Array) -> HttpRequest:
        """See `Protocol.request`."""
        from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput

        values: dict[str, tuple[str, Array]] = {
            TRACK_ID_TENSOR.name: (TRACK_ID_TENSOR.dtype, np.zeros((1, 1), np.int64)),
            TRACK_LENGTH.name: (TRACK_LENGTH.dtype, np.array([[len(measurements)]], np.int32)),
            MEASUREMENTS.name: (MEASUREMENTS.dtype, measurements[None]),
        }
        inputs = []
        for name in self._inputs:
            dtype, array = values[name]
            inputs.append(InferInput(name, list(array.shape), dtype))
            inputs[-1].set_data_from_numpy(array)
        outputs = [InferRequestedOutput(tensor.name, binary_data=True) for tensor in REENTRY_TRACK.outputs]
        body, header_length = InferenceServerClient.generate_request_body(inputs, outputs)
        return HttpRequest({"Content-Type": MEDIA_TYPE, _HEADER_LENGTH: str(header_length)}, bytes(body))

    def answer(self, headers: Mapping[str, str], content: bytes, steps: int) -> dict[str, Array]:  # noqa: ARG002
        """See `Protocol.answer`."""
        from tritonclient.http import InferenceServerClient

        result = InferenceServerClient.parse_response_body(content, header_length=int(headers[_HEADER_LENGTH]))
        answer = {}
        for tensor in REENTRY_TRACK.outputs:
            values = result.as_numpy(tensor.name)
            if values is None:
                raise KeyError(tensor.name)
            answer[tensor.name] = values
        return answer


class KServeBase64(Protocol):
    """The JSON of the KServe protocol, version 2, with the bytes of `track_bytes` as one Base64 text each way."""

    body = "Base64 in JSON (KServe)"

    def __init__(self, model: str) -> None:
        self.path = f"/v2/models/{model}/infer"

    def request(self, measurements: Array) -> HttpRequest:
        """See `Protocol.request`."""
        text = base64.b64encode(pack_measurements(measurements)).decode("ascii")
        body: dict[str, Any] = {"inputs": [{"name": "track", "shape": [1], "datatype": "BYTES", "data": [text]}]}
        return HttpRequest({"Content-Type": JSON_TYPE}, json.dumps(body).encode())

    def answer(self, headers: Mapping[str, str], content: bytes, steps: int) -> dict[str, Array]:  # noqa: ARG002
        """See `Protocol.answer`."""
        return unpack_answer(base64.b64decode(json.loads(content)["outputs"][0]["data"][0]), steps)


def ask(port: int, protocol: Protocol, measurements: Array, *, timeout: float) -> dict[str, Array]:
    """Score the measurements of one track (T, M) and return the outputs by name.

    Raises:
        ClientError: the server answered with an error, or with something else than the outputs.
        OSError: the server is unreachable, or did not answer in time.
        http.client.HTTPException: the server closed the connection.
    """
    request = protocol.request(measurements)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("POST", protocol.path, request.body, request.headers)
        response = connection.getresponse()
        content = response.read()
        if response.status != http.client.OK:
            raise ClientError(f"HTTP status {response.status}", got=content[:300].decode(errors="replace"))
        try:
            headers = {name.lower(): value for name, value in response.headers.items()}
            return protocol.answer(headers, content, len(measurements))
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise ClientError(f"an answer of another format: {type(error).__name__}: {error}") from error
    finally:
        connection.close()
