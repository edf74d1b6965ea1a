"""Which buckets of `clean` are older than `raw`."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from typing import Final

import pyarrow as pa
from deltalake import DeltaTable

from pipeline.lake.tables import BUCKETS, KEY_ID

RULES: Final = 1
"""Version of the rules by which `clean` is built. It increases when the same rows give other tracks."""
ENTRY: Final = "buckets"
"""Entry of the history of `clean` that holds the state of `raw` it was built from."""
_COLUMNS: Final = ("bucket", "object", "etag", KEY_ID)


def bucket_states(raw: DeltaTable) -> dict[str, str]:
    """Return a digest of the rows of each bucket of `raw` by its number.

    The content of a file under a key never changes, so the files and their numbers of rows identify the rows. How the
    table is stored, for example after compaction, does not matter.
    """
    counts: Counter[tuple[object, ...]] = Counter()
    for batch in raw.to_pyarrow_dataset().to_batches(columns=list(_COLUMNS)):
        groups = (
            pa.Table.from_batches([batch]).group_by(list(_COLUMNS), use_threads=False).aggregate([([], "count_all")])
        )
        for group in groups.to_pylist():
            counts[tuple(group[name] for name in _COLUMNS)] += group["count_all"]
    states = {}
    for bucket in range(BUCKETS):
        rows = sorted((*map(str, key[1:]), count) for key, count in counts.items() if key[0] == bucket)
        states[str(bucket)] = hashlib.sha256(json.dumps([RULES, rows]).encode()).hexdigest()[:32] if rows else ""
    return states


def built_states(clean: DeltaTable) -> dict[str, str]:
    """Return the states that `clean` was last built from; empty if it was never built."""
    for entry in clean.history():
        if ENTRY in entry:
            return {str(bucket): str(state) for bucket, state in json.loads(entry[ENTRY]).items()}
    return {str(bucket): "" for bucket in range(BUCKETS)}
