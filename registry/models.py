"""The models whose versions the registry keeps, and everything that differs between them.

To add a model, declare its tensors in `reentry.schema`, add an entry to `MODELS`, and put its config.pbtxt into the
model repository. Stores, labels, promotion and trial then take the model by its name.

Shapes: B tracks, T steps, F features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from reentry.schema import (
    CANDIDATE_ENSEMBLE,
    CANDIDATE_LSTM,
    DERIVED_MODELS,
    ENSEMBLE,
    FEATURES,
    FEATURES_TENSOR,
    MEASUREMENT_COLUMNS,
    PROBABILITY,
    REENTRY_LSTM,
    SCHEMA_VERSION,
    Model,
)

Arrays = Mapping[str, npt.NDArray[Any]]
"""Arrays by tensor name; the first dimension of each is the batch."""

DEFAULT_MODEL: Final = REENTRY_LSTM.name
"""Name of the model that a caller gets who names none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionedModel:
    """A model of the repository that has versions."""

    tensors: Model
    """Name of the model, and its input and output tensors, of which `MODEL_VERSION` is one."""
    schema_version: int
    """Schema version of the inputs that the server sends; a version for another schema is never promoted."""
    metric: str
    """Name of the metric in `Manifest.metrics` that compares versions; the lower, the better."""
    unit: str
    """Unit of the metric; empty if it has none."""
    trial_inputs: Callable[[], Arrays]
    """Function that makes the inputs of the trial request."""
    trial_fault: Callable[[Arrays, Arrays], str | None]
    """Function that takes the trial's inputs and outputs and returns why the outputs are wrong, or None."""

    @property
    def name(self) -> str:
        """Name of the model in the repository, in the server and in error messages."""
        return self.tensors.name


def _flight_features() -> Arrays:
    """Features of two simulated flights, (B, T, F)."""
    # Imported here: an image that only serves has no simulation.
    from reentry.features.track import track_features
    from reentry.simulation import TrapezoidConfig, simulate_trapezoid

    steps = 600
    flights = simulate_trapezoid(TrapezoidConfig(tracks=2, shortest=steps, longest=steps, labels=False))
    measurements = flights[list(MEASUREMENT_COLUMNS)].to_numpy(np.float64).reshape(2, steps, -1)
    features = track_features(measurements)
    fill_orbit_features(features)
    return {FEATURES_TENSOR.name: features}


def fill_orbit_features(features: npt.NDArray[np.float32]) -> None:
    """Fill plausible orbit features into the second half of flights (B, T, F), in place, in the order of the steps.

    The simulated flights of the trial are not ballistic, so the orbit filter would never answer.
    """
    second = features[:, features.shape[1] // 2 :]
    values = {
        "orbit_known": 1.0,
        "orbit_drag_factor": 0.3,
        "orbit_drag_deviation": 0.1,
        "orbit_peak_pressure": np.linspace(-2.0, 5.0, second.shape[1]),
        "orbit_pressure_rise": 0.2,
        "orbit_entry_speed": 5_000.0,
    }
    for name, value in values.items():
        second[..., FEATURES.index(name)] = value


def _probability_fault(inputs: Arrays, outputs: Arrays) -> str | None:
    tracks, probability = inputs[FEATURES_TENSOR.name].shape[:2], outputs[PROBABILITY.name]
    if probability.shape != tracks:
        return f"{PROBABILITY.name} has shape {probability.shape} for tracks of shape {tracks}"
    if not np.all((probability >= 0) & (probability <= 1)):  # also true for NaN
        return f"{PROBABILITY.name} is not between 0 and 1 for a simulated flight"
    return None


_LSTM: Final = VersionedModel(
    tensors=REENTRY_LSTM,
    schema_version=SCHEMA_VERSION,
    metric="onset_rmse",
    unit="s",
    trial_inputs=_flight_features,
    trial_fault=_probability_fault,
)

MODELS: Final = {model.name: model for model in (_LSTM,)}
"""Every model with versions that users manage, by its name."""

DERIVED: Final = {derived: replace(_LSTM, tensors=derived.model) for derived in DERIVED_MODELS}
"""Models that get their versions from reentry_lstm, see `registry.derived_models`. They have no trial of their own."""

ENSEMBLE_FILES: Final = replace(_LSTM, tensors=ENSEMBLE)
"""The ensemble of the version in production. It has no versions of its own."""

CANDIDATE: Final = replace(_LSTM, tensors=CANDIDATE_LSTM)
"""The network of the served candidate, see `registry.candidate`. It has the trial of reentry_lstm."""

CANDIDATE_ENSEMBLE_FILES: Final = replace(_LSTM, tensors=CANDIDATE_ENSEMBLE)
"""The ensemble of the served candidate."""
