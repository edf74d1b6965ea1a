"""File of alerts as an outbox: which of its lines a gateway has received, across restarts."""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from reentry.errors import InputError
from reentry.runtime.files import whole_file

_log = logging.getLogger(__name__)

_LARGEST_READ: Final = 2**20
"""Bytes that are read at once; a line is far shorter."""


class EventFile:
    """Alerts and refinements in a file to which a run appends lines of JSON, beside a note of what was delivered.

    A run that continues the file of an earlier one also delivers what that one could not. Lines from before the first
    run with this gateway are left out.
    """

    def __init__(self, path: Path, gateway: str) -> None:
        """Open the file, which may not exist yet.

        Args:
            path: file with one event on each line.
            gateway: address of the gateway.
        """
        self._path = path
        self._note = path.with_name(f"{path.name}.delivered")
        self._gateway = gateway
        size = path.stat().st_size if path.exists() else 0
        self.offset = self._noted(size)
        """Bytes that are delivered."""
        if self.offset > size:
            self.offset = 0  # another file has taken the place of the one that was delivered
        self._keep_note()

    def read(self, most: int) -> tuple[list[dict[str, Any]], int]:
        """Return the next events that are not delivered, and the offset behind them for `delivered`."""
        with self._path.open("rb") as file:
            file.seek(self.offset)
            content = file.read(_LARGEST_READ)
        lines = content[: content.rfind(b"\n") + 1].splitlines(keepends=True)[:most]
        events = [event for line in lines if (event := self._event_of(line)) is not None]
        return events, self.offset + sum(map(len, lines))

    def delivered(self, offset: int) -> None:
        """Note that the gateway has everything before an offset."""
        self.offset = offset
        self._keep_note()

    @property
    def waiting(self) -> int:
        """Bytes that are not delivered."""
        return (self._path.stat().st_size if self._path.exists() else 0) - self.offset

    def count(self) -> int:
        """Return the number of events that are not delivered."""
        with self._path.open("rb") as file:
            file.seek(self.offset)
            return sum(1 for _ in file)

    def _event_of(self, line: bytes) -> dict[str, Any] | None:
        try:
            event = json.loads(line)
        except ValueError:
            event = None
        if not isinstance(event, dict):
            _log.warning("%s has a line that is not an event; it is not sent to the gateway", self._path)
            return None
        return event

    def _noted(self, size: int) -> int:
        with suppress(OSError, ValueError, TypeError, KeyError):
            note = json.loads(self._note.read_text(encoding="utf-8"))
            if note["gateway"] == self._gateway:
                return int(note["offset"])
        return size

    def _keep_note(self) -> None:
        try:
            with whole_file(self._note) as temporary:
                temporary.write_text(json.dumps({"gateway": self._gateway, "offset": self.offset}), encoding="utf-8")
        except InputError as error:
            # Without the note the next run delivers these events again, which the gateway recognises.
            _log.warning("%s", error)
