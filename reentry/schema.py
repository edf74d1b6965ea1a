"""The names every stage shares: columns and their units, features in order, models and their tensors.

Whatever crosses a boundary (a file, a checkpoint, the ONNX graph, Triton) is declared here once. The config.pbtxt files
are tested against it.

Shapes: B tracks, T steps, M measurement columns, F features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

SCHEMA_VERSION: Final = 4
"""Raised when a column, a feature or a tensor changes; a checkpoint of another version is refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column of a track table."""

    name: str
    dtype: str
    """numpy's name of the type."""
    unit: str
    meaning: str
    low: float | None = None
    """Smallest value that can be true."""
    high: float | None = None
    """Largest value that can be true."""

    @property
    def too_low(self) -> str:
        """What a value below `low` is called in an error."""
        return f"below {self.low:g}{self._unit}"

    @property
    def too_high(self) -> str:
        """What a value above `high` is called in an error."""
        hint = "; milliseconds? expected seconds" if self.name == "timestamp" else ""
        return f"above {self.high:g}{self._unit}{hint}"

    @property
    def _unit(self) -> str:
        return f" {self.unit}" if self.unit not in ("", "-", "0/1") else ""


TIMESTAMP: Final = Column(name="timestamp", dtype="float64", unit="s", meaning="Unix time", low=0.0, high=1e11)
TRACK_ID: Final = Column(name="track_id", dtype="int64", unit="", meaning="the flight")
SENSOR_ID: Final = Column(name="sensor_id", dtype="int64", unit="", meaning="who measured")
LATITUDE: Final = Column(
    name="latitude", dtype="float64", unit="degrees", meaning="geodetic, north positive", low=-90.0, high=90.0
)
LONGITUDE: Final = Column(
    name="longitude", dtype="float64", unit="degrees", meaning="east positive", low=-360.0, high=360.0
)
ALTITUDE: Final = Column(name="altitude", dtype="float64", unit="m", meaning="above sea level", low=-1e5, high=1e8)
RADIOMETRIC_INTENSITY: Final = Column(
    name="radiometric_intensity", dtype="float64", unit="-", meaning="relative brightness"
)
REENTRY_PHASE: Final = Column(
    name="reentry_phase", dtype="int8", unit="0/1", meaning="1 from the onset of reentry on", low=0, high=1
)

TRACK_COLUMNS: Final = (
    TIMESTAMP,
    TRACK_ID,
    SENSOR_ID,
    LATITUDE,
    LONGITUDE,
    ALTITUDE,
    RADIOMETRIC_INTENSITY,
)
"""Columns of every track table, in the order of the public files; labelled ones add REENTRY_PHASE."""

MEASUREMENT_COLUMNS: Final = (
    TIMESTAMP.name,
    LATITUDE.name,
    LONGITUDE.name,
    ALTITUDE.name,
    RADIOMETRIC_INTENSITY.name,
    SENSOR_ID.name,
)
"""Columns of one measurement, (M,) float64: what the served model takes for each step."""

LONGEST_TRACK: Final = 100_000
"""Maximum number of steps of a track, padding included, that a server accepts; more than a day at 1 Hz."""

LARGEST_REQUEST: Final = 2**18
"""Most steps of all tracks of a request together, padding included: some 200 MB of memory in the server."""

SIMPLE_FEATURES: Final = (
    "altitude",
    "altitude_fraction",
    "elapsed_fraction",
    "climb_rate",
    "ground_speed",
    "intensity",
    "intensity_fraction",
    "time_step",
)
"""Those of a few measurements, as they are."""

ROBUST_FEATURES: Final = (
    "speed",
    "filtered_climb_rate",
    "log_dynamic_pressure",
    "drag_short",
    "drag_medium",
    "drag_long",
    "log_intensity",
    "log_intensity_rise",
    "handover",
    "drop_from_peak",
)
"""Those that see through outliers, gaps and handovers; they take longer, so a server computes them only where a
network looks at one."""

FEATURES: Final = (*SIMPLE_FEATURES, *ROBUST_FEATURES)
"""Model inputs in order, (F,) float32; `reentry.features.track` says how each is made."""

FRACTIONS: Final = ("altitude_fraction", "elapsed_fraction", "intensity_fraction")
"""The features that are a share: of a peak, 1 at the peak, or of the flight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """A tensor at a boundary. `dims` leave the batch out, -1 is any size."""

    name: str
    dtype: str
    """Triton's name of the type, without the TYPE_ of config.pbtxt."""
    dims: tuple[int, ...]
    meaning: str


