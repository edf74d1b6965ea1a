"""An invalid answer is refused, and the error names the fault."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.answers import _track_faults, _tracks_are_valid, require_answer
from client.batching import RequestBatch
from reentry.errors import ClientError
from reentry.schema import MEASUREMENT_COLUMNS
from reentry.tracks import Track

LENGTHS = (5, 3)


def batch_of() -> RequestBatch:
    tracks = []
    for track_id, length in enumerate(LENGTHS):
        measurements = np.zeros((length, len(MEASUREMENT_COLUMNS)))
        measurements[:, 0] = 1.7e9 + 0.5 * np.arange(length)
        steps = np.arange(length)
        tracks.append(
            Track(track_id=70 + track_id, measurements=measurements, reentry_phase=None, rows=steps, steps=steps)
        )
    return RequestBatch(tuple(tracks))


def answer_of() -> dict[str, np.ndarray]:
    """Return an answer in which track 70 has an onset at step 2, and track 71 is in phase 1 only in its padding."""
    return {
        "reentry_probability": np.full((2, 5), 0.25, dtype=np.float32),
        "reentry_phase": np.array([[0, 0, 1, 1, 0], [0, 0, 0, 1, 1]], dtype=np.uint8),
        "onset_step": np.array([[2], [-1]], dtype=np.int32),
        "onset_timestamp": np.array([[1.7e9 + 1.0], [-1.0]]),
        "refined_onset_timestamp": np.array([[1.7e9 + 0.75], [-1.0]]),
        "refined_onset_deviation": np.array([[0.5], [-1.0]]),
        "hindsight_seconds": np.array([[1.0], [-1.0]]),
        "model_version": np.array([[3], [3]]),
        "unlike_training": np.array([[b"[]"], [b""]], dtype=object),
    }


def test_a_valid_answer_is_accepted() -> None:
    require_answer(batch_of(), answer_of(), where="grpc://host:8001")


def test_probabilities_of_exactly_0_and_1_are_accepted() -> None:
    answer = answer_of()
    answer["reentry_probability"][0, :2] = [0.0, 1.0]
    require_answer(batch_of(), answer, where="grpc://host:8001")


def test_an_onset_that_is_not_refined_is_accepted() -> None:
    answer = answer_of()
    for name in ("refined_onset_timestamp", "refined_onset_deviation", "hindsight_seconds"):
        answer[name][:] = -1.0
    require_answer(batch_of(), answer, where="grpc://host:8001")


UNKNOWN = "-1, unknown"
OTHERS_UNKNOWN = f"{UNKNOWN}, as the rest of the refined onset"
FRACTION = "a number from 0 to 1"
ONSET = "2, the first of 5 steps in phase 1"
ONSET_TIME = "1700000001, the time of step 2"


@pytest.mark.parametrize(
    ("tensor", "index", "value", "of_track", "expected", "got"),
    [
        ("reentry_probability", (0, 1), 7.5, " of track 70, step 1", FRACTION, "7.5"),
        ("reentry_probability", (1, 2), np.nan, " of track 71, step 2", FRACTION, "nan"),
        ("reentry_probability", (0, 0), -0.1, " of track 70, step 0", FRACTION, "-0.1"),
        ("reentry_phase", (0, 4), 200, " of track 70, step 4", "0 or 1", "200"),
        ("onset_step", (0, 0), 99, " of track 70", ONSET, "99"),
        ("onset_step", (0, 0), -7, " of track 70", ONSET, "-7"),
        ("onset_step", (0, 0), -1, " of track 70", ONSET, "-1"),
        ("onset_step", (1, 0), 3, " of track 71", "-1, no onset", "3"),
        ("onset_timestamp", (0, 0), 1.7e9, " of track 70", ONSET_TIME, "1700000000.0"),
        ("onset_timestamp", (0, 0), -1.0, " of track 70", ONSET_TIME, "-1.0"),
        ("onset_timestamp", (0, 0), np.nan, " of track 70", ONSET_TIME, "nan"),
        ("onset_timestamp", (1, 0), np.nan, " of track 71", "-1, no onset", "nan"),
        ("refined_onset_timestamp", (0, 0), np.nan, " of track 70", f"a finite time, or {UNKNOWN}", "nan"),
        ("refined_onset_timestamp", (0, 0), np.inf, " of track 70", f"a finite time, or {UNKNOWN}", "inf"),
        ("refined_onset_deviation", (0, 0), 0.0, " of track 70", f"a positive number, or {UNKNOWN}", "0.0"),
        ("refined_onset_deviation", (0, 0), np.inf, " of track 70", f"a positive number, or {UNKNOWN}", "inf"),
        ("hindsight_seconds", (0, 0), 20.5, " of track 70", f"0 to 20 s, or {UNKNOWN}", "20.5"),
        ("hindsight_seconds", (0, 0), -0.5, " of track 70", f"0 to 20 s, or {UNKNOWN}", "-0.5"),
        ("refined_onset_timestamp", (1, 0), 1.7e9, " of track 71", f"{UNKNOWN}, without an onset", "1700000000.0"),
        ("hindsight_seconds", (1, 0), 0.0, " of track 71", f"{UNKNOWN}, without an onset", "0.0"),
        ("model_version", (slice(None), 0), 0, "", "at least 1", "0"),
        ("model_version", (1, 0), 4, "", "one version for the whole request", "3 and 4"),
    ],
)
def test_an_invalid_value_is_named_with_its_track_and_step(
    tensor: str, index: tuple, value: float, of_track: str, expected: str, got: str
) -> None:
    answer = answer_of()
    answer[tensor][index] = value
    with pytest.raises(ClientError) as error:
        require_answer(batch_of(), answer, where="grpc://host:8001")
    assert error.value.problem == f"the server's answer is invalid: {tensor}{of_track}"
    assert (error.value.where, error.value.expected, error.value.got) == ("grpc://host:8001", expected, got)


def test_a_refined_onset_without_a_deviation_is_refused() -> None:
    answer = answer_of()
    answer["refined_onset_deviation"][0] = -1.0
    with pytest.raises(ClientError) as error:
        require_answer(batch_of(), answer, where="grpc://host:8001")
    assert error.value.problem.endswith("refined_onset_timestamp of track 70")
    assert error.value.expected == OTHERS_UNKNOWN


@pytest.mark.parametrize("tensor", list(answer_of()))
@pytest.mark.parametrize(
    "change",
    [
        lambda values: values[:1],
        lambda values: values[:, :0],
        lambda values: np.concatenate([values, values], axis=1),
        lambda values: values.ravel(),
        lambda values: values.astype(bool),
        lambda values: values.astype(str),
    ],
    ids=["fewer tracks", "no steps", "more steps", "flat", "another type", "text"],
)
def test_a_wrong_shape_or_type_is_named_with_the_expected_one(tensor: str, change) -> None:
    answer = answer_of()
    answer[tensor] = change(answer[tensor])
    with pytest.raises(ClientError, match=f"answer is invalid: {tensor}") as error:
        require_answer(batch_of(), answer, where="grpc://host:8001")
    assert str(error.value.expected).startswith("shape (2, ")


@pytest.mark.parametrize("tensor", list(answer_of()))
def test_a_missing_tensor_is_named_as_that_of_a_server_of_other_models(tensor: str) -> None:
    answer = answer_of()
    del answer[tensor]
    with pytest.raises(ClientError, match=f"answer is invalid: {tensor}") as error:
        require_answer(batch_of(), answer, where="grpc://host:8001")
    assert (error.value.expected, error.value.got) == ("a tensor of this name", "none")
    assert "models of this version" in str(error.value.fix)


@given(seed=st.integers(0, 2**32 - 1))
def test_all_tracks_at_once_are_judged_as_each_by_itself(seed: int) -> None:
    rng = np.random.default_rng(seed)
    batch, answer = batch_of(), answer_of()
    values = (-1.0, 0.0, 0.5, 1.0, 2.0, 60.0, 1e9, 1.7e9 + 1.0, np.nan, np.inf)
    for _ in range(rng.integers(0, 3)):
        name = rng.choice([name for name in answer if name not in ("model_version", "unlike_training")])
        tensor = answer[name]
        place = tuple(rng.integers(0, size) for size in tensor.shape)
        value = rng.choice(values)
        tensor[place] = value if tensor.dtype.kind == "f" else int(np.nan_to_num(value, posinf=3.0) % 100)
    faults = [
        fault
        for index, track in enumerate(batch.tracks)
        for fault in _track_faults(track, {name: tensor[index] for name, tensor in answer.items()})
    ]
    assert _tracks_are_valid(batch, answer) == (not faults)
