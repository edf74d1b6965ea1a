"""Names and types shared by every stage: track columns, features, models and their tensors.

Everything that crosses a boundary (a file, a checkpoint, the ONNX graph, Triton) is declared here once. Tests compare
the config.pbtxt files with these declarations.

Shapes: B tracks, T steps, M measurement columns, F features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

SCHEMA_VERSION: Final = 5
"""Version of the declarations below. It increases when a column, a feature or a tensor changes, and checkpoints of
other versions are rejected."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a track table."""

    name: str
    dtype: str
    """numpy type name."""
    unit: str
    meaning: str
    low: float | None = None
    """Smallest valid value."""
    high: float | None = None
    """Largest valid value."""

    @property
    def too_low(self) -> str:
        """Error text for a value below `low`."""
        return f"below {self.low:g}{self._unit}"

    @property
    def too_high(self) -> str:
        """Error text for a value above `high`."""
        hint = "; milliseconds? expected seconds" if self.name == "timestamp" else ""
        return f"above {self.high:g}{self._unit}{hint}"

    @property
    def _unit(self) -> str:
        return f" {self.unit}" if self.unit not in ("", "-", "0/1") else ""


TIMESTAMP: Final = Column("timestamp", "float64", "s", "Unix time", low=0.0, high=1e11)
TRACK_ID: Final = Column("track_id", "int64", "", "identifies the flight")
SENSOR_ID: Final = Column("sensor_id", "int64", "", "identifies the sensor")
LATITUDE: Final = Column("latitude", "float64", "degrees", "geodetic, north positive", low=-90.0, high=90.0)
LONGITUDE: Final = Column("longitude", "float64", "degrees", "east positive", low=-360.0, high=360.0)
ALTITUDE: Final = Column("altitude", "float64", "m", "above sea level", low=-1e5, high=1e8)
RADIOMETRIC_INTENSITY: Final = Column("radiometric_intensity", "float64", "-", "relative brightness")
REENTRY_PHASE: Final = Column("reentry_phase", "int8", "0/1", "1 from the onset of reentry", low=0, high=1)

TRACK_COLUMNS: Final = (TIMESTAMP, TRACK_ID, SENSOR_ID, LATITUDE, LONGITUDE, ALTITUDE, RADIOMETRIC_INTENSITY)
"""Columns of every track table, in the order of the public files. Labelled tables also have REENTRY_PHASE."""

MEASUREMENT_COLUMNS: Final = tuple(
    column.name for column in (TIMESTAMP, LATITUDE, LONGITUDE, ALTITUDE, RADIOMETRIC_INTENSITY, SENSOR_ID)
)
"""Columns of one measurement, (M,) float64: the input of the served model at each step."""

LONGEST_TRACK: Final = 100_000
"""Maximum number of steps of a track, padding included, that a server accepts; more than a day at 1 Hz."""

LARGEST_REQUEST: Final = 2**18
"""Maximum total number of steps in a request, padding included: about 200 MB of memory in the server. A network with
orbit features takes 610 MB more in each instance of reentry_lstm, and ONNX Runtime keeps it for later requests."""

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
"""Features that are computed directly from a few measurements."""

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
"""Features that are robust to outliers, gaps and handovers. They are slower, so a server computes them only if an
installed network uses one."""

ORBIT_FEATURES: Final = (
    "orbit_known",
    "orbit_drag_factor",
    "orbit_drag_deviation",
    "orbit_peak_pressure",
    "orbit_pressure_rise",
    "orbit_entry_speed",
)
"""Results of the orbit filter, which follows a body in free flight, see `reentry.features.orbit`. They need a compiler,
so a server computes them only if an installed network uses them. A network uses all of them or none."""

COSTLY_GROUPS: Final = {"robust": ROBUST_FEATURES, "orbit": ORBIT_FEATURES}
"""Features that are computed only if a network uses one of their group, by the name of the group."""

FEATURES: Final = (*SIMPLE_FEATURES, *ROBUST_FEATURES, *ORBIT_FEATURES)
"""Model inputs in order, (F,) float32. `reentry.features.track` defines each one."""

FRACTIONS: Final = ("altitude_fraction", "elapsed_fraction", "intensity_fraction")
"""Features that are a fraction, either of a peak value or of the flight time."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A model input or output. `dims` exclude the batch axis, and -1 stands for any size."""

    name: str
    dtype: str
    """Triton type name, without the prefix TYPE_ of config.pbtxt."""
    dims: tuple[int, ...]
    meaning: str


