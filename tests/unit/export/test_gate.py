"""Each check of the gate is broken once on purpose, and refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from export.gate import Verification, flight_features, verify
from export.graphs import step_graph, whole_graph
from export.quantize import dynamic_int8
from export.sessions import Array, Carried, OnnxSession
from export.signature import check_signature
from reentry.decision import DecisionConfig
from reentry.errors import ExportError
from reentry.schema import FEATURES
from registry.formats import FORMATS, Format, Tolerance
from tests.exporting import checkpoint_of, deciding, flights
from training.checkpoint import Checkpoint
from training.config import ModelConfig
from training.data.samples import Sample

EXACT = FORMATS[Format.ONNX].tolerance
ROUNDED = FORMATS[Format.ONNX_INT8].tolerance
SHAPE = ModelConfig(hidden=8, harmonics=())


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return deciding(SHAPE)


@pytest.fixture(scope="module")
def validation(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    return flights(tmp_path_factory.mktemp("flights"))


@pytest.fixture
def paths(tmp_path: Path, checkpoint: Checkpoint) -> tuple[Path, Path]:
    onnx.save(whole_graph(checkpoint, 1), tmp_path / "model.onnx")
    onnx.save(step_graph(checkpoint, 1), tmp_path / "step.onnx")
    return tmp_path / "model.onnx", tmp_path / "step.onnx"


class Changed:
    """A sound format, with something done to what it says."""

    step_limit: int | None = None

    def __init__(
        self,
        paths: tuple[Path, Path],
        whole: Callable[[Array, Array], Array] = lambda _, probability: probability,
        step: Callable[[Array, Carried], tuple[Array, Carried]] = lambda probability, state: (probability, state),
    ) -> None:
        self._runner, self._whole, self._step = OnnxSession(*paths), whole, step

    def whole(self, features: Array) -> tuple[Array, Array]:
        probability, version = self._runner.whole(features)
        return self._whole(features, probability), version

    def step(self, features: Array, state: Carried) -> tuple[Array, Carried, Array]:
        probability, after, version = self._runner.step(features, state)
        return (*self._step(probability, after), version)


def gate(
    runner: object, checkpoint: Checkpoint, validation: list[Sample], tolerance: Tolerance = EXACT, version: int = 1
) -> Verification:
    return verify(
        runner,
        checkpoint.model,
        version=version,
        tolerance=tolerance,
        decision=DecisionConfig(),
        validation=validation,
        batches=(1, 3),
        lengths=(1, 2, 40),
    )


def test_a_sound_format_passes_and_is_measured(
    paths: tuple[Path, Path], checkpoint: Checkpoint, validation: list[Sample]
) -> None:
    check_signature(*paths, SHAPE)
    found = gate(OnnxSession(*paths), checkpoint, validation)
    assert (found.cases, found.tracks, found.steps) == (6, 3, sum(len(sample.track) for sample in validation))
    assert found.max_difference <= 1e-5
    assert found.prefix_difference <= 1e-5
    assert found.step_difference <= 1e-5
    assert (found.phase_share, found.onset_moved) == (0.0, 0)
    assert (found.stepped_phase_share, found.stepped_onset_moved) == (0.0, 0)
    assert found.metrics["missed_onsets"] == 0  # the network of these tests has onsets to be wrong about
    assert found.as_dict()["passed"] is True


def rename(graph: onnx.ModelProto) -> None:
    graph.graph.input[0].name = "input.1"


def freeze(graph: onnx.ModelProto) -> None:
    graph.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 50


def retype(graph: onnx.ModelProto) -> None:
    graph.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE


@pytest.mark.parametrize("which", [0, 1], ids=["whole", "step"])
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (rename, r"inputs: .* check of names; expected \['features'.*; got \['input.1'"),
        (freeze, r"reentry_probability: .* check of axes; .*got \[50, "),
        (retype, "reentry_probability: .* check of types"),
    ],
)
@pytest.mark.parametrize("quantised", [False, True], ids=["fp32", "int8"])
def test_a_graph_with_another_signature_is_refused(
    paths: tuple[Path, Path], which: int, damage: Callable[[onnx.ModelProto], None], said: str, quantised: bool
) -> None:
    graph = onnx.load(paths[which])
    if quantised:
        graph = dynamic_int8(graph)
    damage(graph)
    onnx.save(graph, paths[which])
    with pytest.raises(ExportError, match=said):
        check_signature(*paths, SHAPE)


def at_step(step: int, value: float) -> Callable[[Array, Array], Array]:
    def change(features: Array, probability: Array) -> Array:
        if features.shape[1] > step:
            probability[:, step] = value
        return probability

    return change


def nudged(probability: Array, state: Carried) -> tuple[Array, Carried]:
    return probability, Carried(state.hidden + 0.01, state.cell)


@pytest.mark.parametrize(
    ("whole", "step", "said"),
    [
        (lambda _, p: p[:, :1] if p.shape[1] > 1 else p, None, "batch 1, length 2: .* check of shapes; expected"),
        (at_step(1, np.nan), None, "batch 1, length 2: .* check of finite values"),
        (at_step(0, 0.9), None, r"track 0, step 0: .* check of values against PyTorch; .*at most 1e-05; got"),
        (None, lambda p, s: (p[:0], s), "step 0, probability: .* check of shapes"),
        (None, lambda p, s: (p, Carried(s.hidden[:, :, :1], s.cell)), "step 0, state: .* check of shapes"),
        (None, lambda p, s: (p + np.nan, s), "step 0: .* check of finite values"),
        (None, lambda p, s: (p + 2e-5, s), "step 0: .* check of carried state; .*at most 1e-05"),
    ],
    ids=["shape", "finite", "values", "step shape", "state shape", "step finite", "carried"],
)
def test_each_check_of_computed_values_refuses(
    paths: tuple[Path, Path], checkpoint: Checkpoint, validation: list[Sample], whole, step, said: str
) -> None:
    changes = {name: change for name, change in (("whole", whole), ("step", step)) if change is not None}
    with pytest.raises(ExportError, match=said):
        gate(Changed(paths, **changes), checkpoint, validation)


def test_a_format_that_reads_a_feature_its_network_does_not_name_is_refused(
    paths: tuple[Path, Path], checkpoint: Checkpoint, validation: list[Sample]
) -> None:
    other = FEATURES.index("drag_long")

    def leaking(features: Array, probability: Array) -> Array:
        return np.where(np.isnan(features[..., other]), np.float32(0.25), probability)  # as an LSTM swallows NaN

    def spoilt(features: Array, probability: Array) -> Array:
        return probability + 0.0 * features[..., other]

    for change in (leaking, spoilt):
        with pytest.raises(ExportError, match="check of features that are not looked at; expected the same values"):
            gate(Changed(paths, whole=change), checkpoint, validation)


@pytest.mark.parametrize("make", [lambda graph: graph, dynamic_int8], ids=["fp32", "int8"])
def test_features_that_were_not_computed_change_no_value_of_a_network_without_them(
    tmp_path: Path, make: Callable[[onnx.ModelProto], onnx.ModelProto]
) -> None:
    made = checkpoint_of(ModelConfig(hidden=8, features=("altitude_fraction", "drag_long", "climb_rate")))
    onnx.save(make(whole_graph(made, 1)), tmp_path / "model.onnx")
    onnx.save(make(step_graph(made, 1)), tmp_path / "step.onnx")
    runner = OnnxSession(tmp_path / "model.onnx", tmp_path / "step.onnx")
    features = flight_features(3, 40, seed=1)
    hidden = features.copy()
    hidden[..., [name not in made.model_config.features for name in FEATURES]] = np.nan
    np.testing.assert_array_equal(runner.whole(hidden)[0], runner.whole(features)[0])


def test_a_state_that_is_carried_wrongly_is_refused(paths: tuple[Path, Path], validation: list[Sample]) -> None:
    made = checkpoint_of(ModelConfig(hidden=8))  # one that remembers
    onnx.save(whole_graph(made, 1), paths[0])
    onnx.save(step_graph(made, 1), paths[1])
    gate(OnnxSession(*paths), made, validation)
    with pytest.raises(ExportError, match="check of carried state"):
        gate(Changed(paths, step=nudged), made, validation)


def test_a_format_that_reads_the_future_is_refused_by_the_prefix(
    paths: tuple[Path, Path], checkpoint: Checkpoint, validation: list[Sample]
) -> None:
    def by_the_end(_: Array, probability: Array) -> Array:  # each within the limit of values, not of each other
        return probability + np.float32({40: 6e-6, 20: -6e-6}.get(probability.shape[1], 0.0))

    with pytest.raises(ExportError, match="check of the prefix"):
        gate(Changed(paths, whole=by_the_end), checkpoint, validation)


def test_a_format_that_answers_with_another_version_is_refused(
    paths: tuple[Path, Path], checkpoint: Checkpoint, validation: list[Sample]
) -> None:
    with pytest.raises(ExportError, match=r"check of the version; expected \[\[2\]\]; got \[\[1\]\]"):
        gate(OnnxSession(*paths), checkpoint, validation, version=2)


def test_a_step_graph_of_another_version_is_refused(
    paths: tuple[Path, Path], checkpoint: Checkpoint, validation: list[Sample]
) -> None:
    onnx.save(step_graph(checkpoint, 7), paths[1])
    with pytest.raises(ExportError, match=r"step 0: .*check of the version; expected \[\[1\]\]; got \[\[7\]\]"):
        gate(OnnxSession(*paths), checkpoint, validation)


def test_a_format_that_does_not_run_is_refused(
    paths: tuple[Path, Path], checkpoint: Checkpoint, validation: list[Sample]
) -> None:
    def fail(_: Array, __: Array) -> Array:
        raise RuntimeError("no kernel")

    with pytest.raises(ExportError, match="batch 1, length 1: does not run: no kernel"):
        gate(Changed(paths, whole=fail), checkpoint, validation)


def onset_later(steps: int) -> Callable[[Array, Array], Array]:
    def change(_: Array, probability: Array) -> Array:
        return np.concatenate([np.repeat(probability[:, :1], steps, axis=1), probability], axis=1)[:, : -steps or None]

    return change


def test_a_rounded_format_is_held_to_the_onset_of_every_track(
    paths: tuple[Path, Path], checkpoint: Checkpoint, validation: list[Sample]
) -> None:
    phases = replace(ROUNDED, phase_share=1.0)
    found = gate(Changed(paths, whole=onset_later(1)), checkpoint, validation, phases)
    assert found.onset_moved == 1
    with pytest.raises(ExportError, match=r"validation track \d+: .*the task: the onset; expected step \d+, 1 off"):
        gate(Changed(paths, whole=onset_later(2)), checkpoint, validation, phases)


def test_differences_of_a_rounded_format_are_measured_and_not_refused(
    paths: tuple[Path, Path], checkpoint: Checkpoint, validation: list[Sample]
) -> None:
    found = gate(Changed(paths, whole=at_step(0, 0.3)), checkpoint, validation, ROUNDED)
    assert found.max_difference == pytest.approx(0.3, abs=1e-3)
    assert found.phase_share == 0.0


def test_a_rounded_format_is_held_to_the_phases_of_all_steps(
    paths: tuple[Path, Path], checkpoint: Checkpoint, validation: list[Sample]
) -> None:
    def flicker(_: Array, probability: Array) -> Array:
        probability[:, -3:] = 0.0  # behind the onset, which stays where it is
        return probability

    with pytest.raises(ExportError, match=r"3 validation tracks: .*the task: the phase; .*0.10%.*; got .*, 9 of"):
        gate(Changed(paths, whole=flicker), checkpoint, validation, ROUNDED)


def test_a_rounded_format_is_held_to_the_task_in_batches(
    paths: tuple[Path, Path], checkpoint: Checkpoint, validation: list[Sample]
) -> None:
    def in_company(features: Array, probability: Array) -> Array:  # the first of several marks nothing
        if len(probability) > 1:
            probability[0] = 0.0
        return probability

    with pytest.raises(ExportError, match=r"validation track \d+: .*the task, in batches: the onset; expected step"):
        gate(Changed(paths, whole=in_company), checkpoint, validation, ROUNDED)


def test_a_rounded_format_is_held_to_the_task_step_by_step(
    paths: tuple[Path, Path], checkpoint: Checkpoint, validation: list[Sample]
) -> None:
    with pytest.raises(ExportError, match="the task, step by step: the onset"):
        gate(Changed(paths, step=lambda p, s: (p * 0, s)), checkpoint, validation, ROUNDED)


def test_spoilt_int8_weights_are_refused(
    paths: tuple[Path, Path], checkpoint: Checkpoint, validation: list[Sample]
) -> None:
    for path in paths:
        onnx.save(dynamic_int8(onnx.load(path)), path)
    gate(OnnxSession(*paths), checkpoint, validation, ROUNDED)
    graph = onnx.load(paths[0])
    head = next(
        tensor
        for tensor in graph.graph.initializer
        if tensor.data_type == onnx.TensorProto.INT8 and list(tensor.dims) == [8, 1]
    )
    head.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(head), head.name))
    onnx.save(graph, paths[0])
    with pytest.raises(ExportError, match="the task"):
        gate(OnnxSession(*paths), checkpoint, validation, ROUNDED)


def test_a_format_for_which_a_step_takes_too_long_is_stepped_a_little(
    paths: tuple[Path, Path], checkpoint: Checkpoint, validation: list[Sample]
) -> None:
    steps = []
    runner = Changed(paths, step=lambda p, s: (steps.append(len(p)), (p, s))[1])
    runner.step_limit = 4
    found = gate(runner, checkpoint, validation)
    assert len(steps) == 2 * (1 + 2 + 4)
    assert found.stepped_onset_moved is None


def test_the_gate_runs_flights_and_parts_of_flights() -> None:
    whole = flight_features(3, 1200, seed=5)
    assert whole.shape == (3, 1200, len(FEATURES))
    fraction = whole[..., FEATURES.index("altitude_fraction")]
    assert fraction[:, -1].max() < 0.05  # they come down
    assert np.median(fraction) == pytest.approx(1.0, abs=1e-3)  # climb and level part: at their highest so far
    part = flight_features(3, 50, seed=5)
    assert part.shape == (3, 50, len(FEATURES))
    np.testing.assert_array_equal(part, flight_features(3, 50, seed=5))
    assert (flight_features(3, 50, seed=6) != part).any()
