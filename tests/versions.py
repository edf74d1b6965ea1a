"""Versions with a manifest, as an export installs them, that hold a toy network or a few bytes; and a second model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from reentry.schema import MODEL_VERSION, SCHEMA_VERSION, Model, Tensor
from registry.config_pbtxt import pinned
from registry.formats import FORMATS, Format
from registry.manifest import MANIFEST_FILE, Manifest
from registry.models import DEFAULT_MODEL, Arrays, VersionedModel
from registry.open import open_store
from registry.store import file_entries
from tests.toy_model import write_toy_imagery, write_toy_model

REPOSITORY = Path(__file__).parents[1] / "model_repository"


IMAGE = Tensor(name="image", dtype="FP32", dims=(8, 8), meaning="brightness of each pixel")
TARGET_SCORE = Tensor(name="target_score", dtype="FP32", dims=(1,), meaning="probability of a target in the image")


def _score_fault(inputs: Arrays, outputs: Arrays) -> str | None:
    score = outputs[TARGET_SCORE.name]
    return None if np.all((score >= 0) & (score <= 1)) else "target_score is not between 0 and 1"


IMAGERY = VersionedModel(
    tensors=Model(name="sensor_imagery", inputs=(IMAGE,), outputs=(TARGET_SCORE, MODEL_VERSION)),
    schema_version=1,
    metric="miss_rate",
    unit="",
    trial_inputs=lambda: {IMAGE.name: np.zeros((2, 8, 8), np.float32)},
    trial_fault=_score_fault,
)
"""A second model, with other tensors, another schema version and another metric than the LSTM."""
IMAGERY_CONFIG = """\
# Images of one sensor -> probability of a target.
name: "sensor_imagery"
backend: "onnxruntime"
max_batch_size: 16
input [ { name: "image" data_type: TYPE_FP32 dims: [ 8, 8 ] } ]
output [
  { name: "target_score" data_type: TYPE_FP32 dims: [ 1 ] },
  { name: "model_version" data_type: TYPE_INT64 dims: [ 1 ] }
]
instance_group [ { kind: KIND_CPU count: 1 } ]
version_policy { specific { versions: 1 } }
"""


def add_imagery(repository: Path) -> None:
    """Put the configuration of the second model into a repository."""
    (repository / IMAGERY.name).mkdir()
    (repository / IMAGERY.name / "config.pbtxt").write_text(IMAGERY_CONFIG)


def install_imagery(repository: Path | str, scratch: Path, number: int, miss_rate: float = 0.1) -> str:
    """Install a version of the second model."""
    graph = scratch / f"imagery-{number}.onnx"
    write_toy_imagery(graph, version=number)
    folder = make_version(
        scratch / f"imagery-{number}",
        number,
        files={"model.onnx": graph.read_bytes()},
        schema_version=IMAGERY.schema_version,
        metrics={IMAGERY.metric: miss_rate},
        model={"parameters": 0},
    )
    return open_store(repository, IMAGERY.name).install(folder, number)


def bare_repository(folder: Path) -> Path:
    """Make a repository that holds only the network's configuration, without the server's other models."""
    model = folder / "repository" / DEFAULT_MODEL
    model.mkdir(parents=True)
    (model / "config.pbtxt").write_text((REPOSITORY / DEFAULT_MODEL / "config.pbtxt").read_text())
    pin(model.parent, 1)
    return model.parent


def make_version(
    folder: Path,
    number: int,
    *,
    metric: float | None = 1.0,
    passed: bool = True,
    form: Format = Format.ONNX,
    files: Mapping[str, bytes] | None = None,
    toy_seed: int | None = None,
    toy_fault: Literal["run", "values"] | None = None,
    **fields: Any,
) -> Path:
    """Make a finished folder that can be installed as version `number`."""
    folder.mkdir(parents=True, exist_ok=True)
    spec = FORMATS[form]
    for name, content in (files or {spec.whole_file: b"whole", spec.step_file: b"step"}).items():
        (folder / name).write_bytes(content)
    if toy_seed is not None:
        write_toy_model(folder / spec.whole_file, version=number, seed=toy_seed, fault=toy_fault)
    manifest = Manifest(
        version=number,
        format=form,
        precision=spec.precision,
        created="2026-01-01T00:00:00+00:00",
        checkpoint_sha256="c" * 64,
        schema_version=SCHEMA_VERSION,
        data_fingerprint="data",
        git_revision="revision",
        seed=0,
        model={"hidden": 8, "layers": 1, "parameters": 500},
        metrics={"onset_rmse": metric, "f1": 0.9},
        verification={"passed": passed},
        files=file_entries(folder),
    )
    (folder / MANIFEST_FILE).write_text(replace(manifest, **fields).to_json())
    return folder


def install(repository: Path | str, scratch: Path, number: int, **settings: Any) -> str:
    """Make a version of the LSTM with these settings of `make_version`, and install it."""
    return open_store(repository).install(make_version(scratch / f"version-{number}", number, **settings), number)


def pin(repository: Path, version: int) -> None:
    """Change config.pbtxt to serve a version of the LSTM, as a promotion does."""
    path = repository / DEFAULT_MODEL / "config.pbtxt"
    path.write_text(pinned(path.read_text(), version=version, spec=FORMATS[Format.ONNX]))
