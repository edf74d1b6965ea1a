"""Panels of the data pipeline."""

from __future__ import annotations

from typing import Final

from panel import Panel

_LAKE = 'job="reentry-lake"'
"""The pipeline has a namespace of its own, which the variable of the dashboard does not list."""

PANELS: Final = (
    Panel(
        title="Age of the newest hour of data",
        unit="s",
        queries={"since its start": f"time() - max(reentry_lake_newest_hour_seconds{{{_LAKE}}})"},
        note="Time since the start of the newest hour that has rows in the table raw.",
        threshold=3.0 * 3600.0,
    ),
    Panel(
        title="Rows of the tables",
        unit="short",
        queries={"{{table}}": f"max by (table) (reentry_lake_table_rows{{{_LAKE}}})"},
    ),
    Panel(
        title="Entries in quarantine",
        unit="short",
        queries={
            "{{kind}}, {{status}}": f"max by (kind, status) (reentry_lake_quarantine_entries{{{_LAKE}}})",
        },
        note="Files, rows and tracks that break a rule.",
    ),
    Panel(
        title="Files of the tables",
        unit="short",
        queries={"{{table}}": f"max by (table) (reentry_lake_table_files{{{_LAKE}}})"},
        note="Many small files slow reading; the daily maintenance joins them.",
    ),
    Panel(
        title="Versions of the tables",
        unit="short",
        queries={"{{table}}": f"max by (table) (reentry_lake_table_version{{{_LAKE}}})"},
    ),
    Panel(
        title="Refusals of the gate, readable tables",
        unit="short",
        queries={
            "refused models": f"max(reentry_lake_gate_refusals{{{_LAKE}}})",
            "readable": f"min(reentry_lake_readable{{{_LAKE}}})",
        },
    ),
)