MEASUREMENTS: Final = Tensor(
    "measurements",
    "FP64",
    (-1, len(MEASUREMENT_COLUMNS)),
    "columns as MEASUREMENT_COLUMNS, rows by time; the last row of a shorter track is repeated as padding",
)
TRACK_LENGTH: Final = Tensor("track_length", "INT32", (1,), "number of steps of the track without padding")
TRACK_ID_TENSOR: Final = Tensor("track_id", "INT64", (1,), "identifies the track in the prediction log")
FEATURES_TENSOR: Final = Tensor("features", "FP32", (-1, len(FEATURES)), "columns as FEATURES")
PROBABILITY: Final = Tensor("reentry_probability", "FP32", (-1,), "probability of reentry at each step")
PHASE: Final = Tensor("reentry_phase", "UINT8", (-1,), "1 during reentry")
ONSET_STEP: Final = Tensor("onset_step", "INT32", (1,), "first step of reentry; -1: no onset")
NO_ONSET_TIMESTAMP: Final = -1.0
"""Onset timestamp of a track without an onset. Track times are never negative, and JSON has no NaN."""

ONSET_TIMESTAMP: Final = Tensor(
    "onset_timestamp", "FP64", (1,), f"Unix time of the onset step, s; {NO_ONSET_TIMESTAMP:g}: no onset"
)
NOT_REFINED: Final = -1.0
"""Value of the outputs of a refined onset that is unknown. Times, deviations and hindsight are never negative."""
REFINED_ONSET: Final = Tensor(
    "refined_onset_timestamp",
    "FP64",
    (1,),
    f"Unix time of the onset by the measurements after the alarm, s; {NOT_REFINED:g}: unknown",
)
REFINED_DEVIATION: Final = Tensor(
    "refined_onset_deviation",
    "FP64",
    (1,),
    f"standard deviation of refined_onset_timestamp, s; {NOT_REFINED:g}: unknown",
)
HINDSIGHT: Final = Tensor(
    "hindsight_seconds",
    "FP64",
    (1,),
    f"time from onset_timestamp to the last measurement of the refined onset, s; {NOT_REFINED:g}: unknown",
)
MODEL_VERSION: Final = Tensor("model_version", "INT64", (1,), "version of reentry_lstm that made the prediction")
UNLIKE_TRAINING: Final = Tensor(
    "unlike_training",
    "STRING",
    (1,),
    "JSON list of findings of `reentry.training_range`; empty text if the range is unknown",
)
STARTED_AT: Final = Tensor(
    "started_at",
    "FP64",
    (1,),
    "start of the inference, s on the server's monotonic clock; the prediction log measures from here",
)

STEP_FEATURES: Final = Tensor("features", "FP32", (len(FEATURES),), "features of one step")
STEP_PROBABILITY: Final = Tensor("reentry_probability", "FP32", (1,), "probability of reentry at this step")
HIDDEN_STATE: Final = Tensor("hidden_state", "FP32", (-1, -1), "layers, hidden units; 0 at the start of a track")
CELL_STATE: Final = Tensor("cell_state", "FP32", (-1, -1), "layers, LSTM cells; 0 at the start of a track")
NEXT_HIDDEN_STATE: Final = Tensor("next_hidden_state", "FP32", (-1, -1), "hidden_state for the next step of the track")
NEXT_CELL_STATE: Final = Tensor("next_cell_state", "FP32", (-1, -1), "cell_state for the next step of the track")


@dataclass(frozen=True, slots=True)
class Model:
    """A Triton model and its tensors."""

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


