"""Inputs that a network gets from the orbit filter: what its results say about the onset, given the learned prior.

Shapes: B tracks, T steps, R speeds, G coefficients.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor, nn

from reentry.features.orbit_posterior import COEFFICIENTS, LONGEST_WAIT, ONSET_PRESSURES, SPEEDS, has_begun, posterior
from reentry.schema import ORBIT_FEATURES

SURE: Final = 1e-6
"""Smallest probability, of the onset and of its opposite, so that the logit is finite."""

SOON: Final = 5.0
"""Time of an input, s: the probability that the onset comes within it."""

SLOWEST_RISE: Final = 0.01
"""Smallest relative rate of the dynamic pressure by which the time to the onset is predicted, 1/s."""

ORBIT_INPUTS: Final = 9
"""Number of inputs. The last one is the logit of the probability that the onset has passed."""


class OrbitInputs(nn.Module):
    """Turns the features of the orbit filter into inputs of about unit size."""

    prior: Tensor
    """(R, G), probability of each coefficient at each speed."""

    def __init__(self) -> None:
        super().__init__()
        shape = len(SPEEDS), len(COEFFICIENTS)
        self.register_buffer("prior", torch.full(shape, 1.0 / len(COEFFICIENTS)))

    def forward(self, features: dict[str, Tensor]) -> list[Tensor]:
        """Features of `schema.ORBIT_FEATURES` by name, (B, T) each -> `ORBIT_INPUTS` inputs (B, T).

        All inputs are 0 where the filter knows nothing.
        """
        known, drag_factor, deviation, peak, rise, speed = (features[name] for name in ORBIT_FEATURES)
        deviation = torch.where(known > 0.0, deviation, 1.0)
        weight = posterior(drag_factor, deviation, speed, self.prior)  # (B, T, G)
        passed = torch.clamp(has_begun(weight, peak), SURE, 1.0 - SURE)
        limits = torch.tensor(ONSET_PRESSURES, dtype=peak.dtype, device=peak.device)
        missing = torch.clamp(limits - (peak * math.log(10.0)).unsqueeze(-1), min=0.0)
        wait = torch.clamp(missing / torch.clamp(rise, min=SLOWEST_RISE).unsqueeze(-1), max=LONGEST_WAIT)  # (B, T, G)
        mean = (weight * wait).sum(dim=-1)
        spread = torch.sqrt((weight * (wait - mean.unsqueeze(-1)) ** 2).sum(dim=-1))
        soon = (weight * torch.sigmoid(SOON - wait)).sum(dim=-1)
        inputs = [
            known,
            torch.log10(torch.clamp(deviation, 1e-3, 1e3)) / 2.0,
            torch.clamp(peak, -3.0, 6.0) / 3.0,
            rise * 5.0,
            speed / 4_000.0 - 1.0,
            mean / 30.0,
            spread / 15.0,
            soon,
            torch.log(passed) - torch.log(1.0 - passed),
        ]
        # NaN, of features that were not computed, must reach the probability.
        return [torch.where(known == 0.0, 0.0, x) for x in inputs]
