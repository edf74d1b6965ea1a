"""The exported graph is the network, or it is not installed."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from typer.testing import CliRunner

from export import repository
from export.config import ExportConfig
from export.graphs import to_onnx
from export.repository import export_checkpoint
from export.verify import Verification, flight_features, session_of, verify
from reentry.cli import app
from reentry.decision import DecisionConfig
from reentry.errors import CheckpointError, ConfigError, ExportError
from reentry.monitoring import Reference
from reentry.schema import FEATURES, REENTRY_LSTM
from reentry.serving.repository import installed_versions
from training.checkpoint import Checkpoint, save_checkpoint
from training.config import ModelConfig, TrainConfig
from training.model import ReentryLSTM

GRID = {"batches": (1, 3), "lengths": (1, 2, 40), "tolerance": 1e-5}


def checkpoint_of(config: ModelConfig) -> Checkpoint:
    torch.manual_seed(0)
    model = ReentryLSTM(config)
    model.fit_normalisation(torch.randn(200, len(FEATURES)) * 100 + 30)
    return Checkpoint(
        model=model.eval(),
        train_config=TrainConfig(seed=4),
        decision=DecisionConfig(),
        data_fingerprint="0123",
        git_revision="abcd",
        metrics={"f1": 0.5},
        validation_tracks=(1, 2),
    )


@pytest.fixture
def checkpoint() -> Checkpoint:
    return checkpoint_of(ModelConfig(hidden=8))


@pytest.fixture
def config(tmp_path: Path, checkpoint: Checkpoint) -> ExportConfig:
    save_checkpoint(tmp_path / "model.ckpt", checkpoint)
    model = tmp_path / "repository" / REENTRY_LSTM.name
    model.mkdir(parents=True)
    (model / "config.pbtxt").touch()
    return ExportConfig(
        checkpoint=tmp_path / "model.ckpt", repository=tmp_path / "repository", batches=(1, 2), lengths=(1, 7)
    )


def served(graph: onnx.ModelProto, features: np.ndarray) -> np.ndarray:
    return session_of(graph).run(None, {"features": features})[0]


@pytest.mark.parametrize(
    "shape",
    [
        ModelConfig(hidden=8),
        ModelConfig(hidden=5, layers=2, dropout=0.3),
        ModelConfig(hidden=8, layer_norm=True),
        ModelConfig(hidden=8, features=FEATURES[1:4]),
    ],
    ids=["default", "two layers with dropout", "layer norm", "some features"],
)
def test_every_shape_of_the_network_exports_and_passes(shape: ModelConfig) -> None:
    made = checkpoint_of(shape)
    graph = to_onnx(made, 3)
    found = verify(graph, made.model, version=3, **GRID)
    assert found.cases == 6
    assert found.max_difference <= 1e-5
    assert found.prefix_difference <= 1e-5


def test_the_graph_says_where_it_comes_from_and_which_version_it_is(checkpoint: Checkpoint) -> None:
    graph = to_onnx(checkpoint, 12)
    notes = {entry.key: entry.value for entry in graph.metadata_props}
    assert notes == {
        "schema_version": "1",
        "features": ",".join(FEATURES),
        "data_fingerprint": "0123",
        "git_revision": "abcd",
    }
    _, version = session_of(graph).run(None, {"features": np.zeros((3, 2, len(FEATURES)), np.float32)})
    assert version.tolist() == [[12], [12], [12]]


def test_padding_on_the_right_changes_no_earlier_step(checkpoint: Checkpoint) -> None:
    features = flight_features(2, 30, seed=1)
    padded = np.concatenate([features, np.repeat(features[:, -1:], 20, axis=1)], axis=1)
    graph = to_onnx(checkpoint, 1)
    np.testing.assert_allclose(served(graph, padded)[:, :30], served(graph, features), atol=1e-6)


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


def renamed(graph: onnx.ModelProto) -> None:
    graph.graph.input[0].name = "input.1"


def frozen(graph: onnx.ModelProto) -> None:
    graph.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 50


def retyped(graph: onnx.ModelProto) -> None:
    graph.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE


def change_weights(graph: onnx.ModelProto, change: float) -> None:
    weights = next(w for w in graph.graph.initializer if w.name.endswith("head.weight") or list(w.dims) == [8, 1])
    values = onnx.numpy_helper.to_array(weights) + np.float32(change)
    weights.CopyFrom(onnx.numpy_helper.from_array(values, weights.name))


def spoilt(graph: onnx.ModelProto) -> None:
    change_weights(graph, float("nan"))


def shifted(graph: onnx.ModelProto) -> None:
    change_weights(graph, 1e-2)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (renamed, r"inputs: .* check of names; expected \['features'\]; got \['input.1'\]"),
        (frozen, r"reentry_probability: .* check of axes; .*got \['batch', 50\]"),
        (retyped, "reentry_probability: .* check of type"),
        (spoilt, "batch 1, length 1: .* not finite"),
        (shifted, r"batch 1, length 1, track 0, step 0: .* values against PyTorch; expected .* 1e-05; got"),
    ],
)
def test_a_damaged_graph_is_refused_by_the_check_that_sees_it(checkpoint: Checkpoint, damage, said: str) -> None:
    graph = to_onnx(checkpoint, 1)
    damage(graph)
    with pytest.raises(ExportError, match=said):
        verify(graph, checkpoint.model, version=1, **GRID)


def test_a_graph_of_another_version_is_refused(checkpoint: Checkpoint) -> None:
    with pytest.raises(ExportError, match="check of version"):
        verify(to_onnx(checkpoint, 1), checkpoint.model, version=2, **GRID)


def test_a_graph_that_reads_the_future_is_refused(checkpoint: Checkpoint) -> None:
    graph = to_onnx(checkpoint, 1)
    lstm = next(node for node in graph.graph.node if node.op_type == "LSTM")
    lstm.attribute.append(onnx.helper.make_attribute("direction", "reverse"))
    # The same network in PyTorch would read the future too: only the prefix gives it away.
    future = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])

    class Same(ReentryLSTM):
        def forward(self, features, state=None):  # noqa: ARG002
            probability = future.run(None, {"features": features.numpy()})[0]
            return torch.logit(torch.from_numpy(probability)), (torch.zeros(1), torch.zeros(1))

    model = Same(checkpoint.model_config)
    model.load_state_dict(checkpoint.model.state_dict())
    with pytest.raises(ExportError, match="check of prefix"):
        verify(graph, model, version=1, **GRID)


def test_versions_count_up_and_carry_a_manifest(config: ExportConfig) -> None:
    first, verification = export_checkpoint(config)
    second, _ = export_checkpoint(config)
    assert (first.name, second.name) == ("1", "2")
    assert sorted(path.name for path in second.iterdir()) == ["manifest.json", "model.onnx"]
    manifest = json.loads((first / "manifest.json").read_text())
    assert manifest["version"] == 1
    assert manifest["metrics"] == {"f1": 0.5}
    assert manifest["seed"] == 4
    assert manifest["verification"]["max_difference"] == verification.max_difference
    features = flight_features(1, 5, seed=0)
    for folder, version in ((first, 1), (second, 2)):
        _, said = session_of(onnx.load(folder / "model.onnx")).run(None, {"features": features})
        assert said.tolist() == [[version]]


def test_a_version_carries_the_reference_of_its_checkpoint(config: ExportConfig, checkpoint: Checkpoint) -> None:
    features = flight_features(2, 200, seed=1).reshape(-1, len(FEATURES))
    reference = Reference.of(features, np.zeros(len(features)), checkpoint.model_config.features)
    save_checkpoint(config.checkpoint, replace(checkpoint, reference=reference))
    installed, _ = export_checkpoint(config)
    assert Reference.load(installed) == reference


def test_a_number_taken_in_between_is_left_to_its_owner(config: ExportConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = config.repository / REENTRY_LSTM.name

    def slow(*arguments, **settings) -> Verification:
        if not (folder / "1").exists():  # another export installs version 1 while this one verifies
            (folder / "1").mkdir()
            (folder / "1" / "model.onnx").write_text("theirs")
        return verify(*arguments, **settings)

    monkeypatch.setattr(repository, "verify", slow)
    installed, _ = export_checkpoint(config)
    assert installed.name == "2"
    assert (folder / "1" / "model.onnx").read_text() == "theirs"
    assert json.loads((installed / "manifest.json").read_text())["version"] == 2
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2", "config.pbtxt"]


def test_a_failed_gate_installs_nothing(config: ExportConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        repository, "to_onnx", lambda made, version: (graph := to_onnx(made, version), shifted(graph))[0]
    )
    with pytest.raises(ExportError, match="values against PyTorch"):
        export_checkpoint(config)
    folder = config.repository / REENTRY_LSTM.name
    assert installed_versions(folder) == []
    assert [path.name for path in folder.iterdir()] == ["config.pbtxt"]


def test_a_tolerance_nothing_meets_is_enforced(config: ExportConfig) -> None:
    with pytest.raises(ExportError, match="at most 1e-15"):
        export_checkpoint(replace(config, tolerance=1e-15, lengths=(50,)))


def test_a_folder_that_is_no_repository_is_refused_with_the_fix(config: ExportConfig, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"reentry_lstm/config.pbtxt .* --repository"):
        export_checkpoint(replace(config, repository=tmp_path))


def test_thresholds_that_are_not_the_served_ones_are_refused(config: ExportConfig, checkpoint: Checkpoint) -> None:
    save_checkpoint(config.checkpoint, replace(checkpoint, decision=DecisionConfig(enter=0.7)))
    with pytest.raises(
        ExportError, match=r"expected enter 0\.5, leave 0\.2; got enter 0\.7, leave 0\.2; fix: train again"
    ):
        export_checkpoint(config)
    assert installed_versions(config.repository / REENTRY_LSTM.name) == []


def test_a_repository_that_takes_no_files_is_refused_in_one_line(
    config: ExportConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = config.repository / REENTRY_LSTM.name

    def read_only(**_: object) -> str:  # root may write to a folder of any mode
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(repository, "tempfile", SimpleNamespace(mkdtemp=read_only))
    with pytest.raises(ExportError, match=rf"^{folder}: cannot install: Permission denied; fix: .*--repository$"):
        export_checkpoint(config)


def test_a_full_disk_installs_nothing(config: ExportConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_graph: onnx.ModelProto, path: Path) -> None:
        path.write_bytes(b"a part of it")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(repository.onnx, "save", full)
    with pytest.raises(ExportError, match="cannot install: No space left on device"):
        export_checkpoint(config)
    assert [path.name for path in (config.repository / REENTRY_LSTM.name).iterdir()] == ["config.pbtxt"]


def test_a_missing_checkpoint_is_refused(config: ExportConfig, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        export_checkpoint(replace(config, checkpoint=tmp_path / "none.ckpt"))


@pytest.mark.parametrize("setting", [{"tolerance": 0.0}, {"batches": ()}, {"lengths": (0, 3)}])
def test_settings_out_of_range_are_refused(config: ExportConfig, setting: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="out of range"):
        replace(config, **setting)


def test_the_command_says_what_it_installed(config: ExportConfig) -> None:
    runner = CliRunner()
    arguments = ["export", str(config.checkpoint), "--repository", str(config.repository)]
    told = runner.invoke(app, arguments)
    assert told.exit_code == 0
    assert "installed version 1 in" in told.output
    told = runner.invoke(app, [*arguments, "--json"])
    assert json.loads(told.output)["version"] == 2
