"""Markdown tables of the reports."""

from __future__ import annotations

from collections.abc import Sequence


def table(titles: Sequence[str], rows: Sequence[Sequence[str]], *, words: int = 1) -> list[str]:
    """Return the lines of a Markdown table; the first `words` columns hold words, the others figures."""
    return [
        "| " + " | ".join(titles) + " |",
        "|" + " --- |" * words + " ---: |" * (len(titles) - words),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]
