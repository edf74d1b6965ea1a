"""Environments of the compared servers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from perf.peers import environments
from perf.peers.contestants import contestants
from perf.peers.environments import REQUIREMENTS, Environment, environment
from reentry.errors import ReentryError


def test_every_contestant_has_a_file_that_pins_each_package() -> None:
    found = contestants()
    assert len({contestant.name for contestant in found}) == len(found)
    for contestant in found:
        lines = (REQUIREMENTS / f"{contestant.requirements}.txt").read_text().splitlines()
        pins = [line for line in lines if line and not line.startswith("#")]
        assert pins
        assert [line for line in pins if not re.match(r"[\w.-]+==\S+", line)] == []


def test_versions_and_size_are_those_of_the_packages(tmp_path: Path) -> None:
    packages = tmp_path / "lib/python3.11/site-packages"
    (packages / "one-2.5.dist-info").mkdir(parents=True)
    (packages / "one-2.5.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: one\nVersion: 2.5\n")
    (packages / "one.py").write_bytes(b"#" * 1000)
    (packages / "one.pyc").write_bytes(b"#" * 5000)
    made = Environment(folder=tmp_path)
    assert made.versions() == {"one": "2.5"}
    assert made.size() == 1000 + (packages / "one-2.5.dist-info/METADATA").stat().st_size


def test_a_package_that_cannot_be_installed_is_an_error_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.txt").write_text("./no-such-folder\n")
    monkeypatch.setattr(environments, "REQUIREMENTS", tmp_path)
    with pytest.raises(ReentryError) as caught:
        environment("broken", tmp_path / "cache")
    assert "no-such-folder" in str(caught.value.got)
