"""Counts and warnings for a file that differs from the training data of the model."""

from __future__ import annotations

import numpy as np
import pytest

from client.training_comparison import TrainingComparison, UnlikeTraining, quantities_of, unlike_training
from reentry.errors import ClientError
from reentry.training_range import Finding, to_json


def found(quantity: str, value: float, low: float, high: float) -> Finding:
    return Finding(quantity=quantity, value=value, low=low, high=high)


SLOW = found("time_step", 2.0, 0.5, 0.5)
LONG = found("rows", 9_000.0, 601.0, 1_200.0)
LOW = found("apogee", 105.0, 100_250.0, 119_600.0)
LOW_TOO = found("apogee", 118.5, 100_250.0, 119_600.0)


def compared(*tracks: list[Finding] | str | None) -> TrainingComparison:
    counted = TrainingComparison()
    for findings in tracks:
        counted.add(to_json(findings) if isinstance(findings, list) else findings)
    return counted


RANGE_UNKNOWN = ""
NOT_IN_SAMPLE = None


def test_each_quantity_is_one_warning_with_its_training_range() -> None:
    prefix = "unlike the training of model version 3: "
    assert compared([LONG, SLOW], [], [LONG]).warnings(3) == [
        prefix + "rows in a track 9000 in 2 of 3 tracks, 601 to 1200 in training",
        prefix + "time step 2 s in 1 of 3 tracks, 0.5 s in training",
    ]


@pytest.mark.parametrize(
    ("finding", "mistake"),
    [
        (LOW, "(kilometres instead of metres?)"),
        (found("apogee", 360_000.0, 100_250.0, 119_600.0), "(feet instead of metres?)"),
        (found("ground_speed", 220.0, 9_700.0, 19_000.0), "(radians instead of degrees?)"),
        (found("intensity", 95.0, 0.85, 1.01), "(per cent?)"),
        (found("time_step", 500.0, 0.5, 0.5), "(milliseconds instead of seconds?)"),
    ],
)
def test_a_likely_mistake_in_units_is_named(finding: Finding, mistake: str) -> None:
    [line] = compared([finding]).warnings(1)
    assert line.endswith(mistake)


def test_a_mistake_in_units_is_named_only_if_it_explains_every_track() -> None:
    [line] = compared([LOW], [LOW_TOO]).warnings(1)
    assert "apogee 105 to 118.5 m in 2 of 2 tracks" in line
    assert line.endswith("(kilometres instead of metres?)")
    [line] = compared([LOW], [found("apogee", 50.0, 100_250.0, 119_600.0)]).warnings(1)
    assert line.endswith("in training")


def test_features_that_drifted_share_one_warning() -> None:
    altitude, step = found("drift.altitude", 9.0, 0.6, 3.0), found("drift.time_step", 8.0, 0.0, 0.0)
    [line] = compared([altitude], [altitude, step]).warnings(1)
    assert line.endswith(": altitude (2 of 2 tracks), time_step (1 of 2 tracks)")


def test_the_counts_of_each_quantity_are_available_to_scripts() -> None:
    assert compared([LOW, SLOW], [LOW_TOO], []).unlike() == [
        UnlikeTraining(quantity="time_step", tracks=1, lowest=2.0, highest=2.0, training_low=0.5, training_high=0.5),
        UnlikeTraining(
            quantity="apogee", tracks=2, lowest=105.0, highest=118.5, training_low=100_250.0, training_high=119_600.0
        ),
    ]


def test_a_file_like_the_training_data_gives_no_warning() -> None:
    counted = compared([], [])
    assert (counted.warnings(1), counted.unlike()) == ([], [])


def test_a_server_without_a_training_range_gives_one_warning() -> None:
    counted = compared(RANGE_UNKNOWN, NOT_IN_SAMPLE, RANGE_UNKNOWN)
    assert (counted.unlike(), counted.compared) == (None, 0)
    [line] = counted.warnings(4)
    assert "not compared with the training" in line
    assert "version 4" in line


def test_a_comparison_of_a_sample_states_its_size() -> None:
    counted = compared([LONG], [], NOT_IN_SAMPLE, [found("drift.altitude", 9.0, 0.6, 3.0)], NOT_IN_SAMPLE)
    assert counted.compared == 3
    rows, drift = counted.warnings(3)
    assert "in 1 of 3 compared tracks, 601 to 1200 in training" in rows
    assert drift.endswith(": altitude (1 of 3 compared tracks)")


def test_a_file_without_a_scored_track_gives_no_warning() -> None:
    assert compared().warnings(None) == []


def test_the_findings_of_each_track_are_taken_from_the_answer() -> None:
    answer = np.array([[b"[]"], [to_json([SLOW]).encode()], [b""]], dtype=np.object_)
    texts = [unlike_training(answer, track) for track in range(3)]
    assert [quantities_of(text) for text in texts] == [(), ("time_step",), None]
    assert texts[2] == RANGE_UNKNOWN
    assert unlike_training(None, 0) is NOT_IN_SAMPLE


@pytest.mark.parametrize("text", [b"{", b"[7]", b"\xff"])
def test_findings_in_another_format_are_refused(text: bytes) -> None:
    with pytest.raises(ClientError, match=r"invalid: unlike_training"):
        unlike_training(np.array([[text]], dtype=np.object_), 0)