TRACK_FEATURES: Final = Model("track_features", (TRACK_LENGTH, MEASUREMENTS), (FEATURES_TENSOR, STARTED_AT))
REENTRY_LSTM: Final = Model("reentry_lstm", (FEATURES_TENSOR,), (PROBABILITY, MODEL_VERSION))
TRACK_DECISION: Final = Model(
    "track_decision",
    inputs=(TRACK_ID_TENSOR, TRACK_LENGTH, MEASUREMENTS, FEATURES_TENSOR, PROBABILITY, MODEL_VERSION, STARTED_AT),
    outputs=(
        *(PROBABILITY, PHASE, ONSET_STEP, ONSET_TIMESTAMP, REFINED_ONSET, REFINED_DEVIATION, HINDSIGHT),
        *(MODEL_VERSION, UNLIKE_TRAINING),
    ),
)
ENSEMBLE: Final = Model("reentry", (TRACK_ID_TENSOR, TRACK_LENGTH, MEASUREMENTS), TRACK_DECISION.outputs)
CANDIDATE_LSTM: Final = Model("reentry_lstm_candidate", REENTRY_LSTM.inputs, REENTRY_LSTM.outputs)
"""Another version of reentry_lstm, which is served beside the one in production; see `registry.candidate`."""
CANDIDATE_ENSEMBLE: Final = Model("reentry_candidate", ENSEMBLE.inputs, ENSEMBLE.outputs)
"""The ensemble `reentry` with `CANDIDATE_LSTM` as its network."""
REENTRY_TRACK: Final = Model(
    "reentry_track", (TRACK_LENGTH, MEASUREMENTS), (PROBABILITY, PHASE, ONSET_STEP, ONSET_TIMESTAMP, MODEL_VERSION)
)
"""The whole way from measurements to the onset in one ONNX graph. It cannot refuse a request, so it answers a fault in
the measurements with the values of `INVALID`."""
INVALID: Final = {
    PROBABILITY.name: float("nan"),
    PHASE.name: 255,
    ONSET_STEP.name: -2,
    ONSET_TIMESTAMP.name: float("nan"),
}
"""Outputs of `REENTRY_TRACK` for an invalid track: probability and phase from the step of the fault on, and both values
of the onset."""
TRACK_MONITOR: Final = Model(
    "track_monitor",
    inputs=(TRACK_ID_TENSOR, TRACK_LENGTH, PHASE, ONSET_STEP, ONSET_TIMESTAMP, MODEL_VERSION),
    outputs=(ONSET_STEP,),
)
"""Refuses the invalid tracks of `REENTRY_TRACK`, writes the prediction log and counts. It returns a tensor that it only
passes on, so that an answer waits for it and a refusal replaces the answer."""
REENTRY_FAST: Final = Model("reentry_fast", ENSEMBLE.inputs, REENTRY_TRACK.outputs)
"""The ensemble of `REENTRY_TRACK` and `TRACK_MONITOR`: the fastest way to score tracks."""
REENTRY_STEP: Final = Model(
    "reentry_step",
    inputs=(STEP_FEATURES, HIDDEN_STATE, CELL_STATE),
    outputs=(STEP_PROBABILITY, NEXT_HIDDEN_STATE, NEXT_CELL_STATE, MODEL_VERSION),
)
"""The network for one step of a live track, whose state the caller keeps. It is a file beside each version of
reentry_lstm, not a model of the repository."""
STATE_SIZE: Final = 1024
"""Numbers in the state of a live track. A network that needs fewer leaves the rest 0."""
MEASUREMENT: Final = Tensor(
    "measurement",
    "FP64",
    (len(MEASUREMENT_COLUMNS),),
    "columns as MEASUREMENT_COLUMNS, one measurement of a live track",
)
STREAM_PROBABILITY: Final = Tensor("reentry_probability", "FP32", (1,), "probability of reentry at this measurement")
STREAM_PHASE: Final = Tensor("reentry_phase", "UINT8", (1,), "1 during reentry")
ONSET: Final = Tensor("onset", "UINT8", (1,), "1 at the measurement with which the first reentry of the track begins")
ACCEPTED: Final = Tensor(
    "accepted", "UINT8", (1,), "0: the measurement is invalid, late or repeated, and changed nothing"
)
STREAM_STATE: Final = Tensor("state", "FP64", (STATE_SIZE,), "state of a live track; 0 before its first measurement")
NEXT_STREAM_STATE: Final = Tensor("next_state", "FP64", (STATE_SIZE,), "`state` for the next measurement of the track")
REENTRY_STREAM: Final = Model(
    "reentry_stream",
    inputs=(MEASUREMENT, STREAM_STATE),
    outputs=(STREAM_PROBABILITY, STREAM_PHASE, ONSET, ONSET_TIMESTAMP, ACCEPTED, MODEL_VERSION, NEXT_STREAM_STATE),
)
"""One measurement of a live track. Triton keeps the state of each track: clients neither send nor get it."""
LARGEST_SCAN: Final = 10_000
"""Maximum number of measurements in one scan."""
SCAN_TRACK_ID: Final = Tensor("track_id", "INT64", (-1,), "track of each measurement")
SCAN_MEASUREMENTS: Final = Tensor(
    "measurements",
    "FP64",
    (-1, len(MEASUREMENT_COLUMNS)),
    "columns as MEASUREMENT_COLUMNS, a row for each measurement",
)
SCAN_PROBABILITY: Final = Tensor("reentry_probability", "FP32", (-1,), "probability of reentry at each measurement")
SCAN_PHASE: Final = Tensor("reentry_phase", "UINT8", (-1,), "1 during reentry")
SCAN_ONSET: Final = Tensor("onset", "UINT8", (-1,), ONSET.meaning)
SCAN_ONSET_TIMESTAMP: Final = Tensor("onset_timestamp", "FP64", (-1,), ONSET_TIMESTAMP.meaning)
SCAN_REFINED_ONSET: Final = Tensor(REFINED_ONSET.name, "FP64", (-1,), REFINED_ONSET.meaning)
SCAN_REFINED_DEVIATION: Final = Tensor(REFINED_DEVIATION.name, "FP64", (-1,), REFINED_DEVIATION.meaning)
SCAN_ACCEPTED: Final = Tensor("accepted", "UINT8", (-1,), ACCEPTED.meaning)
STARTED: Final = Tensor(
    "started",
    "UINT8",
    (-1,),
    "1: the first accepted measurement of a track that the server does not know, or no more",
)
REENTRY_SCAN: Final = Model(
    "reentry_scan",
    inputs=(SCAN_TRACK_ID, SCAN_MEASUREMENTS),
    outputs=(
        *(SCAN_PROBABILITY, SCAN_PHASE, SCAN_ONSET, SCAN_ONSET_TIMESTAMP, SCAN_REFINED_ONSET, SCAN_REFINED_DEVIATION),
        *(SCAN_ACCEPTED, STARTED, MODEL_VERSION),
    ),
)
"""The measurements of one scan of a sensor, of many live tracks. A sequence is a feed, whose tracks the model keeps."""
RECURRENT_STATE: Final = Tensor(
    "recurrent_state", "FP32", (-1,), "state of the LSTM; missing numbers count as 0, the start of a track"
)
NEXT_RECURRENT_STATE: Final = Tensor("next_recurrent_state", "FP32", (-1,), "recurrent_state for the next step")
SCAN_STEP: Final = Model(
    "scan_step",
    inputs=(STEP_FEATURES, RECURRENT_STATE),
    outputs=(STEP_PROBABILITY, NEXT_RECURRENT_STATE, MODEL_VERSION),
)
"""The network for one step of many live tracks, which `REENTRY_SCAN` calls."""


