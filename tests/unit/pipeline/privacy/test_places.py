"""Erasure and audit do not succeed against places that do not exist."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.privacy.audit import audit
from pipeline.privacy.erase import erase
from reentry.errors import InputError, LakeError
from tests.unit.pipeline.privacy.conftest import ONE, Filled


@pytest.mark.parametrize(
    ("place", "problem"), [("lake", "there is no table raw"), ("landing", "the landing folder does not exist")]
)
def test_a_place_that_does_not_exist_is_an_error(filled: Filled, tmp_path: Path, place: str, problem: str) -> None:
    settings = replace(filled.settings, **{place: str(tmp_path / "mistyped")})
    with pytest.raises(LakeError, match=problem):
        erase(settings, "sensor", str(ONE))
    with pytest.raises(LakeError, match=problem):
        audit(settings)


def test_an_audit_needs_an_id_in_the_file_of_ids(filled: Filled, tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("\n \n")
    with pytest.raises(InputError, match="the file has no ids to search"):
        audit(filled.settings, search=tmp_path / "ids.txt")
