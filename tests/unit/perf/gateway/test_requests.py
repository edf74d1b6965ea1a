"""Requests of the measurement of the gateway, read by the gateway itself."""

from __future__ import annotations

import numpy as np
import pytest

from gateway.kserve.requests import decode
from gateway.scoring.bodies import read_body
from perf.gateway.requests import arrow_request, json_request, kserve_request
from perf.scoring import draw_flights
from reentry.schema import ENSEMBLE


@pytest.mark.parametrize("make", [arrow_request, json_request])
@pytest.mark.parametrize("count", [1, 3])
def test_tables_are_read_as_the_same_tracks(make: type, count: int) -> None:
    tracks = draw_flights(count, 40)
    request = make(tracks)
    with read_body(request.body, request.headers["Content-Type"]) as file:
        read = list(file)
    assert [track.track_id for track in read] == [track.track_id for track in tracks]
    for one, other in zip(read, tracks, strict=True):
        np.testing.assert_array_equal(one.measurements, other.measurements)


def test_tensors_are_read_as_the_same_tracks_with_binary_outputs() -> None:
    tracks = draw_flights(3, 40)
    request = kserve_request(tracks)
    read = decode(request.body, request.headers["Inference-Header-Content-Length"], ENSEMBLE)
    np.testing.assert_array_equal(read.measurements, np.stack([track.measurements for track in tracks]))
    assert all(binary for _, binary in read.outputs)
