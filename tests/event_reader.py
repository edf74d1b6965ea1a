"""A reader of live events that connects again after every lost connection, as a browser does."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Event:
    """One event."""

    number: int | None
    kind: str
    content: Any


class EventReader:
    """Collects the events of an account in a thread."""

    def __init__(self, address: str, key: str) -> None:
        self.events: list[Event] = []
        self.connections = 0
        """Number of connections that were answered with 200."""
        self.status: int | None = None
        """Status of the latest answer."""
        self.last_id: str | None = None
        self._address, self._key = address, key
        self._connection: http.client.HTTPConnection | None = None
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def of(self, kind: str) -> list[Event]:
        """Events of a kind."""
        return [event for event in self.events if event.kind == kind]

    def wait(self, condition: Callable[[], bool], seconds: float = 180.0) -> None:
        """Poll a condition until it holds."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"{len(self.events)} events, {self.connections} connections"
            time.sleep(0.01)

    def cut(self) -> None:
        """Break the connection."""
        connection = self._connection
        if connection is not None and connection.sock is not None:
            with suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Stop reading."""
        self._is_closed = True
        self.cut()
        self._thread.join(30)

    def _run(self) -> None:
        while not self._is_closed:
            with suppress(OSError, http.client.HTTPException, ValueError):
                self._read()
            time.sleep(0.02)

    def _read(self) -> None:
        self._connection = connection = http.client.HTTPConnection(self._address, timeout=180)
        try:
            headers = {"Authorization": f"Bearer {self._key}"}
            if self.last_id is not None:
                headers["Last-Event-ID"] = self.last_id
            connection.request("GET", "/v1/events", headers=headers)
            response = connection.getresponse()
            self.status = response.status
            if response.status == 200:
                self.connections += 1
                self._parse(response)
        finally:
            connection.close()

    def _parse(self, response: http.client.HTTPResponse) -> None:
        fields: dict[str, str] = {}
        while line := response.readline():
            if line == b"\n":
                self.last_id = fields.get("id", self.last_id)
                if "data" in fields:
                    number = int(fields["id"]) if "id" in fields else None
                    self.events.append(Event(number, fields["event"], json.loads(fields["data"])))
                fields = {}
            elif not line.startswith(b":"):
                name, _, value = line.decode().rstrip("\n").partition(": ")
                fields[name] = value


@contextmanager
def reading(url: str, key: str) -> Iterator[EventReader]:
    """A reader that is connected at the beginning of the block."""
    reader = EventReader(url.removeprefix("http://"), key)
    try:
        reader.wait(lambda: reader.last_id is not None)
        yield reader
    finally:
        reader.close()
