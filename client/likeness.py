"""How like its training a scored file is: what the server found track by track, counted, and as warnings."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from reentry.errors import ClientError
from reentry.schema import UNLIKE_TRAINING
from reentry.track_quantities import DRIFT, QUANTITIES, Quantity
from reentry.training_range import from_json, limits


@dataclass(frozen=True, slots=True, kw_only=True)
class Unlike:
    """A quantity in which tracks of a file lie outside the range of the training."""

    quantity: str
    """Of `training_range.QUANTITIES`, or `drift.FEATURE`."""
    tracks: int
    """How many."""
    lowest: float
    """Least among them."""
    highest: float
    """Most among them."""
    training_low: float
    """Least in the training."""
    training_high: float
    """Most in the training."""


class Likeness:
    """Counts of a file's tracks that are unlike the training; memory does not grow with the file."""

    def __init__(self) -> None:
        self._tracks = 0
        self._unknown = 0
        self._unlike: dict[str, Unlike] = {}

    def add(self, text: str | None) -> None:
        """Count a track, by the server's findings."""
        self._tracks += 1
        if text is None:
            self._unknown += 1
            return
        for finding in from_json(text):
            before = self._unlike.get(finding.quantity)
            self._unlike[finding.quantity] = Unlike(
                quantity=finding.quantity,
                tracks=1 + (before.tracks if before else 0),
                lowest=min(finding.value, before.lowest if before else finding.value),
                highest=max(finding.value, before.highest if before else finding.value),
                training_low=finding.low,
                training_high=finding.high,
            )

    def unlike(self) -> list[Unlike] | None:
        """The quantities that lie outside; None if the server has compared no track."""
        if self._tracks == self._unknown:
            return None
        named = [quantity.name for quantity in QUANTITIES]
        order = {name: place for place, name in enumerate(named)}
        return sorted(self._unlike.values(), key=lambda each: (order.get(each.quantity, len(named)), each.quantity))

    def warnings(self, model_version: int | None) -> list[str]:
        """One line for each quantity, and one for the distributions of all features."""
        found = self.unlike()
        if not self._tracks:
            return []
        if found is None:
            return [
                "warning: the tracks were not compared with the training: the server has no training range of model "
                f"version {model_version}; fix: train and export again with this release, into a folder of the server"
            ]
        titles = {quantity.name: quantity for quantity in QUANTITIES}
        lines = [self._line(titles[each.quantity], each) for each in found if each.quantity in titles]
        drifted = sorted((each for each in found if each.quantity not in titles), key=lambda each: -each.tracks)
        if drifted:
            features = ", ".join(
                f"{each.quantity.removeprefix(f'{DRIFT}.')} ({each.tracks:,} of {self._tracks:,} tracks)"
                for each in drifted
            )
            lines.append(f"features distributed as in no training track: {features}")
        return [f"warning: unlike the training of model version {model_version}: {line}" for line in lines]

    def _line(self, quantity: Quantity, unlike: Unlike) -> str:
        mistake = next((f" ({text}?)" for factor, text in quantity.misread if _explains(unlike, factor)), "")
        return (
            f"{quantity.title} {_span(unlike.lowest, unlike.highest, quantity.unit)} in {unlike.tracks:,} of "
            f"{self._tracks:,} tracks, {_span(unlike.training_low, unlike.training_high, quantity.unit)} in training"
            + mistake
        )


def unlike_training(tensor: npt.NDArray[Any] | None, track: int) -> str | None:
    """The server's findings of a track of an answer; None if it does not know, as a server of an older release.

    Raises:
        ClientError: the answer is no list of findings.
    """
    if tensor is None:
        return None
    text = np.asarray(tensor).reshape(-1)[track]
    if not text:
        return None
    try:
        from_json(text)
        return text.decode() if isinstance(text, bytes) else str(text)
    except ValueError as error:
        raise ClientError(f"the server's answer is invalid: {UNLIKE_TRAINING.name}: {error}") from error


def quantities_of(text: str | None) -> tuple[str, ...] | None:
    """Names of the quantities in the findings of a track; each name is one string however many tracks have it."""
    return None if text is None else tuple(sys.intern(finding.quantity) for finding in from_json(text))


def _explains(unlike: Unlike, factor: float) -> bool:
    """Whether the factor would bring all tracks into the range."""
    low, high = limits(unlike.quantity, unlike.training_low, unlike.training_high)
    return low <= unlike.lowest * factor and unlike.highest * factor <= high


def _span(low: float, high: float, unit: str) -> str:
    """A range with its unit; four digits, and one value where both ends are the same."""
    ends = list(dict.fromkeys(f"{end:,.0f}" if abs(end) >= 1e4 else f"{end:.4g}" for end in (low, high)))
    return " to ".join(ends) + (f" {unit}" if unit else "")
