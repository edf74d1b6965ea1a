"""`export --format tensorrt` from checkpoint to pinned version, with a script that stands in for trtexec."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from export.config import ExportConfig
from export.pipeline import export_checkpoint
from export.tensorrt.config import TensorRTConfig
from registry.config_pbtxt import read
from registry.formats import FORMATS, Format
from registry.manifest import Manifest
from tests.exporting import deciding, exporting
from tests.unit.export.tensorrt.test_engines import builds, gpu
from training.config import ModelConfig

__all__ = ["gpu"]  # a fixture


def config_of(folder: Path) -> ExportConfig:
    return replace(
        exporting(folder, deciding(ModelConfig(hidden=4))),
        formats=(Format.TENSORRT, Format.ONNX),
        batches=(2,),
        lengths=(3,),
        tensorrt=TensorRTConfig(cache=folder / "cache"),
    )


def test_an_engine_passes_the_gate_and_is_served_by_the_tensorrt_backend(
    gpu: Callable[..., Path], tmp_path: Path
) -> None:
    config = config_of(tmp_path)
    engine, onnx = export_checkpoint(config).formats
    assert (engine.error, onnx.error) == (None, None)
    assert engine.verification is not None
    assert engine.verification.max_difference < 1e-5
    assert engine.verification.phase_share == 0
    spec = FORMATS[Format.TENSORRT]
    version = tmp_path / "repository/reentry_lstm/1"
    manifest = Manifest.from_json((version / "manifest.json").read_text(), where="")
    assert (manifest.format, manifest.passed) == (Format.TENSORRT, True)
    assert {spec.whole_file, spec.step_file} <= set(manifest.files)
    served = read((tmp_path / "repository/reentry_lstm/config.pbtxt").read_text())
    assert (served.backend, list(served.version_policy.specific.versions)) == ("tensorrt", [1])


def test_an_engine_with_wrong_probabilities_is_not_installed_and_the_other_format_is(
    gpu: Callable[..., Path], tmp_path: Path
) -> None:
    gpu(spoil=0.6)
    engine, onnx = export_checkpoint(config_of(tmp_path)).formats
    assert engine.version is None
    assert engine.error is not None
    assert "tracks run alone" in engine.error
    assert onnx.version == 1


def test_a_failed_build_reports_the_reason_and_the_other_format_is_installed(
    gpu: Callable[..., Path], tmp_path: Path
) -> None:
    gpu(fail="[TRT] no importer for LSTM")
    engine, onnx = export_checkpoint(config_of(tmp_path)).formats
    assert engine.error is not None
    assert "trtexec failed: [TRT] no importer for LSTM" in engine.error
    assert onnx.version == 1


@pytest.mark.parametrize(("version", "expected"), [("10.16.2", ["--fp16"]), ("11.4.1", [])])
def test_half_precision_is_in_the_graph_and_the_flag_is_passed_if_the_release_has_it(
    gpu: Callable[..., Path], tmp_path: Path, version: str, expected: list[str]
) -> None:
    log = gpu(version=version, without=[] if expected else ["fp16", "int8"], stop_after_build=True)
    config = replace(config_of(tmp_path), formats=(Format.TENSORRT,))
    config = replace(config, tensorrt=replace(config.tensorrt, fp16=True))
    export_checkpoint(config)
    assert len(builds(log)) == 2
    for words in builds(log):
        assert [word for word in words if word == "--fp16"] == expected
