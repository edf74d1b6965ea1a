"""Requests and answers of each protocol."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest

from perf.peers.agreement import require_agreement
from perf.peers.apps.track_bytes import pack_answer, pack_measurements, unpack_answer, unpack_measurements
from perf.peers.protocols import KServeBase64, KServeBinary, PlainJson, RawBytes
from perf.scoring import draw_flights
from reentry.schema import ENSEMBLE, REENTRY_TRACK
from tests.peers import make_answer

TRACK = draw_flights(1, 12)[0].measurements


def test_bytes_of_measurements_and_answers_are_read_back_exactly() -> None:
    assert np.array_equal(unpack_measurements(pack_measurements(TRACK)), TRACK[None])
    content = pack_answer(make_answer())
    assert len(content) == 3 * 4 + 3 + 4 + 8 + 8
    require_agreement(make_answer(), unpack_answer(content, 3))


def test_an_answer_of_another_length_is_an_error() -> None:
    with pytest.raises(ValueError, match="bytes"):
        unpack_answer(pack_answer(make_answer()) + b"\x00", 3)
    with pytest.raises(ValueError, match="buffer"):
        unpack_answer(pack_answer(make_answer())[:-1], 3)


def test_each_protocol_reads_its_own_answer() -> None:
    content = pack_answer(make_answer())
    require_agreement(make_answer(), RawBytes().answer({}, content, 3))
    rows = {name: values[0].tolist() for name, values in make_answer().items()}
    require_agreement(make_answer(), PlainJson().answer({}, json.dumps(rows).encode(), 3))
    text = base64.b64encode(content).decode()
    outputs = {"outputs": [{"name": "answer", "data": [text]}]}
    require_agreement(make_answer(), KServeBase64("m").answer({}, json.dumps(outputs).encode(), 3))


@pytest.mark.parametrize("model", [ENSEMBLE, REENTRY_TRACK])
def test_a_binary_kserve_request_has_the_inputs_of_the_model_and_asks_for_the_outputs_of_the_graph(model) -> None:
    protocol = KServeBinary(model)
    request = protocol.request(TRACK)
    length = int(request.headers["inference-header-content-length"])
    header = json.loads(request.body[:length])
    assert {entry["name"] for entry in header["inputs"]} == {tensor.name for tensor in model.inputs}
    assert [entry["name"] for entry in header["outputs"]] == [tensor.name for tensor in REENTRY_TRACK.outputs]
    assert protocol.path == f"/v2/models/{model.name}/infer"
    assert len(request.body) - length == TRACK.nbytes + 4 + (8 if model is ENSEMBLE else 0)


def test_the_json_request_has_all_digits_of_the_measurements() -> None:
    assert np.array_equal(np.array(json.loads(PlainJson().request(TRACK).body)["measurements"]), TRACK)
