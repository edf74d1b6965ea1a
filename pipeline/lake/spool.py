"""Rows on their way into a table, kept in a temporary file.

A commit pulls its rows from within Delta Lake's own event loop, where another table cannot be read. Rows that are
computed from a table are therefore written to a file first. That also bounds the memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

_ROWS: Final = 65_536
"""Number of rows of a row group, and of a batch that is read back."""


def write_spool(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    """Write batches to a Parquet file."""
    with pq.ParquetWriter(path, schema, compression="lz4") as writer:
        waiting: list[pa.RecordBatch] = []
        for batch in batches:
            waiting.append(batch)
            if sum(each.num_rows for each in waiting) >= _ROWS:
                writer.write_table(pa.Table.from_batches(waiting, schema))
                waiting.clear()
        writer.write_table(pa.Table.from_batches(waiting, schema))


def read_spools(paths: Sequence[Path], schema: pa.Schema) -> pa.RecordBatchReader:
    """Return the rows of files that `write_spool` has written, one file after the other."""
    if not paths:
        return pa.RecordBatchReader.from_batches(schema, iter(()))
    dataset = ds.dataset([str(path) for path in paths], schema=schema, format="parquet")
    return dataset.scanner(batch_size=_ROWS, use_threads=False).to_reader()
