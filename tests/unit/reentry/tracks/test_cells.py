"""The quick search for rows with a fault finds every row that the declared schema refuses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reentry.schema import REENTRY_PHASE, TRACK_COLUMNS
from reentry.tracks import cells

NAMES = [column.name for column in (*TRACK_COLUMNS, REENTRY_PHASE) if not column.name.endswith("_id")]
BOUNDS = [
    bound for column in (*TRACK_COLUMNS, REENTRY_PHASE) for bound in (column.low, column.high) if bound is not None
]
VALUES = [
    *(0.0, 1.0, 0.5, -0.5, 2.0, np.nan, np.inf, -np.inf, np.finfo(np.float64).max, np.finfo(np.float64).min),
    *BOUNDS,
    *(float(np.nextafter(bound, direction)) for bound in BOUNDS for direction in (-np.inf, np.inf)),
]


def violations(rows: list[list[float]], *, labelled: bool) -> list[dict[str, object]]:
    numbers = dict(zip(NAMES, np.array(rows).T, strict=True))
    return cells._violations(np.arange(100, 100 + len(rows)), numbers, labelled=labelled).to_dict("records")


@settings(deadline=None, max_examples=50)
@given(
    odd=st.lists(st.tuples(st.integers(0, 4), st.integers(0, len(NAMES) - 1), st.sampled_from(VALUES)), max_size=4),
    labelled=st.booleans(),
)
def test_the_faults_are_those_of_all_rows_in_the_declared_schema(
    odd: list[tuple[int, int, float]], labelled: bool
) -> None:
    rows = [[1.0] * len(NAMES) for _ in range(5)]
    for row, column, value in odd:
        rows[row][column] = value
    found = violations(rows, labelled=labelled)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cells, "_outside", lambda _, values: np.arange(len(values)))
        assert found == violations(rows, labelled=labelled)


@pytest.mark.parametrize("name", NAMES)
def test_each_value_of_a_column_is_judged_as_in_the_declared_schema(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    rows = [[value if column == name else 1.0 for column in NAMES] for value in VALUES]
    found = violations(rows, labelled=True)
    assert found
    monkeypatch.setattr(cells, "_outside", lambda _, values: np.arange(len(values)))
    assert found == violations(rows, labelled=True)
