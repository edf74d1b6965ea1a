"""Check of a server's answers against those of the graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from perf.peers.agreement import require_agreement
from reentry.errors import ClientError
from tests.peers import make_answer


def probabilities(last: float) -> np.ndarray:
    return np.array([[0.1, 0.2, last]], np.float32)


def test_equal_answers_and_small_differences_in_probability_agree() -> None:
    require_agreement(make_answer(), make_answer())
    require_agreement(make_answer(), make_answer(reentry_probability=probabilities(0.9 + 5e-6)))


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"reentry_probability": probabilities(0.9 + 5e-5)}, "probabilities differ"),
        ({"reentry_probability": probabilities(np.nan)}, "probabilities differ"),
        ({"reentry_probability": np.array([[0.1, 0.2]], np.float32)}, "reentry_probability has another shape"),
        ({"reentry_phase": np.array([[0, 1, 1]], np.uint8)}, "reentry_phase differs"),
        ({"onset_step": np.array([[1]], np.int32)}, "onset_step differs"),
        ({"onset_timestamp": np.array([[0.0]])}, "onset_timestamp differs"),
        ({"model_version": np.array([[2]])}, "model_version differs"),
    ],
)
def test_another_answer_is_an_error(changed: dict[str, Any], problem: str) -> None:
    with pytest.raises(ClientError) as caught:
        require_agreement(make_answer(), make_answer(**changed))
    assert problem in caught.value.problem


def test_a_missing_output_is_an_error() -> None:
    answer = make_answer()
    del answer["onset_step"]
    with pytest.raises(ClientError, match="no onset_step"):
        require_agreement(make_answer(), answer)
