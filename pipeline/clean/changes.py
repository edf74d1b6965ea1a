"""Which tracks changed between two versions of `raw`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from deltalake import DeltaTable

from pipeline.lake.tables import KEY_ID
from reentry.schema import TRACK_ID

RULES: Final = 1
"""Version of the rules by which `clean` is built. It increases when the same rows give other tracks."""
RAW_VERSION: Final = "raw_version"
"""Entry of the history of `clean`: the version of `raw` that it was built from."""
RULES_ENTRY: Final = "rules"
"""Entry of the history of `clean`: `RULES`."""

_SOURCE: Final = ("object", "etag", KEY_ID)
"""Columns that identify the content of rows: the rows of an object with a tag under a key are always the same."""

Ids = npt.NDArray[np.int64]


def built_from(clean: DeltaTable) -> int | None:
    """Return the version of `raw` that `clean` was last built from; None if never, or by other rules.

    Args:
        clean: The table, open at its newest version.
    """
    # The log is never shortened, and mostly one of the newest entries is the wanted one.
    for limit in (10, 200, None):
        for entry in clean.history(limit):
            if RAW_VERSION in entry:
                return int(entry[RAW_VERSION]) if entry.get(RULES_ENTRY) == str(RULES) else None
    return None


def changed_tracks(old: DeltaTable, new: DeltaTable) -> Ids | None:
    """Return the ids of the tracks whose rows differ between two versions of `raw`, sorted.

    Only files that one of the versions lacks are read. The same rows in other files, as after compaction,
    are no change.

    Returns:
        The ids, (N,), or None if it is unknown, because files of the old version were removed.
    """
    before, after = old.to_pyarrow_dataset(), new.to_pyarrow_dataset()
    only_old, only_new = _files(before, set(after.files)), _files(after, set(before.files))
    try:
        counts = _rows_by_source(only_new)
        counts.subtract(_rows_by_source(only_old))
        sources = {source for source, count in counts.items() if count}
        found: Ids = np.unique(np.concatenate([_tracks(files, sources) for files in (only_old, only_new)]))
    except FileNotFoundError:
        return None
    return found


def _files(dataset: ds.FileSystemDataset, others: set[str]) -> ds.FileSystemDataset:
    """Return the files of a dataset that are not among the others."""
    fragments = [fragment for fragment in dataset.get_fragments() if fragment.path not in others]
    return ds.FileSystemDataset(fragments, dataset.schema, dataset.format, dataset.filesystem)


def _rows_by_source(files: ds.FileSystemDataset) -> Counter[tuple[str, ...]]:
    counts: Counter[tuple[str, ...]] = Counter()
    for batch in files.to_batches(columns=list(_SOURCE)):
        groups = (
            pa.Table.from_batches([batch]).group_by(list(_SOURCE), use_threads=False).aggregate([([], "count_all")])
        )
        for group in groups.to_pylist():
            counts[tuple(group[name] for name in _SOURCE)] += group["count_all"]
    return counts


def _tracks(files: ds.FileSystemDataset, sources: Iterable[tuple[str, ...]]) -> Ids:
    """Return the tracks in files that have rows of some sources."""
    objects = pa.array(sorted({source[0] for source in sources}), pa.string())
    found = [
        pc.unique(batch.column(0)).to_numpy(zero_copy_only=False)
        for batch in files.to_batches(columns=[TRACK_ID.name], filter=ds.field("object").isin(objects))
    ]
    ids: Ids = np.concatenate([np.empty(0, np.int64), *found])
    return ids
