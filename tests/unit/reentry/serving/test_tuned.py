"""Tuned settings: the file, its errors, and what they change in a configuration of Triton's own protobuf."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from perf.tuning.overlay import apply_to_repository, as_toml
from reentry.errors import ConfigError
from reentry.serving import ServerConfig
from reentry.serving.repository import fitted_model_config, models_of, read_model_config
from reentry.serving.tuned import ModelTuning, read_tuned, tuned_config, tuning_of
from tests.conftest import copy_repository, make_repository

REPOSITORY = Path(__file__).parents[4] / "model_repository"
CONFIGS = {
    path.parent.name: read_model_config(REPOSITORY, path.parent.name) for path in REPOSITORY.glob("*/config.pbtxt")
}
SETTINGS = ModelTuning(
    instances=3,
    threads=2,
    batching=True,
    max_queue_size=5,
    max_queue_delay_microseconds=200,
    queue_timeout_microseconds=7,
)


def written(folder: Path, text: str) -> Path:
    path = folder / "tuned.toml"
    path.write_text(text)
    return path


def test_settings_survive_the_file(tmp_path: Path) -> None:
    tables = {
        "reentry_track": SETTINGS,
        "track_features": ModelTuning(instances=1),
        "reentry_lstm": ModelTuning(batching=False),
    }
    assert read_tuned(written(tmp_path, as_toml(tables, ("found today",))), CONFIGS) == tables


@pytest.mark.parametrize(
    ("text", "phrase", "expected"),
    [
        ("[reentry_trak]\ninstances = 2", "unknown table", "reentry_track"),
        ("[reentry_track]\ninstance = 2", "unknown key", "instances"),
        ("[reentry_track]\ninstances = -1", "instances out of range", "1 to 1,024"),
        ("[reentry_track]\ninstances = 17", "instances out of range", "1 to 16"),
        ("[reentry_track]\nthreads = 0", "threads out of range", "1 to 1,024"),
        ("[reentry_track]\ninstances = 1.5", "wrong type", "a whole number"),
        ("[reentry_track]\nbatching = true\nmax_queue_size = -3", "max_queue_size out of range", "0 to 1,000,000"),
        ("[reentry_track]\nmax_queue_size = 3", "without the key batching", None),
        ("[reentry_track]\nbatching = false\nmax_queue_delay_microseconds = 3", "without batching", None),
        ("[reentry]\ninstances = 2", "an ensemble has no instances", None),
        ("[track_features]\nthreads = 2", "threads of the backend python", "a model of ONNX Runtime"),
        ("", "no tuned settings", "a table with the name of a model"),
        ("instances =", "not TOML", None),
    ],
)
def test_settings_that_do_not_suit_the_models_are_refused(
    tmp_path: Path, text: str, phrase: str, expected: str | None
) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError, match=phrase) as error:
        read_tuned(path, CONFIGS, cores=2)
    assert str(path) in (error.value.where or "")
    if expected is not None:
        assert expected in (error.value.expected or "")


def test_the_largest_number_of_instances_is_checked_only_for_a_known_machine(tmp_path: Path) -> None:
    path = written(tmp_path, "[reentry_track]\ninstances = 64")
    assert read_tuned(path, CONFIGS)["reentry_track"].instances == 64


@pytest.mark.parametrize(
    "settings",
    [
        SETTINGS,
        ModelTuning(instances=1, threads=1, batching=False),
        ModelTuning(instances=2, threads=1, batching=True),
        ModelTuning(instances=2, threads=1, batching=False, max_queue_size=8),
    ],
)
def test_the_settings_of_a_tuned_configuration_are_the_tuned_ones(settings: ModelTuning) -> None:
    model = CONFIGS["reentry_lstm"]
    tuned = tuned_config(model, settings)
    assert tuning_of(tuned) == settings
    assert tuned.HasField("dynamic_batching") == settings.queued
    for field in ("instance_group", "parameters", "dynamic_batching"):
        tuned.ClearField(field)
    for each in (tuned, kept := type(model).FromString(model.SerializeToString())):
        for field in ("instance_group", "parameters", "dynamic_batching"):
            each.ClearField(field)
    assert tuned == kept


def test_a_bounded_queue_without_batching_runs_each_request_alone_and_rejects_further_ones() -> None:
    tuned = tuned_config(CONFIGS["reentry_track"], ModelTuning(batching=False, max_queue_size=8)).dynamic_batching
    assert list(tuned.preferred_batch_size) == [1]
    policy = tuned.default_queue_policy
    assert (policy.max_queue_size, policy.timeout_action) == (8, policy.REJECT)


def test_a_server_applies_tuned_settings_on_top_of_the_fitted_ones() -> None:
    config = ServerConfig(instances=1, threads=1)
    text = fitted_model_config(REPOSITORY, "reentry_lstm", config, ModelTuning(instances=5))
    assert text is not None
    fitted = json.loads(text)
    assert fitted["instance_group"] == [{"kind": "KIND_CPU", "count": 5}]
    assert fitted["parameters"]["intra_op_thread_count"] == {"string_value": "1"}
    assert fitted["dynamic_batching"]["default_queue_policy"]["max_queue_size"] == 512


@pytest.mark.parametrize("settings", [{"model_control_mode": "none"}, {"instances": 2}, {"threads": 1}])
def test_tuned_settings_exclude_other_ways_to_set_instances(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="instances and threads"):
        ServerConfig(tuned=Path("tuned.toml"), **settings)


def test_applied_settings_change_only_their_fields_in_the_repository(tmp_path: Path) -> None:
    repository = make_repository(tmp_path)
    before = {name: (repository / name / "config.pbtxt").read_text() for name in models_of(repository)}
    path = written(
        tmp_path, as_toml({"reentry_lstm": ModelTuning(instances=4), "track_features": ModelTuning(instances=2)})
    )
    assert apply_to_repository(path, repository) == [repository / "reentry_lstm" / "config.pbtxt"]
    after = {name: (repository / name / "config.pbtxt").read_text() for name in models_of(repository)}
    assert {name for name in before if before[name] != after[name]} == {"reentry_lstm"}
    assert read_model_config(repository, "reentry_lstm").instance_group[0].count == 4
    assert [line for line in before["reentry_lstm"].splitlines() if "#" in line] == [
        line for line in after["reentry_lstm"].splitlines() if "#" in line
    ]
    assert apply_to_repository(path, repository) == []


def test_a_faulty_file_changes_nothing_in_the_repository(tmp_path: Path) -> None:
    repository = copy_repository(tmp_path)
    (repository / "reentry_lstm" / "1").mkdir()
    before = (repository / "reentry_lstm" / "config.pbtxt").read_text()
    path = written(tmp_path, "[reentry_lstm]\ninstances = 4\n[reentry]\ninstances = 1")
    with pytest.raises(ConfigError):
        apply_to_repository(path, repository)
    assert (repository / "reentry_lstm" / "config.pbtxt").read_text() == before
