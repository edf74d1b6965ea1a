"""Markdown tables of the reports."""

from __future__ import annotations

from collections.abc import Sequence


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table; the first column holds words, the others figures."""
    return [
        "| " + " | ".join(titles) + " |",
        "| --- |" + " ---: |" * (len(titles) - 1),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]
