"""Loss of the time at which an alarm is raised: the expected square of the onset error.

The cross-entropy asks for a correct probability at each step, while a user asks when the alarm comes. So each step is
taken to raise the alarm with its probability, if no earlier step has: a discrete hazard, as in survival analysis
(Cox, 1972, "Regression Models and Life-Tables", section 6). The expected square of the error then depends smoothly on
all logits.

Shapes: B tracks, T steps.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from reentry.schema import FEATURES
from training.data.batches import Batch

LARGEST_ERROR: Final = 30.0
"""Upper limit of an error, s, so that few hopeless flights do not dominate."""

EARLY: Final = 1.25
"""Weight of the square of an early error, which is a false alarm; that of a late one is 1."""

_TIME_STEP: Final = FEATURES.index("time_step")


def expected_square(logits: Tensor, batch: Batch) -> Tensor:
    """Expected square of the onset error of each track, (B,), s2; the square of an early error counts `EARLY` times.

    A track without an onset, or without an alarm, is taken to begin reentry, or to raise the alarm, one step after its
    end, as in `training.evaluation.metrics`.

    Args:
        logits: logit of reentry at each step, (B, T).
        batch: the steps.
    """
    counted = batch.weight > 0.0
    step = torch.where(counted, batch.features[..., _TIME_STEP], 0.0)
    time = torch.cumsum(step, dim=1)  # s
    end = time[:, -1] + step.sum(dim=1) / counted.sum(dim=1)
    in_reentry = (batch.phase > 0.0) & counted
    onset = torch.where(in_reentry, time, end[:, None]).amin(dim=1)
    error = torch.clamp(time - onset[:, None], -LARGEST_ERROR, LARGEST_ERROR)
    missed = torch.clamp(end - onset, -LARGEST_ERROR, LARGEST_ERROR)
    silent = torch.where(counted, F.logsigmoid(-logits), 0.0)  # logarithm of the probability of no alarm at the step
    silent_before = torch.cumsum(silent, dim=1) - silent
    alarm = torch.where(counted, torch.exp(silent_before + F.logsigmoid(logits)), 0.0)
    return (alarm * _cost(error)).sum(dim=1) + torch.exp(silent.sum(dim=1)) * _cost(missed)


def _cost(error: Tensor) -> Tensor:
    """Weighted square of an error in s, which is negative if the alarm is early."""
    return torch.where(error < 0.0, EARLY, 1.0) * error**2
