"""Ids in landing files whose rows, or which as a whole, cannot be read as a table."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.lake.storage import Storage
from pipeline.privacy.keys import PseudonymKeys
from pipeline.privacy.landed_ids import files_about
from pipeline.privacy.subject import Subject

HEADER = "track_id,sensor_id,operator_id,altitude"
KEYS = PseudonymKeys(keys=(bytes(32),))


def found(tmp_path: Path, text: str, kind: str, name: str) -> bool:
    """Whether a landing file with this text is about the subject."""
    (tmp_path / "a.csv").write_text(text, newline="")
    return bool(files_about(Subject.of(kind, name, KEYS), Storage(str(tmp_path))))


@pytest.mark.parametrize(("kind", "name"), [("track", "812"), ("sensor", "7"), ("operator", "Åke")])
@pytest.mark.parametrize(
    "text",
    [
        f"{HEADER}\n1,2,Bob,3\n812,7,Åke,3,9\n",
        f"{HEADER}\r\n1,2,Bob,3\r\n0812, 7.0 ,Åke,3,9\r\n",
        f"\ufeff{HEADER}\n1,2,Bob,3\n812,7,Åke,3,\n",
        f"{HEADER}\n1,2,Bob,3\n,812,7,Åke,3\n",
        f'{HEADER}\n1,2,Bob,"3\n812,7,Åke,3\n',
        f'{HEADER}\n1,2,Bob,"3\n812,7,Åke,3\n5,6,Eve,"\n',
        f'{HEADER}\n812,7,"Åke",3,9\n',
        "",
    ],
    ids=["too many", "line ends", "trailing comma", "moved", "open quote", "two lines", "quoted", "empty"],
)
def test_rows_that_are_no_rows_of_the_table_are_searched(tmp_path: Path, text: str, kind: str, name: str) -> None:
    assert found(tmp_path, text, kind, name) == bool(text)


@pytest.mark.parametrize(
    "text",
    [
        f"{HEADER}\n1,2,Bob,812\n812,2,Bob,3\n1,2,Bob,7\n",
        f"{HEADER}\n1,2,Bob,7,\n1,2,812,3,\n",
        f"{HEADER}\n1,2,Bob,77,9\n",
    ],
    ids=["other column", "other column before a trailing comma", "other number"],
)
def test_an_equal_number_of_another_column_does_not_make_a_file_one_of_the_subject(tmp_path: Path, text: str) -> None:
    assert not found(tmp_path, text, "sensor", "7")
