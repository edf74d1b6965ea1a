"""References to a version of a table, such as lake:clean@12."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from pipeline.lake.tables import TABLES
from reentry.errors import InputError

_PATTERN: Final = re.compile(r"lake:([a-z]+)(?:@(\d{1,12}))?")


@dataclass(frozen=True, slots=True)
class TableReference:
    """A table, and a version of it; version None is the newest one."""

    table: str
    version: int | None = None

    def __str__(self) -> str:
        return f"lake:{self.table}" + ("" if self.version is None else f"@{self.version}")

    @classmethod
    def parse(cls, text: str) -> TableReference:
        """Parse lake:TABLE or lake:TABLE@VERSION.

        Raises:
            InputError: The text has another form, or names no table.
        """
        match = _PATTERN.fullmatch(text)
        if match is None or match[1] not in TABLES:
            raise InputError(
                "not a table of the lake",
                expected=f"lake:TABLE@VERSION with TABLE one of {', '.join(TABLES)}",
                got=text,
            )
        return cls(match[1], int(match[2]) if match[2] else None)
