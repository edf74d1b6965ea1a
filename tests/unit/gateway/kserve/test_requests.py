"""Reading of requests of the KServe protocol."""

from __future__ import annotations

import json
import time
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.kserve.requests import InferRequest, decode
from gateway.problems import Problem
from reentry.schema import (
    ENSEMBLE,
    LARGEST_REQUEST,
    LONGEST_TRACK,
    MEASUREMENTS,
    ONSET_STEP,
    PROBABILITY,
    REENTRY_FAST,
    TRACK_ID_TENSOR,
    TRACK_LENGTH,
)
from tests.unit.gateway.kserve.bodies import arrays, bombs, content, input_of, request_body, same, spoiled


def problem_of(body: bytes, header: str | None = None, **options: Any) -> Problem:
    """The problem of a request that is refused."""
    with pytest.raises(Problem) as caught:
        decode(body, header, ENSEMBLE, **options)
    assert caught.value.code == "invalid-request"
    return caught.value


def fields(problem: Problem) -> str:
    """All texts of a problem."""
    return "; ".join(str(value) for value in problem.fields.values())


def changed(**changes: Any) -> bytes:
    """The small valid request with members changed."""
    return json.dumps(content() | changes).encode()


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize(("tracks", "steps"), [(1, 50), (3, 70)])
def test_a_request_of_tritonclient_is_read_to_the_last_bit(binary: bool, tracks: int, steps: int) -> None:
    values = arrays(tracks, steps)
    body, header = request_body(values, binary=binary, request_id="r-1")
    request = decode(body, header, ENSEMBLE)
    assert request.request_id == "r-1"
    assert same(request.measurements, values[MEASUREMENTS.name])
    assert same(request.track_length, values[TRACK_LENGTH.name])
    assert same(request.track_id, values[TRACK_ID_TENSOR.name])


def test_binary_tensors_are_views_of_the_body() -> None:
    body, header = request_body(arrays())
    content = bytearray(body)
    request = decode(content, header, ENSEMBLE)
    content[-24] ^= 1  # the intensity of the last step, which the last tensor ends with
    assert not np.array_equal(request.measurements, arrays()[MEASUREMENTS.name])
    assert all(not values.flags.owndata for values in request.inputs.values())


def test_values_in_json_may_be_nested_as_the_shape_says() -> None:
    request = content(tracks=2, steps=3)
    for each in request["inputs"]:
        each["data"] = np.array(each["data"]).reshape(each["shape"]).tolist()
    read = decode(json.dumps(request, indent=1).encode(), None, ENSEMBLE)
    assert same(read.measurements, arrays(2, 3)[MEASUREMENTS.name])
    assert same(read.track_id, arrays(2, 3)[TRACK_ID_TENSOR.name])


def test_binary_and_listed_inputs_may_be_mixed() -> None:
    values = arrays()
    request = content(steps=50)
    measurements = input_of(request, MEASUREMENTS.name)
    del measurements["data"]
    measurements["parameters"] = {"binary_data_size": values[MEASUREMENTS.name].nbytes}
    text = json.dumps(request).encode()
    read = decode(text + values[MEASUREMENTS.name].tobytes(), str(len(text)), ENSEMBLE)
    assert same(read.measurements, values[MEASUREMENTS.name])


def test_without_wanted_outputs_all_are_given_and_the_flag_of_the_request_counts() -> None:
    for flag in (True, False):
        request = decode(changed(parameters={"binary_data_output": flag}), None, ENSEMBLE)
        assert request.outputs == tuple((tensor, flag) for tensor in ENSEMBLE.outputs)
    assert not any(binary for _, binary in decode(changed(), None, ENSEMBLE).outputs)


def test_wanted_outputs_come_in_their_order_and_each_flag_counts_before_that_of_the_request() -> None:
    wanted = [{"name": ONSET_STEP.name, "parameters": {"binary_data": False}}, {"name": PROBABILITY.name}]
    for flag in (True, False):
        request = decode(changed(outputs=wanted, parameters={"binary_data_output": flag}), None, ENSEMBLE)
        assert request.outputs == ((ONSET_STEP, False), (PROBABILITY, flag))


