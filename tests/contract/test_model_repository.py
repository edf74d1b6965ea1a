"""The configurations on disk, read by Triton's own protobuf, say what `reentry.schema` declares."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from tritonclient.grpc import model_config_pb2 as pb

from reentry import schema
from reentry.errors import ServerError
from reentry.serving.repository import ensembles_of, models_of, read_model_config, require_derived_versions
from tests.conftest import copy_repository

REPOSITORY = Path(__file__).parents[2] / "model_repository"
CONFIGS = {model.name: read_model_config(REPOSITORY, model.name) for model in schema.MODELS}


def declared(tensors: tuple[schema.Tensor, ...]) -> set[tuple[str, str, tuple[int, ...]]]:
    return {(tensor.name, f"TYPE_{tensor.dtype}", tensor.dims) for tensor in tensors}


def configured(tensors) -> set[tuple[str, str, tuple[int, ...]]]:
    return {(tensor.name, pb.DataType.Name(tensor.data_type), tuple(tensor.dims)) for tensor in tensors}


def states_of(states, side: str) -> set[tuple[str, str, tuple[int, ...]]]:
    """Tensors of the state that Triton keeps for each sequence."""
    return {(getattr(state, f"{side}_name"), pb.DataType.Name(state.data_type), tuple(state.dims)) for state in states}


@pytest.mark.parametrize("model", schema.MODELS, ids=lambda model: model.name)
def test_the_configured_tensors_match_the_schema(model: schema.Model) -> None:
    config = CONFIGS[model.name]
    states = config.sequence_batching.state
    assert config.name == model.name
    assert configured(config.input) | states_of(states, "input") == declared(model.inputs)
    assert configured(config.output) | states_of(states, "output") == declared(model.outputs)


def test_the_ensemble_names_the_columns_of_measurements_in_order() -> None:
    parameters = CONFIGS[schema.ENSEMBLE.name].parameters
    assert {key: parameters[key].string_value for key in parameters} == {
        "measurement_columns": ",".join(schema.MEASUREMENT_COLUMNS)
    }


@pytest.mark.parametrize("model", [m for m in schema.MODELS if schema.MEASUREMENTS in m.inputs], ids=lambda m: m.name)
def test_a_comment_beside_each_tensor_of_measurements_has_their_order(model: schema.Model) -> None:
    comments = re.findall(r"#(.*)", (REPOSITORY / model.name / "config.pbtxt").read_text())
    assert any(", ".join(schema.MEASUREMENT_COLUMNS) in comment for comment in comments)


def test_the_schema_declares_every_model_of_the_repository() -> None:
    assert {path.parent.name for path in REPOSITORY.glob("*/config.pbtxt")} == {model.name for model in schema.MODELS}


@pytest.mark.parametrize("model", [schema.ENSEMBLE, schema.REENTRY_FAST], ids=lambda model: model.name)
def test_an_ensemble_is_wired_to_inputs_that_exist_with_their_types(model: schema.Model) -> None:
    ensemble = CONFIGS[model.name]
    known = {tensor.name: (tensor.data_type, tuple(tensor.dims)) for tensor in ensemble.input}
    for step in ensemble.ensemble_scheduling.step:
        member = CONFIGS[step.model_name]
        inputs = {tensor.name: (tensor.data_type, tuple(tensor.dims)) for tensor in member.input}
        outputs = {tensor.name: (tensor.data_type, tuple(tensor.dims)) for tensor in member.output}
        assert set(step.input_map) == set(inputs), step.model_name
        for name, source in step.input_map.items():
            assert known[source] == inputs[name], f"{step.model_name}.{name} from {source}"
        for name, target in step.output_map.items():
            assert target not in known, f"{target} has two sources"
            known[target] = outputs[name]
    for tensor in ensemble.output:
        assert known[tensor.name] == (tensor.data_type, tuple(tensor.dims))


def test_every_member_takes_as_large_a_batch_as_the_ensemble() -> None:
    others = {schema.REENTRY_STREAM, schema.SCAN_STEP, schema.REENTRY_SCAN}
    assert {CONFIGS[model.name].max_batch_size for model in set(schema.MODELS) - others} == {64}


def test_a_scan_of_the_largest_size_is_one_request() -> None:
    assert CONFIGS[schema.SCAN_STEP.name].max_batch_size == schema.LARGEST_SCAN


def test_there_are_slots_for_4096_live_tracks_that_start_without_a_measurement() -> None:
    config = CONFIGS[schema.REENTRY_STREAM.name]
    (group,), (state,) = config.instance_group, config.sequence_batching.state
    assert config.sequence_batching.oldest.max_candidate_sequences * group.count == 4096
    assert config.sequence_batching.max_sequence_idle_microseconds == 60_000_000
    (initial,) = state.initial_state
    assert initial.zero_data
    assert (initial.data_type, initial.dims) == (state.data_type, state.dims)


@pytest.mark.parametrize("name", ["track_features", "reentry_lstm"])
def test_queues_are_bounded_and_reject_further_requests(name: str) -> None:
    policy = CONFIGS[name].dynamic_batching.default_queue_policy
    assert policy.max_queue_size > 0
    assert policy.default_timeout_microseconds > 0
    assert policy.timeout_action == policy.REJECT


def test_single_requests_of_reentry_track_are_joined_and_queued_up_to_a_bound() -> None:
    config = CONFIGS["reentry_track"]
    policy = config.dynamic_batching.default_queue_policy
    assert not config.dynamic_batching.preferred_batch_size  # so requests of equal length are joined
    assert (policy.max_queue_size, policy.timeout_action) == (16, policy.REJECT)


def test_a_model_with_a_bounded_queue_has_a_spare_instance() -> None:
    bounded = {name for name, config in CONFIGS.items() if config.dynamic_batching.default_queue_policy.max_queue_size}
    assert bounded == {"reentry_lstm", "reentry_track", "track_features"}
    counts = {name: CONFIGS[name].instance_group[0].count for name in bounded}
    assert counts == {"reentry_lstm": 3, "reentry_track": 3, "track_features": 2}  # for two cores


def test_the_network_is_warmed_up_with_its_own_number_of_features() -> None:
    warm_ups = CONFIGS["reentry_lstm"].model_warmup
    assert len(warm_ups) == 2
    for warm_up in warm_ups:
        assert warm_up.inputs["features"].dims[-1] == len(schema.FEATURES)


def test_the_thresholds_are_written_in_the_code_alone() -> None:
    assert not CONFIGS["track_decision"].parameters


def test_the_ensemble_is_made_of_the_other_three(model_repository: Path) -> None:
    assert models_of(model_repository) == ["reentry", "reentry_lstm", "track_decision", "track_features"]
    assert ensembles_of(model_repository) == {"reentry": ["track_features", "reentry_lstm", "track_decision"]}


@pytest.mark.parametrize("derived", schema.DERIVED_MODELS, ids=lambda derived: derived.name)
def test_a_derived_model_and_those_that_need_it_are_served_once_it_has_a_version(
    tmp_path: Path, derived: schema.DerivedModel
) -> None:
    repository = copy_repository(tmp_path / "toy")
    (repository / schema.REENTRY_LSTM.name / "1").mkdir()
    names = {model.name for model in derived.served_with}
    assert names.isdisjoint(models_of(repository))
    for other in set(schema.DERIVED_MODELS) - {derived}:
        (repository / other.name / "1").mkdir()
    assert names.isdisjoint(models_of(repository))
    with pytest.raises(ServerError, match=f"no version of {derived.name} is installed") as error:
        require_derived_versions(repository)
    expected = ", ".join(model.name for model in derived.served_with)
    assert str(error.value.fix).endswith(f"remove from the repository: {expected}")
    (repository / derived.name / "1").mkdir()
    assert names <= set(models_of(repository))
    assert ensembles_of(repository)[schema.REENTRY_FAST.name] == ["reentry_track", "track_monitor"]
    require_derived_versions(repository)


def test_an_ensemble_without_the_folder_of_its_graph_is_not_served(tmp_path: Path) -> None:
    repository = copy_repository(tmp_path)
    for name in (schema.REENTRY_LSTM.name, schema.REENTRY_STREAM.name, schema.SCAN_STEP.name):
        (repository / name / "1").mkdir()
    shutil.rmtree(repository / schema.REENTRY_TRACK.name)
    assert schema.REENTRY_FAST.name not in models_of(repository)
    with pytest.raises(ServerError, match="no version of reentry_track is installed") as error:
        require_derived_versions(repository)
    assert str(error.value.fix).endswith("remove from the repository: track_monitor, reentry_fast")


def test_the_graph_is_warmed_up_with_measurements() -> None:
    for warm_up in CONFIGS[schema.REENTRY_TRACK.name].model_warmup:
        assert warm_up.inputs["measurements"].dims[-1] == len(schema.MEASUREMENT_COLUMNS)


@pytest.mark.parametrize(
    "file", [".gitignore", ".github/workflows/checks.yml", ".gitlab-ci.yml", "Dockerfile.triton", "Makefile"]
)
def test_a_file_that_lists_the_models_with_versions_lists_every_derived_model(file: str) -> None:
    text = (REPOSITORY.parent / file).read_text()
    assert [derived.name for derived in schema.DERIVED_MODELS if derived.name not in text] == []
