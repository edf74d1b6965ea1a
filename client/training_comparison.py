"""Comparison of a scored file with the training data: the server's findings for its tracks, counted, as warnings."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from reentry.errors import ClientError
from reentry.schema import UNLIKE_TRAINING
from reentry.track_quantities import DRIFT, QUANTITIES, Quantity
from reentry.training_range import Finding, from_json, limits


@dataclass(frozen=True, slots=True, kw_only=True)
class UnlikeTraining:
    """A quantity in which tracks of a file lie outside the range of the training data."""

    quantity: str
    """Name of the quantity: one of `training_range.QUANTITIES`, or `drift.FEATURE`."""
    tracks: int
    """Number of tracks outside the range."""
    lowest: float
    """Lowest value among these tracks."""
    highest: float
    """Highest value among these tracks."""
    training_low: float
    """Lowest value in the training data."""
    training_high: float
    """Highest value in the training data."""


class TrainingComparison:
    """Counts of the tracks outside the training range; its memory does not grow with the file."""

    def __init__(self) -> None:
        self._tracks = 0
        self._range_unknown = False
        self.compared = 0
        """Number of tracks that the server compared with the training data."""
        self._unlike: dict[str, UnlikeTraining] = {}

    def add(self, text: str | None) -> None:
        """Count a track with `Score.unlike_training`."""
        self._tracks += 1
        if not text:
            self._range_unknown |= text is not None
            return
        self.compared += 1
        for finding in from_json(text):
            before = self._unlike.get(finding.quantity)
            self._unlike[finding.quantity] = UnlikeTraining(
                quantity=finding.quantity,
                tracks=1 + (before.tracks if before else 0),
                lowest=min(finding.value, before.lowest if before else finding.value),
                highest=max(finding.value, before.highest if before else finding.value),
                training_low=finding.low,
                training_high=finding.high,
            )

    def unlike(self) -> list[UnlikeTraining] | None:
        """Return the quantities outside the training range; None if the server compared no track."""
        if not self.compared:
            return None
        order = {quantity.name: index for index, quantity in enumerate(QUANTITIES)}
        return sorted(self._unlike.values(), key=lambda each: (order.get(each.quantity, len(order)), each.quantity))

    def warnings(self, model_version: int | None) -> list[str]:
        """Return one line for each quantity, and one line for all features whose distribution drifted."""
        unlike = self.unlike()
        if unlike is None:
            missing = (
                "the tracks were not compared with the training data: the server has no training range for model "
                f"version {model_version}; fix: train and export again with this release"
            )
            return [missing] if self._range_unknown else []
        known = {quantity.name: quantity for quantity in QUANTITIES}
        lines = [self._line(known[each.quantity], each) for each in unlike if each.quantity in known]
        drifted = sorted((each for each in unlike if each.quantity not in known), key=lambda each: -each.tracks)
        if drifted:
            features = ", ".join(
                f"{each.quantity.removeprefix(f'{DRIFT}.')} ({each.tracks:,} of {self._total})" for each in drifted
            )
            lines.append(f"features with a distribution that no training track has: {features}")
        return [f"unlike the training of model version {model_version}: {line}" for line in lines]

    @property
    def _total(self) -> str:
        return f"{self.compared:,} {'tracks' if self.compared == self._tracks else 'compared tracks'}"

    def _line(self, quantity: Quantity, unlike: UnlikeTraining) -> str:
        mistake = next((f" ({text}?)" for factor, text in quantity.misread if _explains(unlike, factor)), "")
        return (
            f"{quantity.title} {_span(unlike.lowest, unlike.highest, quantity.unit)} in {unlike.tracks:,} of "
            f"{self._total}, {_span(unlike.training_low, unlike.training_high, quantity.unit)} in training" + mistake
        )


def unlike_training(tensor: npt.NDArray[Any] | None, track: int) -> str | None:
    """Return the server's findings for one track of an answer, as JSON.

    Args:
        tensor: the output `unlike_training`, (B, 1); None if the model has no such output.
        track: index of the track in the request.

    Returns:
        The findings; empty if the server has no training range to compare with, None if it compared no track.

    Raises:
        ClientError: the text is not a list of findings.
    """
    if tensor is None:
        return None
    text = np.asarray(tensor).reshape(-1)[track]
    try:
        if text:
            _findings(text)
        return text.decode() if isinstance(text, bytes) else str(text)
    except ValueError as error:
        raise ClientError(f"the server's answer is invalid: {UNLIKE_TRAINING.name}: {error}") from error


@lru_cache(maxsize=1_024)
def _findings(text: str | bytes) -> tuple[Finding, ...]:
    """Decode findings, which are needed more than once while a track is answered."""
    return tuple(from_json(text))


def quantities_of(text: str | None) -> tuple[str, ...] | None:
    """Return the names of the quantities in the findings of a track, interned because most tracks share them."""
    return None if not text else tuple(sys.intern(finding.quantity) for finding in _findings(text))


def _explains(unlike: UnlikeTraining, factor: float) -> bool:
    """Return whether the factor would bring all tracks into the training range."""
    low, high = limits(unlike.quantity, unlike.training_low, unlike.training_high)
    return low <= unlike.lowest * factor and unlike.highest * factor <= high


def _span(low: float, high: float, unit: str) -> str:
    """Format a range with its unit and four digits, as a single value if both ends look the same."""
    ends = list(dict.fromkeys(f"{end:,.0f}" if abs(end) >= 1e4 else f"{end:.4g}" for end in (low, high)))
    return " to ".join(ends) + (f" {unit}" if unit else "")