def test_an_unknown_member_is_ignored() -> None:
    assert decode(changed(model_name="x"), None, ENSEMBLE).request_id == ""


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        ({"sequence_id": 1, "sequence_start": True}, "sequence_id"),
        ({"priority": 1}, "priority"),
        ({"timeout": 1}, "timeout"),
        ({"anything": "x"}, "anything"),
    ],
)
def test_a_parameter_of_the_request_that_has_no_effect_is_refused(parameters: dict[str, Any], name: str) -> None:
    problem = problem_of(changed(parameters=parameters))
    assert name in (problem.fields["got"] or "")
    assert "binary_data_output" in (problem.fields["fix"] or "")


@pytest.mark.parametrize("name", ["shared_memory_region", "shared_memory_byte_size", "shared_memory_offset"])
def test_shared_memory_is_refused_for_inputs_and_outputs(name: str) -> None:
    for body in (
        spoiled(MEASUREMENTS.name, parameters={name: 1}),
        changed(outputs=[{"name": PROBABILITY.name, "parameters": {name: 1}}]),
    ):
        assert name in (problem_of(body).fields["got"] or "")


def test_classification_is_refused() -> None:
    wanted = [{"name": PROBABILITY.name, "parameters": {"classification": 3}}]
    assert "classification" in fields(problem_of(changed(outputs=wanted)))


@pytest.mark.parametrize("tensor", [TRACK_ID_TENSOR.name, TRACK_LENGTH.name, MEASUREMENTS.name])
def test_a_missing_input_is_named(tensor: str) -> None:
    request = content()
    request["inputs"] = [each for each in request["inputs"] if each["name"] != tensor]
    assert problem_of(json.dumps(request).encode()).fields["got"] == f"no {tensor}"


def test_an_unknown_or_repeated_name_is_refused() -> None:
    request = content()
    assert "'speed'" in fields(problem_of(spoiled(TRACK_LENGTH.name, name="speed")))
    assert "given twice" in fields(problem_of(changed(inputs=[*request["inputs"], request["inputs"][0]])))
    assert "'speed'" in fields(problem_of(changed(outputs=[{"name": "speed"}])))
    assert "given twice" in fields(problem_of(changed(outputs=[{"name": PROBABILITY.name}] * 2)))


def test_outputs_are_those_of_the_model() -> None:
    wanted = changed(outputs=[{"name": "unlike_training"}])
    assert decode(wanted, None, ENSEMBLE).outputs[0][0].name == "unlike_training"
    with pytest.raises(Problem, match="unknown output"):
        decode(wanted, None, REENTRY_FAST)


@pytest.mark.parametrize(
    "shape",
    [
        *([1, 2, 5], [1, 2], [1, 2, 6, 1], [], [0, 2, 6], [1, 0, 6], [-1, 2, 6], [1, -2, 6], [1, 2, -6], [-1, -2, 6]),
        *([1.0, 2, 6], ["1", 2, 6], [True, 2, 6], [None, 2, 6], [[1], 2, 6], [2**62, 2, 6], [2**200, 2, 6]),
        *([1, LONGEST_TRACK + 1, 6], [64, 4_097, 6], None, "1,2,6", 12, {"0": 1}, 1.5),
    ],
)
def test_a_shape_that_the_model_does_not_have_is_refused(shape: object) -> None:
    problem = problem_of(spoiled(MEASUREMENTS.name, shape=shape))
    assert problem.fields["where"] == "input measurements"
    assert f"B x T at most {LARGEST_REQUEST:,}" in (problem.fields["expected"] or "")


def test_more_tracks_than_the_served_model_takes_are_refused() -> None:
    body, header = request_body(arrays(3, 10))
    assert decode(body, header, ENSEMBLE, max_batch=3).measurements.shape == (3, 10, 6)
    assert "B from 1 to 2" in fields(problem_of(body, header, max_batch=2))


def test_inputs_of_different_batch_size_are_refused() -> None:
    assert "different batch size" in fields(problem_of(spoiled(TRACK_ID_TENSOR.name, shape=[2, 1], data=[1, 2])))


