"""State of the tables of a lake."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa

from pipeline.lake.lake import Lake
from pipeline.lake.tables import QUARANTINE, RAW, TABLES


@dataclass(frozen=True, slots=True, kw_only=True)
class TableStatus:
    """State of one table."""

    name: str
    version: int
    rows: int
    files: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LakeStatus:
    """State of a lake."""

    location: str
    tables: tuple[TableStatus, ...]
    newest_hour: str | None
    """Newest hour that has rows in `raw`."""
    quarantine: dict[str, dict[str, int]]
    """Number of entries of `quarantine` by status and rule."""
    quarantine_kinds: dict[tuple[str, str], int]
    """Number of entries of `quarantine` by status and by what is in quarantine: a file, a row or a track."""

    def as_dict(self) -> dict[str, Any]:
        """Content for JSON output."""
        kinds: dict[str, dict[str, int]] = {}
        for (status, kind), count in self.quarantine_kinds.items():
            kinds.setdefault(status, {})[kind] = count
        return asdict(replace(self, quarantine_kinds={})) | {"quarantine_kinds": kinds}

    def summary(self) -> str:
        """Return the state as text."""
        if not self.tables:
            return f"{self.location}: no tables yet; reentry ingest writes the first ones"
        lines = [f"{self.location}: newest hour {self.newest_hour or 'none'}"]
        lines += [
            f"  lake:{each.name}@{each.version}: rows {each.rows:,}, files {each.files:,}, {each.bytes / 1e6:,.1f} MB"
            for each in self.tables
        ]
        for status, rules in sorted(self.quarantine.items()):
            lines.append(f"  quarantine, {status}: {sum(rules.values()):,}")
            lines += [f"    {count:,} {rule}" for rule, count in sorted(rules.items(), key=lambda item: -item[1])]
        return "\n".join(lines)


def lake_status(lake: Lake) -> LakeStatus:
    """Read the state of all tables that exist, from their logs and from columns of `quarantine`.

    Raises:
        LakeError: The lake is unavailable.
    """
    tables, newest = [], None
    counts: dict[str, Counter[str]] = {}
    kinds: Counter[tuple[str, str]] = Counter()
    for name in TABLES:
        if not lake.exists(name):
            continue
        table = lake.open(name)
        with lake.errors(name):
            files = pa.table(table.get_add_actions(flatten=True))
            tables.append(
                TableStatus(
                    name=name,
                    version=table.version(),
                    rows=sum(files.column("num_records").to_pylist()),
                    files=files.num_rows,
                    bytes=sum(files.column("size_bytes").to_pylist()),
                )
            )
            if name == RAW.name and files.num_rows:
                newest = max(files.column("partition.hour").to_pylist())
            if name == QUARANTINE.name:
                for batch in table.to_pyarrow_dataset().to_batches(columns=["status", "rule", "row", "track_id"]):
                    for row in batch.to_pylist():
                        counts.setdefault(row["status"], Counter())[row["rule"]] += 1
                        kind = "row" if row["row"] is not None else "file" if row["track_id"] is None else "track"
                        kinds[row["status"], kind] += 1
    return LakeStatus(
        location=lake.location,
        tables=tuple(tables),
        newest_hour=newest,
        quarantine={status: dict(rules) for status, rules in counts.items()},
        quarantine_kinds=dict(kinds),
    )
