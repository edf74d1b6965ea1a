"""The trial of a version where this machine cannot serve it; the trial itself is in the integration tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from reentry.errors import RepositoryError, ServerError
from registry import trial
from registry.formats import Format
from registry.inventory import find
from registry.open import open_store
from registry.store import CONFIG_FILE, VersionStore
from registry.trial import try_out
from tests.versions import bare_repository, install


@pytest.fixture
def store(tmp_path: Path) -> VersionStore:
    return open_store(bare_repository(tmp_path))


@pytest.fixture
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise ServerError("the Triton server is not installed")

    monkeypatch.setattr(trial, "find_installation", missing)


@pytest.mark.usefixtures("no_server")
def test_without_a_server_on_this_machine_the_gate_that_was_passed_counts(store: VersionStore, tmp_path: Path) -> None:
    install(store.location, tmp_path, 1)
    assert try_out(store, find(store, 1), store.read(CONFIG_FILE).text or "") == (
        "version 1 had no trial (the Triton server is not installed); it passed its gate"
    )


@pytest.mark.usefixtures("no_server")
def test_without_a_server_and_without_a_gate_a_version_is_refused(store: VersionStore, tmp_path: Path) -> None:
    install(store.location, tmp_path, 1, passed=False)
    with pytest.raises(RepositoryError, match=r"version 1 is refused: it passed no gate.*fix: .*reentry\[serve\]"):
        try_out(store, find(store, 1), store.read(CONFIG_FILE).text or "")


@pytest.mark.parametrize("form", [Format.TENSORRT, Format.ONNX_FP16])
def test_a_version_that_only_a_gpu_runs_is_not_tried(store: VersionStore, tmp_path: Path, form: Format) -> None:
    install(store.location, tmp_path, 1, form=form)
    assert "it runs on GPUs" in (try_out(store, find(store, 1), store.read(CONFIG_FILE).text or "") or "")
