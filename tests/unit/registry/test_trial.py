"""The trial on a machine that cannot serve the version; the integration tests run real trials."""

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
def test_a_version_that_passed_its_gate_needs_no_trial_on_a_machine_without_a_server(
    store: VersionStore, tmp_path: Path
) -> None:
    install(store.location, tmp_path, 1)
    assert try_out(store, find(store, 1), store.read(CONFIG_FILE).text or "") == (
        "version 1 had no trial (the Triton server is not installed); it passed its gate"
    )


@pytest.mark.usefixtures("no_server")
def test_a_version_without_gate_and_trial_is_refused(store: VersionStore, tmp_path: Path) -> None:
    install(store.location, tmp_path, 1, passed=False)
    with pytest.raises(RepositoryError, match="version 1 is refused: it passed no gate") as failure:
        try_out(store, find(store, 1), store.read(CONFIG_FILE).text or "")
    assert "reentry[serve]" in str(failure.value.fix)


@pytest.mark.parametrize("form", [Format.TENSORRT, Format.ONNX_FP16])
def test_a_version_that_needs_a_gpu_has_no_trial(store: VersionStore, tmp_path: Path, form: Format) -> None:
    install(store.location, tmp_path, 1, form=form)
    assert "it runs on GPUs" in (try_out(store, find(store, 1), store.read(CONFIG_FILE).text or "") or "")
