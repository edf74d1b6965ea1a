"""Which files of the landing folder are in the lake."""

from __future__ import annotations

from collections.abc import Sequence, Set

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from pipeline.ingest.landing import Landed
from pipeline.ingest.read import DUPLICATE
from pipeline.lake.lake import Lake
from pipeline.lake.tables import QUARANTINE, RAW


def known_keys(lake: Lake, objects: Sequence[Landed]) -> set[str]:
    """Return the keys of the objects that were ingested: they have rows in `raw`, or are known to have no good row.

    Raises:
        LakeError: The lake is unavailable.
    """
    if not objects or not lake.exists(RAW.name):
        return set()
    hours = pa.array(sorted({each.hour for each in objects}))
    stored: set[tuple[str, str]] = set()
    with lake.errors(RAW.name):
        batches = (
            lake.open(RAW.name)
            .to_pyarrow_dataset()
            .to_batches(columns=["object", "etag"], filter=ds.field("hour").isin(hours))
        )
        for batch in batches:
            pairs = pa.Table.from_batches([batch]).group_by(["object", "etag"]).aggregate([])
            stored.update(zip(pairs["object"].to_pylist(), pairs["etag"].to_pylist(), strict=True))
    known = {each.key for each in objects if (each.name, each.etag) in stored}
    # The log is read for each key, so only those of files without rows are looked up.
    return known | lake.committed(RAW.name, [each.key for each in objects if each.key not in known])


def ingested_keys(lake: Lake, objects: Sequence[Landed]) -> set[str]:
    """Return the keys of the objects whose rows are in `raw`, their own or those of an object with the same content.

    A duplicate is known from its entry in `quarantine`. It counts only while the other object keeps its rows: not if
    one of `objects` is another content of it, which replaces them.

    Args:
        lake: The lake.
        objects: All objects of some hours.

    Raises:
        LakeError: The lake is unavailable.
    """
    known = known_keys(lake, objects)
    waiting = [each for each in objects if each.key not in known]
    if not waiting or not lake.exists(QUARANTINE.name) or not lake.exists(RAW.name):
        return known
    hours = pc.field("hour").isin(pa.array(sorted({each.hour for each in objects})))
    with lake.errors(QUARANTINE.name):
        entries = (
            lake.open(QUARANTINE.name)
            .to_pyarrow_dataset()
            .to_table(columns=["object", "etag", "content"], filter=hours & (pc.field("rule") == DUPLICATE))
        )
    contents = {(row["object"], row["etag"]): row["content"] for row in entries.to_pylist()}
    wanted = {contents[each.name, each.etag] for each in waiting if (each.name, each.etag) in contents}
    if not wanted:
        return known
    kept = ~pc.field("object").isin(pa.array([each.name for each in waiting]))
    with lake.errors(RAW.name):
        rows = lake.open(RAW.name).to_pyarrow_dataset()
        held = _contents(rows, wanted, kept & hours)
        # First the same hours, where the other object mostly is. A search of all hours opens all files of `raw`.
        held |= _contents(rows, wanted - held, kept)
    return known | {each.key for each in waiting if contents.get((each.name, each.etag)) in held}


def _contents(rows: ds.Dataset, wanted: Set[str], chosen: pc.Expression) -> set[str]:
    """Return which contents chosen rows have."""
    found: set[str] = set()
    if wanted:
        among = pc.field("content").isin(pa.array(sorted(wanted)))
        for batch in rows.to_batches(columns=["content"], filter=chosen & among):
            found.update(batch.column(0).unique().to_pylist())
    return found