@dataclass(frozen=True, slots=True)
class DerivedModel:
    """A model whose graph is a file beside each version of reentry_lstm; it serves the version in production too."""

    model: Model
    file: str
    """Name of the file in the folder of a version."""
    needed_by: tuple[Model, ...] = ()
    """Other models that are served only if this one has a version, each after those that it needs itself."""

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.model.name

    @property
    def served_with(self) -> tuple[Model, ...]:
        """The model and those that need it."""
        return (self.model, *self.needed_by)


TRACK_GRAPH: Final = DerivedModel(REENTRY_TRACK, "track.onnx", needed_by=(TRACK_MONITOR, REENTRY_FAST))
STREAM_GRAPH: Final = DerivedModel(REENTRY_STREAM, "stream.onnx")
SCAN_GRAPH: Final = DerivedModel(SCAN_STEP, "scan.onnx", needed_by=(REENTRY_SCAN,))
DERIVED_MODELS: Final = (TRACK_GRAPH, STREAM_GRAPH, SCAN_GRAPH)
"""Models that follow reentry_lstm. They serve ONNX graphs in every served format, because the features need float64,
which TensorRT does not have."""
MODELS: Final = (
    *(TRACK_FEATURES, REENTRY_LSTM, TRACK_DECISION, ENSEMBLE),
    *(REENTRY_TRACK, TRACK_MONITOR, REENTRY_FAST),
    *(REENTRY_STREAM, SCAN_STEP, REENTRY_SCAN),
)
"""Models of the repository."""
