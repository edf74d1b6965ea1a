"""The graph of a live track gives the answers of the whole track, one measurement at a time."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import onnxruntime
import pytest

from export.stream_graph import stream_graph
from reentry.errors import ExportError
from reentry.schema import REENTRY_STREAM, STATE_SIZE
from tests.exporting import checkpoint_of
from tests.unit.export.test_track_graph import VERSION, ballistic, default, every_feature, run, trapezoids
from training.checkpoint import Checkpoint
from training.config import ModelConfig

Answer = dict[str, np.ndarray]


@cache
def session(make: Callable[[], Checkpoint]) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(stream_graph(make(), VERSION).SerializeToString(), options)


def step(make: Callable[[], Checkpoint], measurements: np.ndarray, state: np.ndarray) -> Answer:
    names = [tensor.name for tensor in REENTRY_STREAM.outputs]
    outputs = session(make).run(names, {"measurement": measurements, "state": state})
    return dict(zip(names, outputs, strict=True))


def stream(make: Callable[[], Checkpoint], flight: np.ndarray) -> list[Answer]:
    state, answers = np.zeros((1, STATE_SIZE)), []
    for row in flight:
        answers.append(step(make, row[None], state))
        state = answers[-1]["next_state"]
    return answers


def column(answers: list[Answer], name: str) -> np.ndarray:
    return np.array([answer[name][0, 0] for answer in answers])


def distinct(flight: np.ndarray) -> np.ndarray:
    """The flight without rows that repeat an earlier one."""
    return flight[np.sort(np.unique(flight, axis=0, return_index=True)[1])]


@pytest.mark.parametrize("make", [every_feature, default])
@pytest.mark.parametrize("severity", [0, 1, 2, 3, None])
def test_a_stream_gets_the_answers_of_the_whole_track(make: Callable[[], Checkpoint], severity: int | None) -> None:
    flight = distinct(trapezoids()[0] if severity is None else ballistic(severity)[0])
    answers = stream(make, flight)
    probability, phase, onset_step, onset_timestamp, version = run(make, flight[None])
    np.testing.assert_allclose(column(answers, "reentry_probability"), probability[0], rtol=0.0, atol=1e-5)
    np.testing.assert_array_equal(column(answers, "reentry_phase"), phase[0])
    assert column(answers, "accepted").all()
    onset = int(onset_step[0, 0])
    np.testing.assert_array_equal(np.flatnonzero(column(answers, "onset")), [onset] if onset >= 0 else [])
    timestamps = np.where((np.arange(len(flight)) >= onset) & (onset >= 0), onset_timestamp[0, 0], -1.0)
    np.testing.assert_array_equal(column(answers, "onset_timestamp"), timestamps)
    assert answers[0]["model_version"].tolist() == version.tolist()


def test_tracks_in_one_batch_do_not_affect_each_other() -> None:
    flights = [flight[:40] for flight in trapezoids()[:3]]
    state = np.zeros((3, STATE_SIZE))
    alone = [stream(default, flight) for flight in flights]
    for row in range(40):
        together = step(default, np.stack([flight[row] for flight in flights]), state)
        state = together["next_state"]
        for track in range(3):
            np.testing.assert_array_equal(together["next_state"][track], alone[track][row]["next_state"][0])


@pytest.mark.parametrize("kind", ["repeated", "late"])
def test_a_repeated_or_late_measurement_gets_the_latest_answer_and_changes_nothing(kind: str) -> None:
    flight = trapezoids()[0]
    before = stream(default, flight[:30])[-1]
    row = flight[27] if kind == "repeated" else flight[27] + [0.1, 0.0, 0.0, 5.0, 0.0, 0.0]
    answer = step(default, row[None], before["next_state"])
    assert answer["accepted"] == 0
    assert answer["onset"] == 0
    for name in ("reentry_probability", "reentry_phase", "onset_timestamp", "next_state"):
        np.testing.assert_array_equal(answer[name], before[name])


def test_a_second_sensor_may_measure_at_the_same_time() -> None:
    flight = trapezoids()[0]
    before = stream(default, flight[:30])[-1]
    answer = step(default, (flight[29] + [0.0, 0.0, 0.0, 3.0, 0.0, 1.0])[None], before["next_state"])
    assert answer["accepted"] == 1


@pytest.mark.parametrize(
    ("number", "value"),
    [
        *((number, value) for number in range(6) for value in (np.nan, np.inf)),
        (0, -1.0),
        (1, 91.0),
        (3, -2e5),
        (5, 0.5),
    ],
)
def test_an_invalid_measurement_gets_no_number_and_changes_nothing(number: int, value: float) -> None:
    flight = trapezoids()[0]
    state = stream(default, flight[:30])[-1]["next_state"]
    for before in (state, np.zeros_like(state)):
        row = flight[30].copy()
        row[number] = value
        answer = step(default, row[None], before)
        assert np.isnan(answer["reentry_probability"]).all()
        assert answer["reentry_phase"] == 255
        assert np.isnan(answer["onset_timestamp"]).all()
        assert answer["onset"] == answer["accepted"] == 0
        np.testing.assert_array_equal(answer["next_state"], before)


def test_a_network_whose_state_does_not_fit_is_refused() -> None:
    with pytest.raises(ExportError, match="the state of a live track is too large"):
        stream_graph(checkpoint_of(ModelConfig(hidden=256, layers=2)), VERSION)
