"""Versions with a manifest, as an export installs them, around the toy network or around a few bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from reentry.schema import SCHEMA_VERSION
from registry.config_pbtxt import pinned
from registry.formats import FORMATS, Format
from registry.manifest import MANIFEST_FILE, Manifest
from registry.open import open_store
from registry.store import file_entries
from tests.toy_model import write_toy_model

REPOSITORY = Path(__file__).parents[1] / "model_repository"


def bare_repository(folder: Path) -> Path:
    """A repository of the network's configuration alone, as a clone has it, without a server's other models."""
    model = folder / "repository" / "reentry_lstm"
    model.mkdir(parents=True)
    (model / "config.pbtxt").write_text((REPOSITORY / "reentry_lstm" / "config.pbtxt").read_text())
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
    """A finished folder, ready to be installed as version `number`."""
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
    """Install such a version."""
    return open_store(repository).install(make_version(scratch / f"version-{number}", number, **settings), number)


def pin(repository: Path, version: int) -> None:
    """Let config.pbtxt serve that version, as a promotion does."""
    path = repository / "reentry_lstm" / "config.pbtxt"
    path.write_text(pinned(path.read_text(), version=version, spec=FORMATS[Format.ONNX]))
