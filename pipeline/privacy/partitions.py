"""Changes of rows in the newest version of a table, one partition and one commit after the other.

A partition is written again only if a row changes, and only if no other commit came between, so a change can be killed
at any time and repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
from deltalake import DeltaTable

from pipeline.lake.lake import Lake
from pipeline.lake.tables import TABLES
from pipeline.privacy.subject import Mask
from reentry.runtime.ahead import one_ahead

_BATCH_ROWS: Final = 65_536

Select = Callable[[pa.Table], Mask]
"""Function that returns which of N rows change, (N,)."""
Change = Callable[[pa.Table, Mask], pa.Table]
"""Function that returns the new rows for N rows, of which some change."""


def change_rows(
    lake: Lake, name: str, columns: Sequence[str], select: Select, change: Change, metadata: Mapping[str, str]
) -> int:
    """Change rows of a table, and return how many.

    Args:
        lake: The lake.
        name: Name of the table; a missing table has no rows.
        columns: Columns that `select` needs, as far as the table has them.
        select: Function that chooses the rows.
        change: Function that changes them.
        metadata: Entries for the history of the table.

    Raises:
        LakeError: The store is unavailable, or other writers never let a commit pass.
    """
    if not lake.exists(name):
        return 0
    partition = TABLES[name].partition_by[0]
    changed = 0
    for value in sorted({each[partition] for each in lake.open(name).partitions()}):
        work = _Work([(partition, "=", value)], columns, select, change)
        if lake.rewrite(name, value, work.rows_of, metadata=metadata):
            changed += work.count
    return changed


class _Work:
    """Change of one partition."""

    def __init__(
        self, place: list[tuple[str, str, str]], columns: Sequence[str], select: Select, change: Change
    ) -> None:
        self.count = 0
        """Number of rows that change."""
        self._place = place
        self._columns = columns
        self._select = select
        self._change = change

    def rows_of(self, table: DeltaTable) -> pa.RecordBatchReader | None:
        dataset = table.to_pyarrow_dataset(file_pruning_predicate=self._place)
        names = [name for name in self._columns if name in dataset.schema.names]
        batches = dataset.to_batches(columns=names, batch_size=_BATCH_ROWS)
        self.count = sum(int(np.count_nonzero(self._select(pa.Table.from_batches([batch])))) for batch in batches)
        if not self.count:
            return None
        # Delta Lake pulls the batches on a thread on which no table can be read, so a second thread reads.
        return pa.RecordBatchReader.from_batches(dataset.schema, one_ahead(self._changed(dataset)))

    def _changed(self, dataset: ds.Dataset) -> Iterator[pa.RecordBatch]:
        for batch in dataset.to_batches(batch_size=_BATCH_ROWS):
            rows = pa.Table.from_batches([batch])
            yield from self._change(rows, self._select(rows)).cast(dataset.schema).to_batches()
