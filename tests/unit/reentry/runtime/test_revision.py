"""The git revision that results and checkpoints record."""

from __future__ import annotations

from pathlib import Path

import pytest

from reentry.runtime.revision import REVISION_VARIABLE, git_revision


def test_the_revision_is_the_commit_of_the_checkout() -> None:
    revision = git_revision()
    assert revision == "unknown" or len(revision.removesuffix("-dirty")) == 40


def test_the_revision_is_unknown_outside_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "none"))
    monkeypatch.delenv(REVISION_VARIABLE, raising=False)
    assert git_revision() == "unknown"


def test_the_revision_in_a_container_is_that_of_the_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(REVISION_VARIABLE, "0123abcd")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "none"))
    assert git_revision() == "0123abcd"
