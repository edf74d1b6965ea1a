"""The reference of a version is read once, and again only if its file has changed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from reentry.drift import Reference
from reentry.references import MOST_VERSIONS, ByVersion
from tests.orbit import PRIOR, write_reference


class Shares(ByVersion[float]):
    """Reentry share of each version, with the number of references that were read."""

    def __init__(self, network: Path) -> None:
        super().__init__(network, self._share)
        self.reads = 0

    def _share(self, reference: Reference) -> float | None:
        self.reads += 1
        return None if reference.orbit_prior is None else reference.reentry_share


@pytest.fixture
def network(tmp_path: Path) -> Path:
    for version in range(1, MOST_VERSIONS + 2):
        write_reference(tmp_path / str(version), PRIOR)
    return tmp_path


def test_two_versions_in_alternation_are_read_once_each(network: Path) -> None:
    shares = Shares(network)
    assert [shares.of(version) for version in (1, 2, 1, 2, 1, 2)] == [0.5] * 6
    assert shares.reads == 2


def test_a_changed_file_is_read_again(network: Path) -> None:
    shares = Shares(network)
    assert shares.of(1) == 0.5
    path = write_reference(network / "1", None)
    os.utime(path, ns=(1, 1))
    assert shares.of(1) is None
    path.write_text("{")
    os.utime(path, ns=(2, 2))
    assert shares.of(1) is None
    assert shares.reads == 2


def test_a_version_that_was_deleted_while_it_runs_keeps_its_value(network: Path) -> None:
    shares = Shares(network)
    assert shares.of(1) == 0.5
    shutil.rmtree(network / "1")
    assert [shares.of(1), shares.of(1)] == [0.5, 0.5]
    assert shares.reads == 1


def test_a_version_without_a_reference_has_no_value(network: Path) -> None:
    shares = Shares(network)
    assert shares.of(1) == 0.5
    (network / "1" / "reference.json").unlink()
    assert shares.of(1) is None
    assert shares.of(99) is None


def test_only_the_versions_that_were_used_last_are_kept(network: Path) -> None:
    shares = Shares(network)
    for version in (*range(1, MOST_VERSIONS + 1), 1, MOST_VERSIONS + 1, 1):
        shares.of(version)
    assert shares.reads == MOST_VERSIONS + 1
    shares.of(2)
    assert shares.reads == MOST_VERSIONS + 2
