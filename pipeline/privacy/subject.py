"""Subjects of an erasure: a sensor, an operator or a track, found in tables by pseudonyms."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.lake.tables import CLEAN, EXTRA, FEATURES_TABLE, KEY_ID, OPERATOR_ID, PREDICTIONS, QUARANTINE
from pipeline.privacy.keys import PseudonymKeys
from pipeline.privacy.pseudonyms import EXTRA_TEXT, OPERATOR, SENSOR, pseudonyms, pseudonyms_by_key, usual_form
from reentry.errors import InputError
from reentry.schema import SENSOR_ID, TRACK_ID

TRACK: Final = "track"
KINDS: Final = {SENSOR: SENSOR_ID.name, OPERATOR: OPERATOR_ID, TRACK: TRACK_ID.name}
"""Column of landing files and tables that holds the ids of each kind."""

_BY_TRACK: Final = {QUARANTINE.name, CLEAN.name, FEATURES_TABLE.name, PREDICTIONS.name}
"""Tables whose rows were computed from other rows of their track, or name no sensor."""

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """An id and its pseudonyms. The id is never printed or logged."""

    kind: str
    name: str = field(repr=False)
    keys: PseudonymKeys

    @classmethod
    def of(cls, kind: str, name: str, keys: PseudonymKeys) -> Subject:
        """Create a subject from an id as it stands in landing files.

        Raises:
            InputError: The id is empty, or not the number that ids of this kind are. The error does not quote it.
        """
        name = name.strip()
        if kind != OPERATOR:
            try:
                name = str(int(name))
            except ValueError:
                raise InputError(f"the id of the {kind} is invalid", expected="a whole number") from None
        if not name:
            raise InputError(f"the id of the {kind} is empty")
        return cls(kind=kind, name=name, keys=keys)

    @property
    def erasure_id(self) -> str:
        """Name of the erasure of this subject: a pseudonym, so that a repeated erasure has the same name."""
        name = f"{self.kind}:{self.name}"
        return f"erasure-{pseudonyms('erasure', [name], self.keys)[name]:016x}"

    def direct_rows(self, rows: pa.Table) -> Mask:
        """Return which of N rows of a table of tracks are about the subject itself, (N,).

        Args:
            rows: Columns of `COLUMNS` that the table has.

        Raises:
            ConfigError: Rows have pseudonyms of an unknown key.
        """
        found = np.zeros(rows.num_rows, dtype=bool)
        if KINDS[self.kind] not in rows.column_names:
            return found
        if self.kind == TRACK:
            return _flags(pc.equal(rows[TRACK_ID.name], int(self.name)))
        for key_id in pc.unique(rows[KEY_ID]).to_pylist():
            self.keys.after(str(key_id))
        values = pseudonyms_by_key(self.kind, self.name, self.keys)
        texts = pseudonyms_by_key(EXTRA_TEXT, usual_form(self.name), self.keys)
        for key_id in self.keys.ids:
            same = _flags(pc.equal(rows[KINDS[self.kind]], values[key_id]))
            if EXTRA in rows.column_names:
                same |= _flags(pc.match_substring(rows[EXTRA], f'"hmac:{texts[key_id]}"'))
            found |= same & _flags(pc.equal(rows[KEY_ID], key_id))
        return found

    def rows(self, table: str, rows: pa.Table, tracks: Iterable[int]) -> Mask:
        """Return which of N rows of a table are erased, (N,): those of the subject and those computed from them.

        Args:
            table: Name of the table.
            rows: Columns of `COLUMNS` that the table has.
            tracks: Tracks with a row of the subject.
        """
        found = self.direct_rows(rows)
        if table in _BY_TRACK and TRACK_ID.name in rows.column_names:
            found |= _flags(pc.is_in(rows[TRACK_ID.name], pa.array(sorted(tracks), pa.int64())))
        return found


COLUMNS: Final = (*KINDS.values(), KEY_ID, EXTRA)
"""Columns that decide whether a row is about a subject."""


def _flags(values: Any) -> Mask:
    flags: Mask = pc.fill_null(values, False).to_numpy(zero_copy_only=False).astype(bool)
    return flags