MEASUREMENTS: Final = Tensor(
    name="measurements",
    dtype="FP64",
    dims=(-1, len(MEASUREMENT_COLUMNS)),
    meaning="measurements by time, columns as MEASUREMENT_COLUMNS; shorter tracks padded by their last row",
)
TRACK_LENGTH: Final = Tensor(
    name="track_length", dtype="INT32", dims=(1,), meaning="steps of the track; what follows is padding"
)
TRACK_ID_TENSOR: Final = Tensor(name="track_id", dtype="INT64", dims=(1,), meaning="for the prediction log")
FEATURES_TENSOR: Final = Tensor(name="features", dtype="FP32", dims=(-1, len(FEATURES)), meaning="columns as FEATURES")
PROBABILITY: Final = Tensor(
    name="reentry_probability", dtype="FP32", dims=(-1,), meaning="probability of reentry at each step"
)
PHASE: Final = Tensor(name="reentry_phase", dtype="UINT8", dims=(-1,), meaning="1 in reentry")
ONSET_STEP: Final = Tensor(name="onset_step", dtype="INT32", dims=(1,), meaning="first step of reentry; -1: none")
NO_ONSET_TIMESTAMP: Final = -1.0
"""Onset timestamp of a track without an onset. No Unix time of a track is negative, and JSON has no NaN."""

ONSET_TIMESTAMP: Final = Tensor(
    name="onset_timestamp",
    dtype="FP64",
    dims=(1,),
    meaning=f"Unix time of that step, s; {NO_ONSET_TIMESTAMP:g}: no onset",
)
MODEL_VERSION: Final = Tensor(
    name="model_version", dtype="INT64", dims=(1,), meaning="version of reentry_lstm that answered"
)
UNLIKE_TRAINING: Final = Tensor(
    name="unlike_training",
    dtype="STRING",
    dims=(1,),
    meaning="JSON list of what lies outside the range of the training, `reentry.training_range`; empty text: unknown",
)
STARTED_AT: Final = Tensor(
    name="started_at",
    dtype="FP64",
    dims=(1,),
    meaning="when the server took the track up, s on its monotonic clock; for the prediction log's inference time",
)

STEP_FEATURES: Final = Tensor(name="features", dtype="FP32", dims=(len(FEATURES),), meaning="of one measurement")
STEP_PROBABILITY: Final = Tensor(
    name="reentry_probability", dtype="FP32", dims=(1,), meaning="probability of reentry at this step"
)
HIDDEN_STATE: Final = Tensor(
    name="hidden_state", dtype="FP32", dims=(-1, -1), meaning="layers, hidden units; 0 at the start of a track"
)
CELL_STATE: Final = Tensor(name="cell_state", dtype="FP32", dims=(-1, -1), meaning="the same of the LSTM's cells")
NEXT_HIDDEN_STATE: Final = Tensor(
    name="next_hidden_state", dtype="FP32", dims=(-1, -1), meaning="hidden_state of the track's next step"
)
NEXT_CELL_STATE: Final = Tensor(
    name="next_cell_state", dtype="FP32", dims=(-1, -1), meaning="cell_state of the track's next step"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model of the Triton repository and its tensors."""

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


TRACK_FEATURES: Final = Model(
    name="track_features", inputs=(TRACK_LENGTH, MEASUREMENTS), outputs=(FEATURES_TENSOR, STARTED_AT)
)
REENTRY_LSTM: Final = Model(name="reentry_lstm", inputs=(FEATURES_TENSOR,), outputs=(PROBABILITY, MODEL_VERSION))
TRACK_DECISION: Final = Model(
    name="track_decision",
    inputs=(TRACK_ID_TENSOR, TRACK_LENGTH, MEASUREMENTS, FEATURES_TENSOR, PROBABILITY, MODEL_VERSION, STARTED_AT),
    outputs=(PROBABILITY, PHASE, ONSET_STEP, ONSET_TIMESTAMP, MODEL_VERSION, UNLIKE_TRAINING),
)
ENSEMBLE: Final = Model(
    name="reentry",
    inputs=(TRACK_ID_TENSOR, TRACK_LENGTH, MEASUREMENTS),
    outputs=TRACK_DECISION.outputs,
)
REENTRY_STEP: Final = Model(
    name="reentry_step",
    inputs=(STEP_FEATURES, HIDDEN_STATE, CELL_STATE),
    outputs=(STEP_PROBABILITY, NEXT_HIDDEN_STATE, NEXT_CELL_STATE, MODEL_VERSION),
)
"""The network over one step of a live track, its state carried by the caller; a file beside each version of
reentry_lstm, not a model of the repository."""
MODELS: Final = (TRACK_FEATURES, REENTRY_LSTM, TRACK_DECISION, ENSEMBLE)
