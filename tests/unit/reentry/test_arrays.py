"""The array operations give the same values for numpy arrays and for the tensors that the exporter traces."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from reentry.arrays import latest, running_maximum


@pytest.mark.parametrize("steps", [1, 2, 63, 64, 65, 128, 300])
def test_the_running_maximum_of_tensors_is_that_of_numpy(steps: int) -> None:
    values = np.random.default_rng(steps).normal(size=(3, steps))
    values[1] = -math.inf
    values[2, ::2] = -math.inf
    expected = np.maximum.accumulate(values, axis=-1)
    np.testing.assert_array_equal(running_maximum(values, -math.inf), expected)
    np.testing.assert_array_equal(running_maximum(torch.from_numpy(values), -math.inf).numpy(), expected)


@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_the_latest_event_is_found_in_arrays_and_tensors(share: float) -> None:
    event = np.random.default_rng(1).random((4, 50)) < share
    number = np.cumsum(np.ones_like(event, dtype=np.int64), axis=-1) * 3
    expected = np.full(event.shape, -1)
    for track in range(len(event)):
        newest = -1
        for step in range(event.shape[1]):
            newest = number[track, step] if event[track, step] else newest
            expected[track, step] = newest
    np.testing.assert_array_equal(latest(event, number, -1), expected)
    tensors = latest(torch.from_numpy(event), torch.from_numpy(number), -1)
    np.testing.assert_array_equal(tensors.numpy(), expected)
