"""Exporting a checkpoint installs complete versions in the repository, or none."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from cli import app
from export import builders, pipeline
from export.builders import missing
from export.config import ExportConfig, read_formats
from export.gate import Verification, verify
from export.pipeline import export_checkpoint
from export.results import FormatResult
from export.sessions import OnnxSession
from export.validation import flight_features
from reentry.decision import DecisionConfig
from reentry.drift import Reference
from reentry.errors import CheckpointError, ConfigError, ExportError, InputError, RepositoryError
from reentry.schema import FEATURES, ORBIT_FEATURES, REENTRY_LSTM
from reentry.tracks import tracks_table, write_tracks
from registry import folder_store
from registry.config_pbtxt import read as read_config
from registry.formats import FORMATS, Format
from registry.inventory import find
from registry.labels import Record
from registry.open import open_store
from registry.store import manifest_of
from tests.exporting import checkpoint_of, deciding, exporting, remembered_exports
from tests.training_data import short_tracks
from training.checkpoint import Checkpoint, save_checkpoint
from training.config import ModelConfig
from training.data.identity import DataIdentity

SHAPE = ModelConfig(hidden=8, harmonics=())
BUILDABLE = (Format.ONNX, Format.ONNX_INT8, Format.TORCHSCRIPT)


@pytest.fixture(scope="module", autouse=True)
def trace_once() -> Iterator[None]:
    with remembered_exports():
        yield


@pytest.fixture
def checkpoint() -> Checkpoint:
    return deciding(SHAPE)


@pytest.fixture
def config(tmp_path: Path, checkpoint: Checkpoint) -> ExportConfig:
    return exporting(tmp_path, checkpoint)


def model_folder(config: ExportConfig) -> Path:
    return Path(config.repository) / REENTRY_LSTM.name


def export_one(config: ExportConfig) -> FormatResult:
    (result,) = export_checkpoint(config).formats
    return result


def test_each_format_becomes_a_version_with_its_graphs_and_a_manifest(config: ExportConfig) -> None:
    reported: list[FormatResult] = []
    result = export_checkpoint(replace(config, formats=BUILDABLE), reported.append)
    assert result.complete
    assert tuple(reported) == result.formats
    assert [(done.format, done.version) for done in reported] == list(zip(BUILDABLE, (1, 2, 3), strict=True))
    store = open_store(config.repository)
    for done in reported:
        assert done.version is not None
        spec, manifest = FORMATS[done.format], manifest_of(store, done.version)
        assert set(store.files(done.version)) == {
            *(spec.whole_file, spec.step_file, "manifest.json"),
            *(derived.file for derived in spec.derived),
        }
        assert (manifest.format, manifest.precision, manifest.version) == (done.format, spec.precision, done.version)
        assert manifest.passed
        assert manifest.verification["data"] == "the 3 tracks that the training held out"
        assert manifest.model["parameters"] == sum(w.numel() for w in deciding(SHAPE).model.parameters())
        assert manifest.metrics["missed_onsets"] == 0
        assert manifest.seed == 4


def test_a_version_returns_its_number(config: ExportConfig) -> None:
    features = flight_features(1, 5, seed=0)
    for version in (1, 2):
        export_one(config)
        folder = model_folder(config) / str(version)
        _, answered = OnnxSession(folder / "model.onnx", folder / "step.onnx").whole(features)
        assert answered.tolist() == [[version]]


def test_the_first_export_is_served_and_a_later_one_is_the_candidate(config: ExportConfig) -> None:
    result = export_checkpoint(replace(config, formats=(Format.TORCHSCRIPT, Format.ONNX)))
    assert result.promotion is not None
    assert result.promotion.change.version == 2  # Triton does not serve TorchScript
    store = open_store(config.repository)
    assert export_checkpoint(config).promotion is None
    labels = Record.of(store).labels
    assert (labels.production, labels.candidate) == (2, 3)
    served = read_config((model_folder(config) / "config.pbtxt").read_text())
    assert list(served.version_policy.specific.versions) == [2]
    assert export_checkpoint(replace(config, promote=True)).promotion is not None
    assert Record.of(store).labels.production == 4


def test_a_worse_candidate_is_installed_but_not_promoted(config: ExportConfig, checkpoint: Checkpoint) -> None:
    export_one(config)
    checkpoint.model.head.bias.data -= 30.0  # predicts a later onset
    save_checkpoint(config.checkpoint, checkpoint)
    result = export_checkpoint(replace(config, promote=True))
    assert not result.complete
    assert result.card is not None
    assert re.search(r"version 2 is not promoted: .*onset_rmse", str(result.refusal))
    labels = Record.of(open_store(config.repository)).labels
    assert (labels.production, labels.candidate) == (1, 2)


def test_a_refused_promotion_ends_the_command_with_status_one_after_the_installation(
    config: ExportConfig,
) -> None:
    arguments = ["export", str(config.checkpoint), "--repository", str(config.repository), "--format", "torchscript"]
    command = CliRunner().invoke(app, [*arguments, "--promote"])
    assert command.exit_code == 1
    assert "torchscript: installed version 1" in command.output
    assert "error: nothing is promoted" in command.output
    assert "fix: add --format onnx" in command.output
    command = CliRunner().invoke(app, [*arguments, "--promote", "--json"])
    assert command.exit_code == 1
    assert json.loads(command.output)["refusal"].startswith("nothing is promoted")
    command = CliRunner().invoke(app, arguments)
    assert command.exit_code == 0
    assert "candidate" not in command.output


def test_a_version_contains_the_reference_of_its_checkpoint(config: ExportConfig, checkpoint: Checkpoint) -> None:
    features = flight_features(2, 200, seed=1).reshape(-1, len(FEATURES))
    reference = Reference.of(features, np.zeros(len(features)), checkpoint.model_config.features)
    save_checkpoint(config.checkpoint, replace(checkpoint, reference=reference))
    assert Reference.load(Path(export_one(config).place or "")) == reference


def test_a_number_that_another_export_took_is_not_overwritten(
    config: ExportConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = model_folder(config) / "1"

    def slow(*arguments, **settings) -> Verification:
        if not theirs.exists():  # another export installs version 1 while this one verifies
            theirs.mkdir()
            (theirs / "model.onnx").write_text("theirs")
        return verify(*arguments, **settings)

    monkeypatch.setattr(pipeline, "verify", slow)
    assert export_one(config).version == 2
    assert (theirs / "model.onnx").read_text() == "theirs"
    assert manifest_of(open_store(config.repository), 2).version == 2


def spoil_int8(monkeypatch: pytest.MonkeyPatch) -> None:
    quantise = builders.dynamic_int8

    def quantise_wrongly(graph: onnx.ModelProto) -> onnx.ModelProto:
        quantised = quantise(graph)
        for tensor in quantised.graph.initializer:
            if tensor.data_type == onnx.TensorProto.INT8 and list(tensor.dims) == [8, 1]:  # the head
                tensor.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(tensor), tensor.name))
        return quantised

    monkeypatch.setattr(builders, "dynamic_int8", quantise_wrongly)


def test_a_format_that_fails_the_gate_is_not_installed_and_the_others_are(
    config: ExportConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil_int8(monkeypatch)
    result = export_checkpoint(replace(config, formats=(Format.ONNX_INT8, Format.ONNX)))
    failed, passed = result.formats
    assert not result.complete
    assert failed.version is None
    assert "onset, tracks run alone" in str(failed.error)
    assert failed.summary().startswith("onnx-int8: not installed: validation track")
    assert passed.version == 1
    assert open_store(config.repository).versions() == [1]
    assert f"- onnx-int8: {failed.error}" in (config.checkpoint.with_name("model_card.md")).read_text()


def test_a_format_that_cannot_be_built_is_left_out_of_all_but_is_an_error_by_name(
    config: ExportConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(export_format: Format) -> str | None:
        return "no such GPU here; fix: another machine" if export_format is Format.ONNX_FP16 else None

    monkeypatch.setattr(builders, "missing", missing)
    formats = (Format.ONNX_FP16, Format.ONNX)
    left_out = export_checkpoint(replace(config, formats=formats, skip_missing=True))
    assert left_out.complete
    assert left_out.formats[0].summary() == "onnx-fp16: left out: no such GPU here; fix: another machine"
    named = export_checkpoint(replace(config, formats=formats))
    assert not named.complete
    assert named.formats[0].summary() == "onnx-fp16: not installed: no such GPU here; fix: another machine"
    assert named.formats[1].version == 2


def test_fp16_cannot_be_built_without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builders.onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    assert "fix: export on a machine with an NVIDIA GPU" in str(missing(Format.ONNX_FP16))
    monkeypatch.setattr(builders.onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    assert missing(Format.ONNX_FP16) is None


def test_other_validation_tracks_can_be_given(config: ExportConfig, checkpoint: Checkpoint, tmp_path: Path) -> None:
    tracks = short_tracks(tmp_path, 5)
    data = tmp_path / "all.csv"
    write_tracks(data, tracks_table(tracks))
    done = export_one(replace(config, data=data))
    assert done.verification is not None
    assert done.verification.tracks == 5
    save_checkpoint(config.checkpoint, replace(checkpoint, data_fingerprint=DataIdentity.of(tracks).tracks_fingerprint))
    done = export_one(replace(config, data=data))  # the training data: only the tracks held out
    assert done.verification is not None
    assert done.verification.tracks == 3


def test_an_export_without_tracks_is_verified_on_simulated_flights(config: ExportConfig) -> None:
    config.checkpoint.with_name("validation.parquet").unlink()
    version = export_one(config).version
    assert version is not None
    assert manifest_of(open_store(config.repository), version).verification["data"] == "20 simulated flights"


def test_validation_tracks_of_another_checkpoint_are_rejected(config: ExportConfig, checkpoint: Checkpoint) -> None:
    save_checkpoint(config.checkpoint, replace(checkpoint, validation_tracks=(4, 5)))
    with pytest.raises(InputError, match="held out") as error:
        export_checkpoint(config)
    assert str(error.value.where).endswith("validation.parquet")
    assert "--data" in str(error.value.fix)


def test_a_full_disk_fails_the_format_with_one_line(config: ExportConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(builders, "build", full)
    done = export_one(config)
    assert done.version is None
    assert "No space left on device; fix: free disk space" in str(done.error)


def test_the_model_card_lists_the_last_export_alone(config: ExportConfig) -> None:
    card = config.checkpoint.with_name("model_card.md")
    card.write_text("# Mine\n\nWritten by hand.\n")
    export_one(config)
    result = export_checkpoint(replace(config, formats=(Format.ONNX_INT8,)))
    assert result.card == card
    text = card.read_text()
    assert text.startswith("# Mine\n\nWritten by hand.\n")
    assert text.count("## Export") == 1
    assert "| onnx-int8 | 2 |" in text
    assert "| onnx | 1 |" not in text


def test_a_folder_that_is_not_a_repository_is_rejected_with_the_fix(config: ExportConfig, tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match=r"reentry_lstm/config.pbtxt .* --repository"):
        export_checkpoint(replace(config, repository=tmp_path))


def test_thresholds_that_differ_from_the_served_ones_are_rejected(config: ExportConfig, checkpoint: Checkpoint) -> None:
    save_checkpoint(config.checkpoint, replace(checkpoint, decision=DecisionConfig(enter=0.7)))
    with pytest.raises(ExportError, match="decision thresholds") as error:
        export_checkpoint(config)
    assert (error.value.expected, error.value.got) == ("enter 0.5, leave 0.2", "enter 0.7, leave 0.2")
    assert str(error.value.fix).startswith("train again")
    assert open_store(config.repository).versions() == []


def test_a_read_only_repository_fails_the_format_with_one_line(
    config: ExportConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(**_: object) -> str:  # root may write to a folder of any mode
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(folder_store, "tempfile", SimpleNamespace(mkdtemp=read_only))
    error = str(export_one(config).error)
    assert error.startswith(f"{model_folder(config) / '1'}: ")
    assert "Permission denied; fix: " in error
    assert sorted(path.name for path in model_folder(config).iterdir()) == ["config.pbtxt"]


def test_a_missing_checkpoint_is_rejected(config: ExportConfig, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        export_checkpoint(replace(config, checkpoint=tmp_path / "none.ckpt"))


@pytest.mark.parametrize("setting", [{"formats": ()}, {"formats": (Format.ONNX,) * 2}, {"lengths": (0, 3)}])
def test_settings_out_of_range_are_rejected(config: ExportConfig, setting: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        replace(config, **setting)


def test_formats_can_be_separated_by_commas_or_repeated() -> None:
    assert read_formats(["onnx,onnx-int8", "onnx"]) == ((Format.ONNX, Format.ONNX_INT8), False)
    assert read_formats(["all"]) == (tuple(Format), True)
    with pytest.raises(ConfigError, match="no such format") as error:
        read_formats(["onx"])
    assert error.value.expected == "onnx, onnx-fp16, onnx-int8, torchscript, tensorrt, all"
    assert error.value.got == "onx"


@pytest.mark.parametrize("shape", [ModelConfig(hidden=48, layers=3), ModelConfig(hidden=1)], ids=["48 x 3", "1"])
def test_a_network_of_any_size_is_exported_by_one_command(tmp_path: Path, shape: ModelConfig) -> None:
    config = exporting(tmp_path, checkpoint_of(shape))
    arguments = ["export", str(config.checkpoint), "--repository", str(config.repository), "--format", "onnx,onnx-int8"]
    command = CliRunner().invoke(app, arguments)
    assert command.exit_code == 0, command.output
    assert find(open_store(config.repository), 2).manifest is not None


def test_the_command_prints_what_it_installed(config: ExportConfig) -> None:
    arguments = ["export", str(config.checkpoint), "--repository", str(config.repository)]
    command = CliRunner().invoke(app, arguments)
    assert command.exit_code == 0
    assert "onnx: installed version 1 in" in command.output
    assert "version 1 is in production" in command.output
    command = CliRunner().invoke(app, arguments)
    assert "version 2 is the candidate; version 1 is in production, and `reentry serve` serves it" in command.output
    assert f"reentry repository promote candidate --repository {config.repository}" in command.output
    content = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).output)
    assert content["production"] is None
    (done,) = content["formats"]
    assert (done["format"], done["version"], done["error"]) == ("onnx", 3, None)
    assert done["verification"]["passed"] is True


def test_the_command_ends_with_status_one_if_a_format_failed(
    config: ExportConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil_int8(monkeypatch)
    arguments = ["export", str(config.checkpoint), "--repository", str(config.repository), "--format", "onnx-int8,onnx"]
    command = CliRunner().invoke(app, arguments)
    assert command.exit_code == 1
    assert "onnx-int8: not installed" in command.output
    assert "onnx: installed version 1" in command.output


def test_a_network_that_is_too_large_for_a_stream_is_exported_without_it_and_with_a_warning(tmp_path: Path) -> None:
    config = exporting(tmp_path, checkpoint_of(ModelConfig(hidden=256, layers=2)))
    arguments = ["export", str(config.checkpoint), "--repository", str(config.repository)]
    content = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).output)
    (done,) = content["formats"]
    (warning,) = done["warnings"]
    assert re.search("stream.onnx is left out.*the state of a live track is too large.*train a smaller", warning)
    files = find(open_store(config.repository), done["version"]).files
    assert {"track.onnx", "scan.onnx"} < set(files)
    assert "stream.onnx" not in files
    assert done["verification"]["live_phase_share"] == 0.0  # of the other graph of live tracks
    command = CliRunner().invoke(app, arguments)
    assert command.exit_code == 0
    assert "warning: onnx: stream.onnx is left out" in command.output


def test_a_network_with_orbit_features_is_exported_for_the_models_that_can_compute_them(tmp_path: Path) -> None:
    config = exporting(tmp_path, checkpoint_of(ModelConfig(features=("altitude_fraction", *ORBIT_FEATURES))))
    for done in export_checkpoint(replace(config, formats=(Format.ONNX, Format.ONNX_INT8))).formats:
        track, stream = done.warnings
        reason = (
            "uses orbit features, which no ONNX graph computes; reentry serves whole tracks .*, and reentry_scan live"
        )
        assert re.search(f"track.onnx is left out, so reentry_track and reentry_fast cannot serve .*{reason}", track)
        assert re.search(f"stream.onnx is left out, so reentry_stream cannot serve .*{reason}", stream)
        assert done.version is not None
        files = set(find(open_store(config.repository), done.version).files)
        assert {"model.onnx", "step.onnx", "scan.onnx"} < files
        assert not files & {"track.onnx", "stream.onnx"}
        assert done.verification is not None
        assert done.verification.measured_phase_share is None
        assert done.verification.live_phase_share is not None  # of the scan, against whole tracks


@pytest.mark.parametrize("graph", ["stream_graph", "scan_graph"])
def test_a_format_with_a_broken_graph_of_live_tracks_is_not_installed(
    config: ExportConfig, monkeypatch: pytest.MonkeyPatch, graph: str
) -> None:
    original = getattr(builders, graph)
    monkeypatch.setattr(builders, graph, lambda checkpoint, version: original(checkpoint, version + 1))
    result = export_one(config)
    assert "check failed: version" in str(result.error)
    assert open_store(config.repository).versions() == []
