"""Promotion, rollback and pruning of a repository, without a server."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInstanceGroup

from reentry.errors import ConfigError, RepositoryError
from reentry.schema import SCHEMA_VERSION
from registry import config_pbtxt
from registry.formats import Format
from registry.inventory import ProductionState, find_all
from registry.labels import Labels, Record
from registry.live_server import LiveServer, merged_config
from registry.manifest import MANIFEST_FILE
from registry.open import open_store
from registry.promotion import label_exported, promote, prune, rollback
from registry.store import CONFIG_FILE, LABELS_FILE, VersionStore
from tests.versions import bare_repository, install, pin


@pytest.fixture
def store(tmp_path: Path) -> VersionStore:
    return open_store(bare_repository(tmp_path))


def labels(store: VersionStore) -> Labels:
    return Record.of(store).labels


def config(store: VersionStore) -> ModelConfig:
    return config_pbtxt.read(store.read(CONFIG_FILE).text or "")


def pinned(store: VersionStore) -> list[int]:
    return list(config(store).version_policy.specific.versions)


def state(store: VersionStore) -> list[object]:
    """The files that a promotion changes."""
    return [store.read(CONFIG_FILE), store.read(LABELS_FILE)]


def fill(store: VersionStore, tmp_path: Path, *metrics: float | None, **settings: Any) -> None:
    """Install one version for each metric."""
    for metric in metrics:
        number = max(store.versions(), default=0) + 1
        install(store.location, tmp_path, number, metric=metric, **settings)


def test_a_promotion_pins_the_version_and_records_its_predecessor(store: VersionStore, tmp_path: Path) -> None:
    fill(store, tmp_path, 1.0, 0.5)
    promote(store, 1)
    made = promote(store, 2, reason="fewer late onsets")
    assert pinned(store) == [2]
    (_, change) = labels(store).history
    assert made.change == change
    assert (change.version, change.previous, change.kind, change.reason) == (2, 1, "promote", "fewer late onsets")
    assert (change.metric, change.previous_metric, change.overridden) == (0.5, 1.0, ())
    assert labels(store).production == 2


def test_a_promotion_keeps_the_comments_of_the_configuration(store: VersionStore, tmp_path: Path) -> None:
    fill(store, tmp_path, 1.0, 1.0)
    before = (store.read(CONFIG_FILE).text or "").splitlines()
    promote(store, 2)
    after = (store.read(CONFIG_FILE).text or "").splitlines()
    assert [(old, new) for old, new in zip(before, after, strict=True) if old != new] == [
        ("version_policy { specific { versions: 1 } }", "version_policy { specific { versions: 2 } }")
    ]


@pytest.mark.parametrize("metric", [1.0, 0.999])
def test_a_version_with_an_equal_or_better_metric_is_promoted(
    store: VersionStore, tmp_path: Path, metric: float
) -> None:
    fill(store, tmp_path, 1.0, metric)
    promote(store, 1)
    promote(store, 2)
    assert labels(store).production == 2


@pytest.mark.parametrize(("metric", "shown"), [(1.001, "1.001 s"), (None, "unknown"), (math.nan, "unknown")])
def test_a_version_worse_than_production_is_refused_unless_a_reason_is_given(
    store: VersionStore, tmp_path: Path, metric: float | None, shown: str
) -> None:
    fill(store, tmp_path, 1.0, metric)
    promote(store, 1)
    before = state(store)
    with pytest.raises(RepositoryError) as failure:
        promote(store, 2)
    rule = f"its onset_rmse is {shown}, worse than 1 s of version 1 in production"
    assert failure.value.problem == f"version 2 is not promoted: {rule}"
    assert "--reason" in str(failure.value.fix)
    assert state(store) == before
    change = promote(store, 2, reason="the old one is withdrawn").change
    assert (change.overridden, change.reason) == ((rule,), "the old one is withdrawn")
    assert labels(store).history[-1] == change


def test_a_version_without_a_metric_is_no_worse_than_production_without_one(
    store: VersionStore, tmp_path: Path
) -> None:
    fill(store, tmp_path, None, None)
    promote(store, 1)
    promote(store, 2)
    assert labels(store).production == 2


def test_a_version_that_did_not_pass_the_gate_is_refused_unless_a_reason_is_given(
    store: VersionStore, tmp_path: Path
) -> None:
    fill(store, tmp_path, 1.0, passed=False)
    with pytest.raises(RepositoryError, match="version 1 is not promoted: it did not pass the gate"):
        promote(store, 1)
    assert labels(store) == Labels()
    assert promote(store, 1, reason="a drill").change.overridden == ("it did not pass the gate",)


@pytest.mark.parametrize("manifest", [None, '{"version": 1, "format": "onnx"}'])
def test_a_version_of_an_older_export_is_refused_unless_a_reason_is_given(
    store: VersionStore, tmp_path: Path, manifest: str | None
) -> None:
    fill(store, tmp_path, 1.0)
    path = Path(store.place(1)) / "manifest.json"
    path.unlink()
    if manifest is not None:
        path.write_text(manifest)
    with pytest.raises(RepositoryError, match="its gate result is unknown"):
        promote(store, 1)
    promote(store, 1, reason="it has served for a year")
    assert (labels(store).production, labels(store).history[0].metric) == (1, None)


def test_a_version_with_changed_files_is_refused_despite_a_reason(store: VersionStore, tmp_path: Path) -> None:
    fill(store, tmp_path, 1.0, 1.0)
    promote(store, 1)
    (Path(store.place(2)) / "model.onnx").write_bytes(b"other")
    (Path(store.place(2)) / "step.onnx").unlink()
    before = state(store)
    with pytest.raises(RepositoryError, match=r"model\.onnx does not match its SHA-256, step\.onnx is missing"):
        promote(store, 2, reason="hurry")
    assert state(store) == before


def test_a_format_that_is_not_served_is_refused_despite_a_reason(store: VersionStore, tmp_path: Path) -> None:
    fill(store, tmp_path, 1.0, form=Format.TORCHSCRIPT)
    with pytest.raises(RepositoryError, match="format torchscript is only a reference and is not served"):
        promote(store, 1, reason="hurry")


def test_the_error_for_a_missing_version_lists_the_existing_versions(store: VersionStore, tmp_path: Path) -> None:
    fill(store, tmp_path, 1.0, 1.0)
    with pytest.raises(RepositoryError, match="there is no such version") as failure:
        promote(store, 7)
    assert (failure.value.where, failure.value.expected) == (store.place(7), "1 or 2")


def test_a_version_trained_on_other_data_is_promoted_with_a_warning(store: VersionStore, tmp_path: Path) -> None:
    fill(store, tmp_path, 1.0)
    fill(store, tmp_path, 1.0, data_fingerprint="other")
    promote(store, 1)
    (warning,) = promote(store, 2).warnings
    assert warning == "trained on other data than version 1, so their metrics may not be comparable"


def test_a_version_measured_on_other_tracks_is_promoted_with_a_warning(store: VersionStore, tmp_path: Path) -> None:
    for tracks in ("one", "one", "other"):
        fill(store, tmp_path, 1.0, verification={"passed": True, "fingerprint": tracks})
    promote(store, 1)
    assert promote(store, 2).warnings == ()
    (warning,) = promote(store, 3).warnings
    assert warning == "measured on other tracks than version 2, so their metrics may not be comparable"


def test_a_version_for_another_schema_is_refused_despite_a_reason(store: VersionStore, tmp_path: Path) -> None:
    fill(store, tmp_path, 1.0)
    promote(store, 1)
    fill(store, tmp_path, 1.0, schema_version=SCHEMA_VERSION + 1)
    before = state(store)
    with pytest.raises(RepositoryError, match="another schema version") as failure:
        promote(store, 2, reason="hurry")
    error = failure.value
    assert (error.where, error.expected, error.got) == (store.place(2), f"{SCHEMA_VERSION}", f"{SCHEMA_VERSION + 1}")
    assert "train and export again" in str(error.fix)
    assert state(store) == before


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("version", "1"),
        ("verification", None),
        ("metrics", [1.0]),
        ("metrics", {"onset_rmse": "low"}),
        ("files", {"model.onnx": {"sha256": "c", "bytes": "5"}}),
        ("data_table", {"name": "features", "version": "1", "id": "a"}),
        ("data_table", {"name": "features", "version": 1}),
        ("data_table", "lake:features@1"),
    ],
)
def test_a_manifest_with_a_field_of_the_wrong_type_is_invalid(
    store: VersionStore, tmp_path: Path, field: str, value: object
) -> None:
    fill(store, tmp_path, 1.0)
    path = Path(store.place(1)) / MANIFEST_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    (version,) = find_all(store)
    assert (version.gate, version.metric("onset_rmse")) == ("unknown", None)
    assert "not a manifest of this program" in str(version.problem)
    with pytest.raises(RepositoryError, match="its gate result is unknown"):
        promote(store, 1)


def test_an_empty_folder_is_listed_but_not_promoted(store: VersionStore, tmp_path: Path) -> None:
    fill(store, tmp_path, 1.0)
    Path(store.place(7)).mkdir()
    assert [(version.number, version.problem) for version in find_all(store)] == [(1, None), (7, "its folder is empty")]
    with pytest.raises(RepositoryError, match="unknown format: its folder is empty"):
        promote(store, 7, reason="hurry")


def test_a_promotion_to_another_format_changes_the_backend(store: VersionStore, tmp_path: Path) -> None:
    fill(store, tmp_path, 1.0)
    fill(store, tmp_path, 1.0, form=Format.TENSORRT)
    promote(store, 1)
    promote(store, 2)
    assert (config(store).backend, config(store).default_model_filename) == ("tensorrt", "model.plan")


def test_a_promotion_keeps_the_processor_unless_told_otherwise(store: VersionStore, tmp_path: Path) -> None:
    fill(store, tmp_path, 1.0, 1.0)

    def kinds() -> set[str]:
        return {ModelInstanceGroup.Kind.Name(group.kind) for group in config(store).instance_group}

    promote(store, 1, gpu=True)
    assert kinds() == {"KIND_GPU"}
    promote(store, 2)
    assert kinds() == {"KIND_GPU"}
    promote(store, 2, gpu=False)
    assert kinds() == {"KIND_CPU"}


def test_each_rollback_returns_to_one_version_earlier_and_a_promotion_continues_from_there(
    store: VersionStore, tmp_path: Path
) -> None:
    fill(store, tmp_path, 1.0, 1.0, 1.0, 1.0)
    for number in (1, 2, 3):
        promote(store, number)
    assert [rollback(store).change.version for _ in range(2)] == [2, 1]
    assert pinned(store) == [1]
    with pytest.raises(RepositoryError, match="nothing to roll back to"):
        rollback(store)
    promote(store, 4)
    change = rollback(store, reason="onsets too late").change
    assert (change.version, change.previous, change.kind, change.reason) == (1, 4, "rollback", "onsets too late")
    assert [each.version for each in labels(store).history] == [1, 2, 3, 2, 1, 4, 1]


def test_a_version_promoted_twice_is_rolled_back_to_its_latest_predecessor(store: VersionStore, tmp_path: Path) -> None:
    fill(store, tmp_path, 1.0, 1.0, 1.0)
    for number in (1, 2, 3, 1):
        promote(store, number)
    assert rollback(store).change.version == 3


def test_a_rollback_accepts_a_worse_version_and_skips_a_removed_one(store: VersionStore, tmp_path: Path) -> None:
    fill(store, tmp_path, 3.0, 2.0, 1.0)
    for number in (1, 2, 3):
        promote(store, number)
    store.remove(2)
    assert rollback(store).change.version == 1


def test_a_rollback_accepts_only_versions_that_were_in_production(store: VersionStore, tmp_path: Path) -> None:
    fill(store, tmp_path, 1.0, 1.0, 1.0, 1.0)
    for number in (1, 2, 3):
        promote(store, number)
    with pytest.raises(RepositoryError, match="4 was not in production before") as failure:
        rollback(store, to=4)
    assert (failure.value.expected, failure.value.fix) == ("2 or 1", "`reentry repository promote 4`")
    assert rollback(store, to=1).change.version == 1
    assert pinned(store) == [1]


def test_a_rollback_to_files_that_were_changed_is_refused(store: VersionStore, tmp_path: Path) -> None:
    fill(store, tmp_path, 1.0, 1.0)
    for number in (1, 2):
        promote(store, number)
    (Path(store.place(1)) / "model.onnx").write_bytes(b"other")
    with pytest.raises(RepositoryError, match="the files do not match the manifest"):
        rollback(store)
    assert pinned(store) == [2]


def test_the_first_export_is_promoted_and_the_next_becomes_the_candidate(store: VersionStore, tmp_path: Path) -> None:
    fill(store, tmp_path, 1.0, form=Format.TORCHSCRIPT)
    assert label_exported(store, [1]) is None
    assert labels(store) == Labels()
    fill(store, tmp_path, 1.0, 1.0)
    made = label_exported(store, [1, 2, 3])
    assert made is not None
    assert (labels(store).production, labels(store).candidate, pinned(store)) == (2, None, [2])
    fill(store, tmp_path, 1.0, 2.0)
    assert label_exported(store, [4]) is None
    assert (labels(store).production, labels(store).candidate) == (2, 4)
    with pytest.raises(RepositoryError, match="worse"):
        label_exported(store, [5], promote_it=True)
    assert (labels(store).production, labels(store).candidate) == (2, 5)
    label_exported(store, [4], promote_it=True)
    assert (labels(store).production, labels(store).candidate) == (4, None)


def test_the_first_export_repairs_the_pin_of_a_removed_version(store: VersionStore, tmp_path: Path) -> None:
    pin(Path(store.location), 7)
    fill(store, tmp_path, 1.0)
    label_exported(store, [1])
    assert pinned(store) == [1]


def test_pruning_keeps_production_candidate_rollback_target_and_newest_versions(
    store: VersionStore, tmp_path: Path
) -> None:
    fill(store, tmp_path, *[1.0] * 9)
    for number in (1, 2, 4):
        promote(store, number)
    label_exported(store, [5])
    promote(store, 6)
    label_exported(store, [3])
    before = store.versions()
    assert prune(store, keep=2, dry_run=True) == ([1, 2, 5, 7], [])
    assert store.versions() == before
    assert prune(store, keep=2) == ([1, 2, 5, 7], [])
    assert store.versions() == [3, 4, 6, 8, 9]  # candidate, rollback target, production, and the two newest
    assert prune(store, keep=0)[0] == [8, 9]
    assert rollback(store).change.version == 4


@pytest.mark.parametrize("keep", [4, 5, 6, 100])
def test_pruning_removes_nothing_if_all_versions_fit_the_number_kept(
    store: VersionStore, tmp_path: Path, keep: int
) -> None:
    fill(store, tmp_path, *[1.0] * 4)
    promote(store, 4)
    assert prune(store, keep=keep) == ([], [])


def test_pruning_removes_only_unfinished_uploads_older_than_production(store: VersionStore, tmp_path: Path) -> None:
    fill(store, tmp_path, 1.0, 1.0, 1.0)
    promote(store, 2)
    for number in (1, 3):
        (Path(store.place(number)) / "manifest.json").rename(Path(store.place(number)) / ".claim")
    assert prune(store, keep=5)[0] == [1]
    with pytest.raises(RepositoryError, match="its upload has not finished"):
        promote(store, 3, reason="hurry")


def test_pruning_without_production_is_refused(store: VersionStore, tmp_path: Path) -> None:
    fill(store, tmp_path, 1.0)
    with pytest.raises(RepositoryError, match="no version is in production"):
        prune(store, keep=0)


def test_the_next_change_repairs_and_reports_a_pin_that_contradicts_the_labels(
    store: VersionStore, tmp_path: Path
) -> None:
    fill(store, tmp_path, 1.0, 1.0, 1.0)
    promote(store, 1)
    apart = "config.pbtxt serves version 3, and version 1 is in production"
    for change in (lambda: prune(store, keep=9)[1], lambda: list(promote(store, 1).notes)):
        pin(Path(store.location), 3)
        assert ProductionState.read(store).mismatch == apart
        assert change() == [f"repaired: {apart}"]
        assert (pinned(store), ProductionState.read(store).mismatch) == ([1], None)
    assert len(labels(store).history) == 1


def test_a_promotion_does_not_overwrite_the_labels_of_a_concurrent_command(
    store: VersionStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, tmp_path, 1.0, 1.0, 1.0)
    promote(store, 1)
    pinning = config_pbtxt.pinned

    def overtaken(*arguments: Any, **settings: Any) -> str:
        monkeypatch.setattr(config_pbtxt, "pinned", pinning)
        promote(open_store(store.location), 2)
        return pinning(*arguments, **settings)

    monkeypatch.setattr(config_pbtxt, "pinned", overtaken)
    with pytest.raises(RepositoryError, match="another command changed the file"):
        promote(store, 3)
    assert (labels(store).production, pinned(store)) == (2, [2])


def test_the_labels_are_restored_if_the_pin_cannot_be_written(
    store: VersionStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, tmp_path, 1.0, 1.0)
    promote(store, 1)
    before = state(store)
    write = store.write

    def refused(name: str, *arguments: Any, **settings: Any) -> None:
        if name == CONFIG_FILE:
            raise RepositoryError("no room")
        write(name, *arguments, **settings)

    monkeypatch.setattr(store, "write", refused)
    with pytest.raises(RepositoryError, match="no room"):
        promote(store, 2)
    assert state(store) == before


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"production": 1}',
        '{"production": "1", "candidate": null, "history": []}',
        '{"production": true, "candidate": null, "history": []}',
        '{"production": 1, "candidate": null, "history": [{"version": 1}]}',
    ],
)
def test_invalid_labels_are_an_error_with_a_fix(store: VersionStore, text: str) -> None:
    store.write(LABELS_FILE, text, over=store.read(LABELS_FILE))
    with pytest.raises(RepositoryError, match="not a labels file") as failure:
        Record.of(store)
    assert failure.value.where == store.place(LABELS_FILE)
    assert "correct it" in str(failure.value.fix)


def test_labels_survive_a_round_trip_through_json(store: VersionStore, tmp_path: Path) -> None:
    fill(store, tmp_path, 1.0, 2.0)
    promote(store, 1)
    promote(store, 2, reason="because")
    text = store.read(LABELS_FILE).text or ""
    assert Labels.from_json(text, where="").to_json() == text
    assert json.loads(text)["history"][1]["overridden"] == list(labels(store).history[1].overridden)


def test_settings_that_the_server_adapted_stay_and_the_others_follow_the_file(store: VersionStore) -> None:
    before = store.read(CONFIG_FILE).text or ""
    after = before.replace("versions: 1", "versions: 2")
    running = {
        "name": "reentry_lstm",
        "backend": "onnxruntime",
        "version_policy": {"specific": {"versions": [1]}},
        "instance_group": [{"kind": "KIND_CPU", "count": 16}],
    }
    changed = json.loads(merged_config(json.dumps(running), before, after))
    assert changed == running | {"version_policy": {"specific": {"versions": ["2"]}}}


def test_a_change_of_backend_takes_the_whole_configuration_from_the_file(store: VersionStore) -> None:
    before = store.read(CONFIG_FILE).text or ""
    after = before.replace('"onnxruntime"', '"tensorrt"')
    changed = json.loads(merged_config('{"backend": "onnxruntime", "instance_group": []}', before, after))
    assert changed["backend"] == "tensorrt"
    assert changed["instance_group"] == [{"kind": "KIND_CPU", "count": 3}]


@pytest.mark.parametrize("url", ["grpc://127.0.0.1:8001", "127.0.0.1:8000", "http://", "http://host/models"])
def test_a_url_that_is_not_a_server_address_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="not the HTTP address of a Triton server"):
        LiveServer(url)
