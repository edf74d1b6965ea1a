"""Writing of answers of the KServe protocol."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from tritonclient.http import InferenceServerClient

from gateway.kserve.answers import encode
from gateway.kserve.requests import HEADER_LENGTH, InferRequest, decode
from gateway.problems import Problem
from reentry.schema import ENSEMBLE, ONSET_STEP, ONSET_TIMESTAMP, PROBABILITY, UNLIKE_TRAINING
from tests.unit.gateway.kserve.bodies import arrays, request_body, same

TYPES = {"FP32": np.float32, "FP64": np.float64, "UINT8": np.uint8, "INT32": np.int32, "INT64": np.int64}


def request_of(*, tracks: int = 2, steps: int = 20, **options: Any) -> InferRequest:
    """A request of tritonclient as the gateway reads it."""
    return decode(*request_body(arrays(tracks, steps), **options), ENSEMBLE)


def answer(tracks: int = 2, steps: int = 20) -> dict[str, Any]:
    """Outputs with values that need all digits, and texts that are not ASCII."""
    outputs: dict[str, Any] = {}
    for tensor in ENSEMBLE.outputs:
        shape = (tracks, *(steps if size == -1 else size for size in tensor.dims))
        if tensor.dtype == "STRING":
            outputs[tensor.name] = np.array([[f'["Höhe {n}"]'.encode()] for n in range(tracks)], dtype=np.object_)
        else:
            outputs[tensor.name] = (np.arange(np.prod(shape)).reshape(shape) / 3).astype(TYPES[tensor.dtype])
    return outputs


@pytest.mark.parametrize("binary", [True, False])
def test_tritonclient_reads_the_outputs_to_the_last_bit(binary: bool) -> None:
    outputs = dict.fromkeys((tensor.name for tensor in ENSEMBLE.outputs), binary)
    headers, body = encode(request_of(outputs=outputs, request_id="r-1"), answer(), version="3")
    length = headers.get(HEADER_LENGTH)
    assert (length is None) == (not binary)
    assert headers["content-type"] == ("application/octet-stream" if binary else "application/json")
    result = InferenceServerClient.parse_response_body(body, header_length=int(length) if length else None)
    assert result.get_response()["id"] == "r-1"
    assert result.get_response()["model_name"] == "reentry"
    assert result.get_response()["model_version"] == "3"
    for name, expected in answer().items():
        values = result.as_numpy(name)
        if name == UNLIKE_TRAINING.name and not binary:
            values = np.array([[text.encode()] for text in values[:, 0]], dtype=np.object_)
        assert same(values, expected)


def test_wanted_outputs_come_in_their_order_and_each_in_its_form() -> None:
    request = request_of(outputs={ONSET_STEP.name: False, PROBABILITY.name: True})
    headers, body = encode(request, answer())
    length = int(headers[HEADER_LENGTH])
    head = json.loads(body[:length])
    assert [each["name"] for each in head["outputs"]] == [ONSET_STEP.name, PROBABILITY.name]
    assert head["outputs"][0] == {"name": "onset_step", "datatype": "INT32", "shape": [2, 1], "data": [0, 0]}
    assert head["outputs"][1]["parameters"] == {"binary_data_size": 160}
    assert body[length:] == answer()[PROBABILITY.name].tobytes()
    assert "id" not in head


@pytest.mark.parametrize(
    "faulty",
    [
        {ONSET_TIMESTAMP.name: None},
        {ONSET_TIMESTAMP.name: np.zeros((2, 1), np.float32)},
        {ONSET_TIMESTAMP.name: np.zeros((1, 1))},
        {ONSET_TIMESTAMP.name: np.zeros((2, 2))},
        {ONSET_TIMESTAMP.name: np.array([[b"x"], [b"y"]], dtype=np.object_)},
        {ONSET_TIMESTAMP.name: np.full((2, 1), np.nan)},
    ],
)
def test_an_answer_that_is_not_of_the_model_is_a_problem(faulty: dict[str, Any]) -> None:
    request = request_of(outputs={ONSET_TIMESTAMP.name: False})
    given = {name: values for name, values in (answer() | faulty).items() if values is not None}
    with pytest.raises(Problem) as problem:
        encode(request, given)
    assert (problem.value.code, problem.value.fields["where"]) == ("invalid-answer", ONSET_TIMESTAMP.name)
