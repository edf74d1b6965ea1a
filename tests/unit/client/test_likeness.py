"""What a client says of a file that is unlike the training of the model."""

from __future__ import annotations

import numpy as np
import pytest

from client.likeness import Likeness, Unlike, quantities_of, unlike_training
from reentry.errors import ClientError
from reentry.training_range import Finding, to_json


def found(quantity: str, value: float, low: float, high: float) -> Finding:
    return Finding(quantity=quantity, value=value, low=low, high=high)


SLOW = found("time_step", 2.0, 0.5, 0.5)
LONG = found("rows", 9_000.0, 601.0, 1_200.0)
LOW = found("apogee", 105.0, 100_250.0, 119_600.0)
LOW_TOO = found("apogee", 118.5, 100_250.0, 119_600.0)


def likeness(*tracks: list[Finding] | None) -> Likeness:
    counted = Likeness()
    for findings in tracks:
        counted.add(None if findings is None else to_json(findings))
    return counted


def test_each_quantity_has_one_line_with_its_range_in_training() -> None:
    prefix = "warning: unlike the training of model version 3: "
    assert likeness([LONG, SLOW], [], [LONG]).warnings(3) == [
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
def test_a_likely_mistake_of_units_is_named(finding: Finding, mistake: str) -> None:
    [line] = likeness([finding]).warnings(1)
    assert line.endswith(mistake)


def test_a_mistake_is_named_only_if_it_explains_every_track() -> None:
    [line] = likeness([LOW], [LOW_TOO]).warnings(1)
    assert "apogee 105 to 118.5 m in 2 of 2 tracks" in line
    assert line.endswith("(kilometres instead of metres?)")
    [line] = likeness([LOW], [found("apogee", 50.0, 100_250.0, 119_600.0)]).warnings(1)
    assert line.endswith("in training")


def test_features_that_drifted_share_a_line() -> None:
    altitude, step = found("drift.altitude", 9.0, 0.6, 3.0), found("drift.time_step", 8.0, 0.0, 0.0)
    [line] = likeness([altitude], [altitude, step]).warnings(1)
    assert line.endswith(": altitude (2 of 2 tracks), time_step (1 of 2 tracks)")


def test_the_counts_are_for_scripts() -> None:
    assert likeness([LOW, SLOW], [LOW_TOO], []).unlike() == [
        Unlike(quantity="time_step", tracks=1, lowest=2.0, highest=2.0, training_low=0.5, training_high=0.5),
        Unlike(
            quantity="apogee", tracks=2, lowest=105.0, highest=118.5, training_low=100_250.0, training_high=119_600.0
        ),
    ]


def test_a_like_file_gives_no_warning() -> None:
    counted = likeness([], [])
    assert (counted.warnings(1), counted.unlike()) == ([], [])


def test_a_server_that_cannot_compare_is_named_in_one_line() -> None:
    counted = likeness(None, None)
    assert counted.unlike() is None
    [line] = counted.warnings(4)
    assert "not compared with the training" in line
    assert "version 4" in line


def test_a_file_without_a_scored_track_gives_no_warning() -> None:
    assert likeness().warnings(None) == []


def test_the_findings_of_an_answer_are_those_of_the_track() -> None:
    answer = np.array([[b"[]"], [to_json([SLOW]).encode()], [b""]], dtype=np.object_)
    texts = [unlike_training(answer, track) for track in range(3)]
    assert [quantities_of(text) for text in texts] == [(), ("time_step",), None]
    assert unlike_training(None, 0) is None


@pytest.mark.parametrize("text", [b"{", b"[7]", b"\xff"])
def test_an_answer_of_other_text_is_refused(text: bytes) -> None:
    with pytest.raises(ClientError, match=r"invalid: unlike_training"):
        unlike_training(np.array([[text]], dtype=np.object_), 0)
