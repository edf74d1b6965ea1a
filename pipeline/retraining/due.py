"""When a retraining is due.

| reason | due when |
| --- | --- |
| schedule | the last retraining is at least `retrain_days` old |
| data | the table of features has at least `retrain_tracks` more tracks than the version of the last retraining |
| drift | the caller has noticed drift |

Without a version of the table with other rows no retraining is due: the same data and settings give the same model.
Without an earlier retraining it always is.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pyarrow as pa
from deltalake import QueryBuilder

from pipeline.lake.history import version_of_rows
from pipeline.lake.lake import Lake
from pipeline.lake.reference import TableReference
from pipeline.lake.tables import FEATURES_TABLE
from pipeline.retraining.reason import Reason
from pipeline.retraining.verdicts import last_retraining
from pipeline.settings import PipelineSettings
from reentry.errors import LakeError
from reentry.schema import TRACK_ID


def why_not_due(lake: Lake, reason: Reason, settings: PipelineSettings, *, now: datetime | None = None) -> str | None:
    """Return why no retraining is due; None if one is.

    Args:
        lake: The tables.
        reason: Reason of the retraining.
        settings: The thresholds.
        now: The present time, by default that of the clock.

    Raises:
        LakeError: There is no table of features, or the store is unavailable.
    """
    table = lake.open(FEATURES_TABLE.name)
    newest = TableReference(FEATURES_TABLE.name, version_of_rows(table))
    last = last_retraining(lake)
    if last is None:
        return None
    used = TableReference.parse(last.table).version or 0
    # A larger number than that of the table is one of an earlier table, which was deleted.
    if (newest.version or 0) <= used <= table.version():
        return f"{newest} is still the newest version, and the last retraining has used it"
    if reason is Reason.SCHEDULE:
        age = (now or datetime.now(UTC)) - last.time
        if age < timedelta(days=settings.retrain_days):
            return f"the last retraining was {age / timedelta(days=1):.1f} of {settings.retrain_days:g} days ago"
    if reason is Reason.DATA:
        try:
            new = _tracks(lake, newest) - _tracks(lake, TableReference.parse(last.table))
        except LakeError:  # the files of the earlier version were removed
            return None
        if new < settings.retrain_tracks:
            return f"{newest} has {new:,} new tracks since {last.table}, fewer than {settings.retrain_tracks:,}"
    return None


def _tracks(lake: Lake, reference: TableReference) -> int:
    with lake.errors(reference.table, reference.version):
        table = lake.open(reference.table, reference.version)
        query = f'SELECT count(DISTINCT "{TRACK_ID.name}") AS tracks FROM features'
        found = pa.table(QueryBuilder().register("features", table).execute(query).read_all())
    count: int = found["tracks"][0].as_py()
    return count