@pytest.mark.parametrize("datatype", ["FP32", "BYTES", "fp64", "", "x" * 5_000])
def test_another_datatype_is_refused(datatype: str) -> None:
    assert problem_of(spoiled(MEASUREMENTS.name, datatype=datatype)).fields["expected"] == "FP64"


@pytest.mark.parametrize(
    ("tensor", "data"),
    [
        *((TRACK_LENGTH.name, data) for data in ([1.5], [2**31], [-(2**31) - 1], ["1"], [True], [None], [], [1, 1])),
        *((TRACK_LENGTH.name, data) for data in (1, "1", None, {}, [[1, 1]], [[[1]]], [{"a": 1}], [[], 1])),
        *((TRACK_ID_TENSOR.name, data) for data in ([2**63], [-(2**63) - 1], [1e3], ["7"])),
        *((MEASUREMENTS.name, data) for data in ([0.0] * 11, [0.0] * 13, ["0"] * 12, [None] * 12, [True] * 12)),
        (MEASUREMENTS.name, [[[0.0] * 12, []]]),
        (MEASUREMENTS.name, [[[0.0] * 5, [0.0] * 7]]),
        (MEASUREMENTS.name, [[[0.0] * 6], [[0.0] * 6]]),
    ],
)
def test_values_that_do_not_fit_type_or_shape_are_refused(tensor: str, data: object) -> None:
    assert problem_of(spoiled(tensor, data=data)).fields["where"] == f"input {tensor}"


@pytest.mark.parametrize("text", [b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e999", b"01", b"0x1", b"1_0", b"+1"])
def test_numbers_that_json_or_float64_do_not_have_are_refused(text: bytes) -> None:
    body = spoiled(MEASUREMENTS.name, data=[77.25] * 12).replace(b"77.25", text, 1)
    problem_of(body)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_values_that_no_measurement_has_are_refused_by_track_row_and_column(value: float) -> None:
    values = arrays(2, 20)
    values[MEASUREMENTS.name][1, 7, 3] = value
    got = problem_of(*request_body(values)).fields["got"]
    assert "track 1 of the request, row 7, column altitude" in (got or "")


@pytest.mark.parametrize("length", [0, -1, 51, 2**31 - 1])
def test_a_track_length_outside_the_measurements_is_refused(length: int) -> None:
    values = arrays()
    values[TRACK_LENGTH.name][:] = length
    assert "track_length from 1 to 50" in (problem_of(*request_body(values)).fields["got"] or "")


def test_the_number_of_bytes_must_be_that_of_the_shapes() -> None:
    body, header = request_body(arrays())
    assert "too short" in fields(problem_of(body[:-1], header))
    assert "bytes after the last tensor" in fields(problem_of(body + b"x", header))
    assert "too short" in fields(problem_of(body[: int(header or 0)], header))
    wrong = spoiled(MEASUREMENTS.name, parameters={"binary_data_size": 96})
    assert "values given twice" in fields(problem_of(wrong + bytes(96), str(len(wrong))))
    for size in (95, 97, -1, 1.5, "96", True, None, 2**70):
        request = content()
        measurements = input_of(request, MEASUREMENTS.name)
        del measurements["data"]
        measurements["parameters"] = {"binary_data_size": size}
        text = json.dumps(request).encode()
        problem_of(text + bytes(96), str(len(text)))


@pytest.mark.parametrize(
    "header", ["", "-1", "+5", " 5", "5 ", "1e3", "0x10", "5.0", "999999999", "9" * 400, "\u0665", "\xb2", "1_0"]
)
def test_an_invalid_header_is_refused(header: str) -> None:
    body, _ = request_body(arrays())
    assert problem_of(body, header).fields["where"] == "inference-header-content-length"


def test_binary_tensors_without_the_header_are_refused_with_its_name() -> None:
    body, header = request_body(arrays())
    assert "inference-header-content-length" in fields(problem_of(body))
    for wrong in (0, int(header or 0) - 1, int(header or 0) + 1):
        problem_of(body, str(wrong))


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b" ", b"null", b"[]", b"1", b'"x"', b"{}", b'{"inputs":[]}', b'{"inputs":null}', b'{"inputs":{}}'),
        *(b'{"inputs":[null]}', b'{"inputs":["x"]}', b'{"inputs":[{}]}', b"\xff\xfe", b'\xef\xbb\xbf{"inputs":[]}'),
        *(
            b'{"inputs":[]}}',
            b'{"inputs":[]} x',
            b'{"inputs":[],}',
            b"{'inputs':[]}",
            b'{"inputs":[',
            b'{"inputs":\x00}',
        ),
        *(b'{"inputs":[],"id":1}', b'{"inputs":[],"id":null}', b'{"inputs":[],"outputs":null}', b"\x1f\x8b\x08\x00"),
        *(b'{"inputs":[],"parameters":[]}', b'{"inputs":[],"parameters":{"binary_data_output":1}}'),
    ],
)
def test_json_of_another_form_is_refused(body: bytes) -> None:
    problem_of(body)


