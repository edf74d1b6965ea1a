"""The expected square of the onset error, by hand-made tracks."""

from __future__ import annotations

import pytest
import torch

from reentry.schema import FEATURES
from training.data.batches import Batch
from training.fit.stopping import EARLY, LARGEST_ERROR, expected_square

SURE = 30.0


def batch(phase: list[float], *, step: float = 1.0, padding: int = 0) -> Batch:
    """One track with steps of equal length, and padding."""
    steps = len(phase) + padding
    features = torch.zeros(1, steps, len(FEATURES))
    features[..., FEATURES.index("time_step")] = step
    weight = torch.ones(1, steps)
    weight[:, len(phase) :] = 0.0
    return Batch(features, torch.tensor([phase + phase[-1:] * padding]), weight)


def logits(alarm: int, steps: int) -> torch.Tensor:
    """A certain alarm at a step, and certainly none before."""
    return torch.where(torch.arange(steps) >= alarm, SURE, -SURE)[None]


@pytest.mark.parametrize(("alarm", "cost"), [(5, 0.0), (8, 36.0), (3, 16.0 * EARLY)])
def test_a_certain_alarm_costs_the_square_of_its_error(alarm: int, cost: float) -> None:
    track = batch([0.0] * 5 + [1.0] * 5, step=2.0)
    assert float(expected_square(logits(alarm, 10), track)) == pytest.approx(cost, abs=1e-5)


def test_an_uncertain_alarm_costs_the_mean() -> None:
    track = batch([0.0, 0.0, 1.0, 1.0])
    uncertain = torch.tensor([[0.0, -SURE, -SURE, SURE]])  # half at step 0, otherwise at step 3
    assert float(expected_square(uncertain, track)) == pytest.approx(0.5 * 4.0 * EARLY + 0.5 * 1.0, abs=1e-6)


def test_a_missed_onset_counts_as_one_step_after_the_end() -> None:
    track = batch([0.0, 0.0, 1.0, 1.0, 1.0])
    assert float(expected_square(logits(9, 5), track)) == pytest.approx(9.0, abs=1e-6)


def test_a_track_without_an_onset_begins_one_step_after_its_end() -> None:
    track = batch([0.0] * 6)
    assert float(expected_square(logits(9, 6), track)) == pytest.approx(0.0, abs=1e-6)
    assert float(expected_square(logits(2, 6), track)) == pytest.approx(16.0 * EARLY, abs=1e-5)


def test_padding_changes_nothing() -> None:
    phase = [0.0, 0.0, 1.0, 1.0]
    values = torch.tensor([[-2.0, -1.0, 0.5, 1.0]])
    padded = torch.cat([values, torch.full((1, 3), 9.0)], dim=1)
    expected = expected_square(values, batch(phase))
    torch.testing.assert_close(expected_square(padded, batch(phase, padding=3)), expected)


def test_an_error_is_limited() -> None:
    track = batch([0.0] * 100 + [1.0])
    assert float(expected_square(logits(0, 101), track)) == pytest.approx(EARLY * LARGEST_ERROR**2)


def test_the_gradient_is_finite_for_extreme_logits() -> None:
    values = torch.tensor([[-200.0, 200.0, -200.0, 200.0]], requires_grad=True)
    expected_square(values, batch([0.0, 0.0, 1.0, 1.0])).sum().backward()
    assert values.grad is not None
    assert torch.isfinite(values.grad).all()
