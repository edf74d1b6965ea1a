"""Parameters of the lists: `limit`, and `cursor` with the `next` of the page before."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

Limit = Annotated[int, Query(ge=1, le=1_000, description="Largest number of entries in the answer.")]
"""Number of entries of one page. Use it with the default 100."""
Cursor = Annotated[
    str | None, Query(max_length=1_024, description="`next` of the answer before, for the entries that follow.")
]
"""Position after which the page begins. Use it with the default None, and with `gateway.database.pages.read_page`."""
