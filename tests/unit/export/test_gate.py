"""Each check of the export gate rejects a format that is broken on purpose."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from export.config import ExportConfig
from export.gate import Verification, verify
from export.graphs import step_graph, whole_graph
from export.live_gate import LIVE_TRACKS, live_samples
from export.quantize import dynamic_int8
from export.scan_graph import scan_graph
from export.sessions import Array, Carried, DerivedSessions, OnnxSession, ScanSession, StreamSession, TrackSession
from export.signature import check_signature
from export.stream_graph import stream_graph
from export.track_graph import track_graph
from export.validation import flight_features
from reentry.errors import ExportError
from reentry.schema import (
    FEATURES,
    ORBIT_FEATURES,
    REENTRY_LSTM,
    REENTRY_STEP,
    REENTRY_STREAM,
    REENTRY_TRACK,
    SCAN_STEP,
)
from registry.formats import FORMATS, Format, Tolerance
from tests.exporting import checkpoint_of, deciding, flights
from tests.orbit import PRIOR
from training.checkpoint import Checkpoint
from training.config import ModelConfig
from training.data.samples import Sample

EXACT = FORMATS[Format.ONNX].tolerance
ROUNDED = FORMATS[Format.ONNX_INT8].tolerance
SHAPE = ModelConfig(hidden=8, harmonics=())
MODELS = (REENTRY_LSTM, REENTRY_STEP, REENTRY_TRACK, REENTRY_STREAM, SCAN_STEP)


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return deciding(SHAPE)


@pytest.fixture(scope="module")
def validation(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    return flights(tmp_path_factory.mktemp("flights"))


@pytest.fixture(scope="module")
def graphs(checkpoint: Checkpoint) -> dict[str, onnx.ModelProto]:
    return {
        "model.onnx": whole_graph(checkpoint, 1),
        "step.onnx": step_graph(checkpoint, 1),
        "track.onnx": track_graph(checkpoint, 1),
        "stream.onnx": stream_graph(checkpoint, 1),
        "scan.onnx": scan_graph(checkpoint, 1),
    }


@pytest.fixture
def paths(tmp_path: Path, graphs: dict[str, onnx.ModelProto]) -> tuple[Path, ...]:
    for name, graph in graphs.items():
        onnx.save(graph, tmp_path / name)
    return tuple(tmp_path / name for name in graphs)


def derived(paths: tuple[Path, ...], **changed: object) -> DerivedSessions:
    """Load the graphs of the derived models; some may be replaced by others."""
    track, stream, scan = paths[2:]
    return DerivedSessions(TrackSession(track), ScanSession(scan), StreamSession(stream))._replace(**changed)


class Changed:
    """A correct format whose answers are changed by two functions."""

    step_limit: int | None = None

    def __init__(
        self,
        paths: tuple[Path, ...],
        whole: Callable[[Array, Array], Array] = lambda _, probability: probability,
        step: Callable[[Array, Carried], tuple[Array, Carried]] = lambda probability, state: (probability, state),
    ) -> None:
        self._session, self._whole, self._step = OnnxSession(*paths[:2]), whole, step

    def whole(self, features: Array) -> tuple[Array, Array]:
        probability, version = self._session.whole(features)
        return self._whole(features, probability), version

    def step(self, features: Array, state: Carried) -> tuple[Array, Carried, Array]:
        probability, after, version = self._session.step(features, state)
        return (*self._step(probability, after), version)


def gate(
    session: object,
    checkpoint: Checkpoint,
    validation: list[Sample],
    tolerance: Tolerance = EXACT,
    version: int = 1,
    derived: object = None,
) -> Verification:
    return verify(
        session,
        checkpoint,
        ExportConfig(checkpoint=Path("model.ckpt"), repository="", batches=(1, 3), lengths=(1, 2, 40)),
        version=version,
        tolerance=tolerance,
        validation=validation,
        derived=derived,
    )


def test_a_correct_format_passes_and_is_measured(
    paths: tuple[Path, ...], checkpoint: Checkpoint, validation: list[Sample]
) -> None:
    for path, model in zip(paths, MODELS, strict=True):
        check_signature(path, model, SHAPE)
    found = gate(OnnxSession(*paths[:2]), checkpoint, validation, derived=derived(paths))
    assert (found.measured_phase_share, found.measured_onset_moved) == (0.0, 0)
    assert (found.live_phase_share, found.live_onset_moved) == (0.0, 0)
    assert (found.cases, found.tracks, found.steps) == (6, 3, sum(len(sample.track) for sample in validation))
    assert found.max_difference <= 1e-5
    assert found.prefix_difference <= 1e-5
    assert found.step_difference <= 1e-5
    assert (found.phase_share, found.onset_moved) == (0.0, 0)
    assert (found.stepped_phase_share, found.stepped_onset_moved) == (0.0, 0)
    assert found.metrics["missed_onsets"] == 0  # the network finds onsets
    assert found.as_dict()["passed"] is True


def rename(graph: onnx.ModelProto) -> None:
    graph.graph.input[0].name = "input.1"


def freeze(graph: onnx.ModelProto) -> None:
    graph.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 50


def retype(graph: onnx.ModelProto) -> None:
    graph.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE


@pytest.mark.parametrize("which", range(5), ids=[model.name for model in MODELS])
@pytest.mark.parametrize(
    ("damage", "tensor", "check", "got"),
    [
        (rename, "inputs", "names", "['input.1'"),
        (freeze, "reentry_probability", "axes", "[50, "),
        (retype, "reentry_probability", "types", str(onnx.TensorProto.DOUBLE)),
    ],
)
@pytest.mark.parametrize("quantised", [False, True], ids=["fp32", "int8"])
def test_a_graph_with_another_signature_is_rejected(
    paths: tuple[Path, ...],
    which: int,
    damage: Callable[[onnx.ModelProto], None],
    tensor: str,
    check: str,
    got: str,
    quantised: bool,
) -> None:
    graph = onnx.load(paths[which])
    if quantised:
        graph = dynamic_int8(graph)
    damage(graph)
    onnx.save(graph, paths[which])
    with pytest.raises(ExportError, match=f"check failed: {check}") as error:
        check_signature(paths[which], MODELS[which], SHAPE)
    assert str(error.value.where).endswith(tensor)
    assert str(error.value.got).startswith(got)


def at_step(step: int, value: float) -> Callable[[Array, Array], Array]:
    def change(features: Array, probability: Array) -> Array:
        if features.shape[1] > step:
            probability[:, step] = value
        return probability

    return change


def nudged(probability: Array, state: Carried) -> tuple[Array, Carried]:
    return probability, Carried(state.hidden + 0.01, state.cell)


@pytest.mark.parametrize(
    ("whole", "step", "where", "check"),
    [
        (lambda _, p: p[:, :1] if p.shape[1] > 1 else p, None, "batch 1, length 2", "shapes"),
        (at_step(1, np.nan), None, "batch 1, length 2", "finite values"),
        (at_step(0, 0.9), None, "track 0, step 0", "values against PyTorch"),
        (None, lambda p, s: (p[:0], s), "step 0, probability", "shapes"),
        (None, lambda p, s: (p, Carried(s.hidden[:, :, :1], s.cell)), "step 0, state", "shapes"),
        (None, lambda p, s: (p + np.nan, s), "step 0", "finite values"),
        (None, lambda p, s: (p + 2e-5, s), "step 0", "carried state"),
    ],
    ids=["shape", "finite", "values", "step shape", "state shape", "step finite", "carried"],
)
def test_each_check_of_computed_values_rejects_a_wrong_value(
    paths: tuple[Path, ...],
    checkpoint: Checkpoint,
    validation: list[Sample],
    whole,
    step,
    where: str,
    check: str,
) -> None:
    changes = {name: change for name, change in (("whole", whole), ("step", step)) if change is not None}
    with pytest.raises(ExportError) as error:
        gate(Changed(paths, **changes), checkpoint, validation)
    assert error.value.problem == f"check failed: {check}"
    assert str(error.value.where).endswith(where)
    if check in ("values against PyTorch", "carried state"):
        assert error.value.expected == "a difference of at most 1e-05"


def test_a_format_that_reads_a_feature_its_network_does_not_use_is_rejected(
    paths: tuple[Path, ...], checkpoint: Checkpoint, validation: list[Sample]
) -> None:
    other = FEATURES.index("drag_long")

    def swallowing(features: Array, probability: Array) -> Array:
        return np.where(np.isnan(features[..., other]), np.float32(0.25), probability)  # no NaN comes out

    def spreading(features: Array, probability: Array) -> Array:
        return probability + 0.0 * features[..., other]

    for change in (swallowing, spreading):
        with pytest.raises(ExportError, match="check failed: unused features"):
            gate(Changed(paths, whole=change), checkpoint, validation)


@pytest.mark.parametrize("make", [lambda graph: graph, dynamic_int8], ids=["fp32", "int8"])
def test_missing_features_do_not_change_a_network_that_does_not_use_them(
    tmp_path: Path, make: Callable[[onnx.ModelProto], onnx.ModelProto]
) -> None:
    other = checkpoint_of(ModelConfig(hidden=8, features=("altitude_fraction", "drag_long", "climb_rate")))
    onnx.save(make(whole_graph(other, 1)), tmp_path / "model.onnx")
    onnx.save(make(step_graph(other, 1)), tmp_path / "step.onnx")
    session = OnnxSession(tmp_path / "model.onnx", tmp_path / "step.onnx")
    features = flight_features(3, 40, seed=1)
    hidden = features.copy()
    hidden[..., [name not in other.model_config.features for name in FEATURES]] = np.nan
    np.testing.assert_array_equal(session.whole(hidden)[0], session.whole(features)[0])


def test_a_state_that_is_carried_wrongly_is_rejected(paths: tuple[Path, ...], validation: list[Sample]) -> None:
    other = checkpoint_of(ModelConfig(hidden=8))  # its output depends on the carried state
    onnx.save(whole_graph(other, 1), paths[0])
    onnx.save(step_graph(other, 1), paths[1])
    gate(OnnxSession(*paths[:2]), other, validation)
    with pytest.raises(ExportError, match="check failed: carried state"):
        gate(Changed(paths, step=nudged), other, validation)


def test_the_prefix_check_rejects_a_format_that_reads_the_future(
    paths: tuple[Path, ...], checkpoint: Checkpoint, validation: list[Sample]
) -> None:
    def future(_: Array, probability: Array) -> Array:  # within the tolerance from PyTorch, but not from each other
        return probability + np.float32({40: 6e-6, 20: -6e-6}.get(probability.shape[1], 0.0))

    with pytest.raises(ExportError, match="check failed: prefix"):
        gate(Changed(paths, whole=future), checkpoint, validation)


def test_a_format_that_returns_another_version_is_rejected(
    paths: tuple[Path, ...], checkpoint: Checkpoint, validation: list[Sample]
) -> None:
    with pytest.raises(ExportError, match="check failed: version") as error:
        gate(OnnxSession(*paths[:2]), checkpoint, validation, version=2)
    assert (error.value.expected, error.value.got) == ("[[2]]", "[[1]]")


def test_a_step_graph_of_another_version_is_rejected(
    paths: tuple[Path, ...], checkpoint: Checkpoint, validation: list[Sample]
) -> None:
    onnx.save(step_graph(checkpoint, 7), paths[1])
    with pytest.raises(ExportError, match="check failed: version") as error:
        gate(OnnxSession(*paths[:2]), checkpoint, validation)
    assert str(error.value.where).endswith("step 0")
    assert (error.value.expected, error.value.got) == ("[[1]]", "[[7]]")


def test_a_format_that_does_not_run_is_rejected(
    paths: tuple[Path, ...], checkpoint: Checkpoint, validation: list[Sample]
) -> None:
    def fail(_: Array, __: Array) -> Array:
        raise RuntimeError("no kernel")

    with pytest.raises(ExportError, match=r"batch 1, length 1: .*does not run: no kernel"):
        gate(Changed(paths, whole=fail), checkpoint, validation)


def onset_later(steps: int) -> Callable[[Array, Array], Array]:
    def change(_: Array, probability: Array) -> Array:
        return np.concatenate([np.repeat(probability[:, :1], steps, axis=1), probability], axis=1)[:, : -steps or None]

    return change


def test_a_rounded_format_must_keep_the_onset_of_every_track(
    paths: tuple[Path, ...], checkpoint: Checkpoint, validation: list[Sample]
) -> None:
    phases = replace(ROUNDED, phase_share=1.0)
    found = gate(Changed(paths, whole=onset_later(1)), checkpoint, validation, phases)
    assert found.onset_moved == 1
    with pytest.raises(ExportError, match="onset, tracks run alone") as error:
        gate(Changed(paths, whole=onset_later(2)), checkpoint, validation, phases)
    assert re.fullmatch(r"validation track \d+", str(error.value.where))
    assert re.fullmatch(r"step \d+, or at most 1 from it", str(error.value.expected))


def test_differences_of_a_rounded_format_are_measured_but_not_rejected(
    paths: tuple[Path, ...], checkpoint: Checkpoint, validation: list[Sample]
) -> None:
    found = gate(Changed(paths, whole=at_step(0, 0.3)), checkpoint, validation, ROUNDED)
    assert found.max_difference == pytest.approx(0.3, abs=1e-3)
    assert found.phase_share == 0.0


def test_a_rounded_format_must_keep_the_phases_of_all_steps(
    paths: tuple[Path, ...], checkpoint: Checkpoint, validation: list[Sample]
) -> None:
    def flicker(_: Array, probability: Array) -> Array:
        probability[:, -3:] = 0.0  # after the onset, which does not move
        return probability

    with pytest.raises(ExportError, match="phases, tracks run alone") as error:
        gate(Changed(paths, whole=flicker), checkpoint, validation, ROUNDED)
    assert error.value.where == "3 validation tracks"
    assert "0.10%" in str(error.value.expected)
    assert ", 9 of " in str(error.value.got)


def test_a_rounded_format_must_pass_the_task_in_batches(
    paths: tuple[Path, ...], checkpoint: Checkpoint, validation: list[Sample]
) -> None:
    def batch_dependent(features: Array, probability: Array) -> Array:  # the first track of a batch has no reentry
        if len(probability) > 1:
            probability[0] = 0.0
        return probability

    with pytest.raises(ExportError, match=r"validation track \d+: .*onset, tracks run in batches"):
        gate(Changed(paths, whole=batch_dependent), checkpoint, validation, ROUNDED)


def test_a_rounded_format_must_pass_the_task_step_by_step(
    paths: tuple[Path, ...], checkpoint: Checkpoint, validation: list[Sample]
) -> None:
    with pytest.raises(ExportError, match="onset, tracks run step by step"):
        gate(Changed(paths, step=lambda p, s: (p * 0, s)), checkpoint, validation, ROUNDED)


def test_wrong_int8_weights_are_rejected(
    paths: tuple[Path, ...], checkpoint: Checkpoint, validation: list[Sample]
) -> None:
    for path in paths:
        onnx.save(dynamic_int8(onnx.load(path)), path)
    gate(OnnxSession(*paths[:2]), checkpoint, validation, ROUNDED)
    graph = onnx.load(paths[0])
    head = next(
        tensor
        for tensor in graph.graph.initializer
        if tensor.data_type == onnx.TensorProto.INT8 and list(tensor.dims) == [8, 1]
    )
    head.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(head), head.name))
    onnx.save(graph, paths[0])
    with pytest.raises(ExportError, match="tracks run alone"):
        gate(OnnxSession(*paths[:2]), checkpoint, validation, ROUNDED)


def test_a_format_with_a_step_limit_runs_only_that_many_steps(
    paths: tuple[Path, ...], checkpoint: Checkpoint, validation: list[Sample]
) -> None:
    steps = []
    session = Changed(paths, step=lambda p, s: (steps.append(len(p)), (p, s))[1])
    session.step_limit = 4
    found = gate(session, checkpoint, validation)
    assert len(steps) == 2 * (1 + 2 + 4)
    assert found.stepped_onset_moved is None


def test_flight_features_are_whole_flights_or_sections_of_flights() -> None:
    whole = flight_features(3, 1200, seed=5)
    assert whole.shape == (3, 1200, len(FEATURES))
    fraction = whole[..., FEATURES.index("altitude_fraction")]
    assert fraction[:, -1].max() < 0.05  # the flights end on the ground
    assert np.median(fraction) == pytest.approx(1.0, abs=1e-3)  # climbing or level: at the highest altitude so far
    section = flight_features(3, 50, seed=5)
    assert section.shape == (3, 50, len(FEATURES))
    np.testing.assert_array_equal(section, flight_features(3, 50, seed=5))
    assert (flight_features(3, 50, seed=6) != section).any()


def test_flight_features_of_the_orbit_filter_are_those_of_flights_on_which_it_answers() -> None:
    groups = frozenset({"orbit"})
    for length, share in ((1, 1.0), (50, 0.5), (1_200, 0.2)):
        features = flight_features(4, length, seed=5, groups=groups)
        assert (features.shape, features.dtype) == ((4, length, len(FEATURES)), np.float32)
        assert features[..., FEATURES.index("orbit_known")].mean() >= share
        np.testing.assert_array_equal(features, flight_features(4, length, seed=5, groups=groups))


def test_a_network_whose_posterior_is_wrong_is_rejected(tmp_path: Path, validation: list[Sample]) -> None:
    shape = ModelConfig(hidden=4, harmonics=(), features=("altitude_fraction", *ORBIT_FEATURES))
    right, wrong = checkpoint_of(shape), checkpoint_of(shape)
    assert right.model.orbit is not None
    assert wrong.model.orbit is not None
    right.model.orbit.prior.copy_(torch.from_numpy(PRIOR))
    wrong.model.orbit.prior.copy_(torch.from_numpy(PRIOR[:, ::-1].copy()))

    def verified(made: Checkpoint) -> Verification:
        onnx.save(whole_graph(made, 7), tmp_path / "model.onnx")
        onnx.save(step_graph(made, 7), tmp_path / "step.onnx")
        session = OnnxSession(tmp_path / "model.onnx", tmp_path / "step.onnx")
        config = ExportConfig(checkpoint=tmp_path, repository="", batches=(1, 2), lengths=(1, 60))
        return verify(session, right, config, version=7, tolerance=EXACT, validation=validation)

    assert verified(right).max_difference < 1e-4
    with pytest.raises(ExportError, match="values against PyTorch"):
        verified(wrong)


class ChangedGraph:
    """The correct graph of a derived model, with one output changed."""

    def __init__(self, session: object, name: str, change: Callable[[Array], Array]) -> None:
        self._session, self._name, self._change = session, name, change

    def run(self, *inputs: Array) -> dict[str, Array]:
        outputs = self._session.run(*inputs)
        return outputs | {self._name: self._change(outputs[self._name])}


def require_rejection(
    paths: tuple[Path, ...], checkpoint: Checkpoint, validation: list[Sample], changed: dict[str, object], message: str
) -> None:
    with pytest.raises(ExportError, match=message):
        gate(OnnxSession(*paths[:2]), checkpoint, validation, derived=derived(paths, **changed))


@pytest.mark.parametrize(
    ("name", "change", "check"),
    [
        ("reentry_probability", lambda p: np.nan_to_num(p, nan=0.1), "invalid measurements"),
        ("onset_step", lambda step: np.maximum(step, -1), "invalid measurements"),
        ("onset_timestamp", np.nan_to_num, "invalid measurements"),
        ("reentry_probability", lambda p: p + np.float32(1e-4), "values against PyTorch"),
        ("reentry_probability", lambda p: p[:, 1:], "shapes"),
        ("reentry_phase", lambda phase: phase ^ np.where(phase < 2, 1, 0).astype(np.uint8), "decision"),
        ("onset_step", lambda step: step + (step >= 0), "decision"),
        ("onset_timestamp", lambda time: time + 1.0, "decision"),
        ("model_version", lambda version: version + 1, "version"),
    ],
)
def test_a_wrong_graph_from_measurements_to_onsets_is_rejected(
    paths: tuple[Path, ...],
    checkpoint: Checkpoint,
    validation: list[Sample],
    name: str,
    change: Callable[[Array], Array],
    check: str,
) -> None:
    wrong = {"track": ChangedGraph(TrackSession(paths[2]), name, change)}
    require_rejection(paths, checkpoint, validation, wrong, f"check failed: {check}")


@pytest.mark.parametrize(
    ("name", "change", "check"),
    [
        ("reentry_probability", lambda p: p + np.float32(1e-4), "values against PyTorch"),
        ("reentry_probability", lambda p: p[:, 0], "shapes"),
        ("reentry_probability", lambda p: p + np.float32(np.nan), "finite values"),
        ("reentry_probability", lambda p: np.nan_to_num(p, nan=0.1), "invalid measurements"),
        ("reentry_phase", lambda phase: 1 - phase, "decision"),
        ("onset", np.zeros_like, "decision"),
        ("onset_timestamp", lambda time: time + 1.0, "decision"),
        ("onset_timestamp", np.nan_to_num, "invalid measurements"),
        ("accepted", np.zeros_like, "decision"),
        ("accepted", np.ones_like, "invalid measurements"),
        ("next_state", lambda state: state + 0.01, "values against PyTorch|decision"),
        ("next_state", lambda state: state[:, 1:], "shapes"),
        ("model_version", lambda version: version + 1, "version"),
    ],
)
def test_a_wrong_graph_of_a_live_track_is_rejected(
    paths: tuple[Path, ...],
    checkpoint: Checkpoint,
    validation: list[Sample],
    name: str,
    change: Callable[[Array], Array],
    check: str,
) -> None:
    wrong = {"stream": ChangedGraph(StreamSession(paths[3]), name, change)}
    require_rejection(paths, checkpoint, validation, wrong, f"check failed: ({check})")


@pytest.mark.parametrize(
    ("name", "change", "check"),
    [
        ("reentry_probability", lambda p: p + np.float32(1e-4), "values against PyTorch"),
        ("reentry_probability", lambda p: p[:, 0], "shapes"),
        ("reentry_probability", lambda p: p + np.float32(np.nan), "finite values"),
        ("next_recurrent_state", lambda state: state[:, 1:], "shapes"),
        ("model_version", lambda version: version + 1, "version"),
    ],
)
def test_a_wrong_graph_of_many_live_tracks_is_rejected(
    paths: tuple[Path, ...],
    checkpoint: Checkpoint,
    validation: list[Sample],
    name: str,
    change: Callable[[Array], Array],
    check: str,
) -> None:
    wrong = {"scan": ChangedGraph(ScanSession(paths[4]), name, change)}
    require_rejection(paths, checkpoint, validation, wrong, f"check failed: {check}")


def test_a_state_of_many_live_tracks_that_is_carried_wrongly_is_rejected(
    paths: tuple[Path, ...], validation: list[Sample]
) -> None:
    ordinary = checkpoint_of(SHAPE)  # the deciding network forgets its state
    for path, graph in zip(paths, (whole_graph, step_graph, track_graph, stream_graph, scan_graph), strict=True):
        onnx.save(graph(ordinary, 1), path)
    gate(OnnxSession(*paths[:2]), ordinary, validation, derived=derived(paths))
    wrong = {"scan": ChangedGraph(ScanSession(paths[4]), "next_recurrent_state", np.zeros_like)}
    require_rejection(paths, ordinary, validation, wrong, "check failed: values against PyTorch")


@pytest.mark.parametrize("which", ["track", "stream", "scan"])
def test_a_graph_of_a_derived_model_that_does_not_run_is_rejected(
    paths: tuple[Path, ...], checkpoint: Checkpoint, validation: list[Sample], which: str
) -> None:
    class Broken:
        def run(self, *_: Array) -> dict[str, Array]:
            raise RuntimeError("bad node")

    require_rejection(paths, checkpoint, validation, {which: Broken()}, "does not run: bad node")


def test_a_rounded_graph_of_live_tracks_must_keep_the_onset(
    paths: tuple[Path, ...], checkpoint: Checkpoint, validation: list[Sample]
) -> None:
    never = ChangedGraph(ScanSession(paths[4]), "reentry_probability", np.zeros_like)
    with pytest.raises(ExportError, match=r"tracks run in scans"):
        gate(OnnxSession(*paths[:2]), checkpoint, validation, ROUNDED, derived=derived(paths, scan=never))


def test_a_live_track_is_compared_only_if_it_repeats_no_measurement(validation: list[Sample]) -> None:
    first = validation[0]
    rows = first.track.measurements.copy()
    rows[5] = rows[3]
    repeating = replace(first, track=replace(first.track, measurements=rows))
    assert live_samples([repeating, *validation[1:]]) == validation[1:]
    assert live_samples([repeating]) == []
    assert len(live_samples(validation * 2)) == LIVE_TRACKS
