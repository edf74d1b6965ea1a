"""A TCP link in front of a server that a test can hold, so that what the server answers no longer arrives."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Link:
    """Forwards connections to a server on this machine."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._left: float = float("inf")
        self._changed = threading.Condition()
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self._start(self._accept)

    def hold(self, after: int = 0) -> None:
        """Forward this number of bytes to the clients, and then nothing until `release`."""
        with self._changed:
            self._left = after

    def release(self) -> None:
        """Forward everything again, what was held among it."""
        with self._changed:
            self._left = float("inf")
            self._changed.notify_all()

    @property
    def is_holding(self) -> bool:
        """Whether bytes are held back."""
        with self._changed:
            return self._left <= 0

    def close(self) -> None:
        """Close all connections."""
        self.release()
        for each in (self._server, *self._sockets):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in self._threads:
            thread.join()

    def _start(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                client.close()
                continue
            self._sockets += [client, server]
            self._start(self._pump, client, server, False)
            self._start(self._pump, server, client, True)

    def _pump(self, source: socket.socket, sink: socket.socket, is_answer: bool) -> None:
        with suppress(OSError):
            while part := source.recv(4_096):
                if is_answer:
                    with self._changed:
                        self._changed.wait_for(lambda: self._left > 0)
                        self._left -= len(part)
                sink.sendall(part)
        for each in (source, sink):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


@contextmanager
def open_link(url: str) -> Iterator[Link]:
    """Open a link to HOST:PORT of this machine."""
    link = Link(int(url.rpartition(":")[2]))
    try:
        yield link
    finally:
        link.close()
