"""Requests of simulated live tracks."""

from __future__ import annotations

import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from perf.stream.config import Mode, StreamConfig
from perf.stream.traffic import FLIGHTS, STEPS, Traffic
from reentry.triton.checks import require_measurements


def request_of(message: bytes) -> service_pb2.ModelInferRequest:
    return service_pb2.ModelInferRequest.FromString(message)


@pytest.mark.parametrize("mode", ["scan", "tracks"])
def test_every_request_has_the_measurements_of_its_step(mode: Mode) -> None:
    traffic = Traffic(StreamConfig(mode=mode, tracks=7, feeds=2))
    for step in (1, 5, STEPS + 3):
        request = request_of(traffic.message(1, step))
        sent = np.frombuffer(request.raw_input_contents[-1]).reshape(-1, 6)
        np.testing.assert_array_equal(sent, traffic.rows(1, step))
        assert request.id == "1"
        assert not request.parameters["sequence_start"].bool_param
    assert len(sent) == (3 if mode == "scan" else 1)


def test_a_sequence_begins_with_its_first_measurements_and_ends_with_invalid_ones() -> None:
    traffic = Traffic(StreamConfig(mode="scan", tracks=4))
    first, last = request_of(traffic.first(0)), request_of(traffic.last(0))
    assert np.frombuffer(first.raw_input_contents[0], np.int64).tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(np.frombuffer(first.raw_input_contents[1]).reshape(-1, 6), traffic.rows(0, 0))
    assert first.parameters["sequence_start"].bool_param
    assert last.parameters["sequence_end"].bool_param
    assert np.isnan(np.frombuffer(last.raw_input_contents[1])).all()
    assert first.parameters["sequence_id"].string_param == last.parameters["sequence_id"].string_param


def test_a_track_whose_flight_is_over_goes_on_at_later_times() -> None:
    traffic = Traffic(StreamConfig(mode="scan", tracks=FLIGHTS + 2, feeds=3))
    for track in (0, FLIGHTS + 1):
        measurements = traffic.track(track, 2 * STEPS + 5)
        assert (np.diff(measurements[:, 0]) > 0.0).all()
        np.testing.assert_array_equal(measurements[:STEPS, 1:], measurements[STEPS : 2 * STEPS, 1:])
        require_measurements(measurements[None], np.array([len(measurements)]))


def test_the_place_of_a_track_leads_to_its_measurements() -> None:
    traffic = Traffic(StreamConfig(mode="scan", tracks=10, feeds=3))
    places = {traffic.place_of(track) for track in range(10)}
    assert len(places) == 10
    sequence, position = traffic.place_of(7)
    np.testing.assert_array_equal(traffic.rows(sequence, 4)[position], traffic.track(7, 5)[-1])
