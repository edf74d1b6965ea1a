"""Tests of the padding of tracks to a common length."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reentry.padding import bucket_length, pad_steps


@pytest.mark.parametrize(
    ("steps", "bucket"), [(1, 1), (2, 2), (3, 4), (33, 64), (64, 64), (65, 128), (900, 960), (1200, 1216)]
)
def test_a_bucket_is_a_power_of_two_or_a_multiple_of_64(steps: int, bucket: int) -> None:
    assert bucket_length(steps) == bucket


@given(st.integers(1, 100_000))
def test_a_bucket_holds_its_steps_with_little_padding_and_is_its_own_bucket(steps: int) -> None:
    bucket = bucket_length(steps)
    assert steps <= bucket < min(2 * steps, steps + 64)
    assert bucket_length(bucket) == bucket


def test_a_track_without_steps_has_no_bucket() -> None:
    with pytest.raises(ValueError, match="at least one step"):
        bucket_length(0)


def test_padding_repeats_the_last_step() -> None:
    values = np.arange(12.0).reshape(2, 3, 2)
    padded = pad_steps(values, 5)
    np.testing.assert_array_equal(padded[:, :3], values)
    np.testing.assert_array_equal(padded[:, 3:], values[:, [2, 2]])
    assert pad_steps(values, 3) is values
    with pytest.raises(ValueError, match="at most 2 steps"):
        pad_steps(values, 2)