def test_bombs_are_refused_and_need_memory_only_for_their_own_bytes() -> None:
    for name, body, header in bombs():
        tracemalloc.start()
        try:
            begun = time.process_time()
            problem = problem_of(body, header)
            seconds = time.process_time() - begun
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 2 * len(body) + 2**20, name
        assert len(problem.body()) < 8_192, name
        assert seconds < 5.0, name  # a guard against a quadratic parser


def test_the_largest_request_in_json_needs_bounded_memory() -> None:
    steps = LONGEST_TRACK // 2
    measurements = np.zeros((1, steps, 6))
    measurements[..., 0] = np.arange(steps)
    measurements = np.repeat(measurements, LARGEST_REQUEST // steps, axis=0)
    data = ",".join(map(str, measurements.astype(int).ravel().tolist()))
    tracks = len(measurements)
    text = (
        f'{{"inputs":[{{"name":"measurements","datatype":"FP64","shape":[{tracks},{steps},6],"data":[{data}]}},'
        f'{{"name":"track_length","datatype":"INT32","shape":[{tracks},1],"data":{[steps] * tracks}}},'
        f'{{"name":"track_id","datatype":"INT64","shape":[{tracks},1],"data":{[7] * tracks}}}]}}'
    ).encode()
    tracemalloc.start()
    try:
        request = decode(text, None, ENSEMBLE)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert same(request.measurements, measurements)
    assert peak < 6 * request.measurements.nbytes + len(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=8), children, max_size=4),
    max_leaves=12,
)
MEMBERS = ("name", "datatype", "shape", "parameters", "data")


def read_or_refused(body: bytes, header: str | None) -> InferRequest | None:
    """The request, or None if it is refused with a problem; any other exception fails the test."""
    try:
        return decode(body, header, ENSEMBLE)
    except Problem as problem:
        if problem.code != "invalid-request":
            raise
        return None


@settings(max_examples=200, deadline=None, derandomize=True)
@given(body=st.binary(max_size=200), header=st.none() | st.integers(-1, 200).map(str) | st.text(max_size=10))
def test_any_bytes_are_refused_with_a_problem(body: bytes, header: str | None) -> None:
    assert read_or_refused(body, header) is None


@settings(max_examples=200, deadline=None, derandomize=True)
@given(tensor=st.integers(0, 2), member=st.sampled_from(MEMBERS), value=JSON)
def test_any_value_of_a_member_gives_a_valid_request_or_a_problem(tensor: int, member: str, value: object) -> None:
    request = content()
    request["inputs"][tensor][member] = value
    read = read_or_refused(json.dumps(request).encode("utf-8", "surrogatepass"), None)
    if read is not None:
        assert read.measurements.shape == (1, 2, 6)
        assert np.isfinite(read.measurements).all()


@settings(max_examples=200, deadline=None, derandomize=True)
@given(at=st.integers(0, 10**6), byte=st.integers(0, 255))
def test_a_changed_byte_gives_a_valid_request_or_a_problem(at: int, byte: int) -> None:
    body, header = request_body(arrays(1, 5))
    spoiled_body = bytearray(body)
    spoiled_body[at % len(body)] = byte
    read = read_or_refused(bytes(spoiled_body), header)
    if read is not None:
        assert read.measurements.shape == (1, 5, 6)
        assert 1 <= int(read.track_length[0, 0]) <= 5
