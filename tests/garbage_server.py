"""A server that answers every connection with an invalid or unusual response."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

Answer = Callable[[socket.socket], None]
"""Function that answers a connection."""


def _http(status: str, body: bytes, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", *(headers or (f"Content-Length: {len(body)}",)), "", ""]
    return "\r\n".join(lines).encode() + body


def _sends(data: bytes) -> Answer:
    def answer(connection: socket.socket) -> None:
        connection.recv(65_536)
        connection.sendall(data)

    return answer


def _closes(_: socket.socket) -> None:
    pass


def _is_silent(connection: socket.socket) -> None:
    while connection.recv(65_536):
        pass


def _trickles(connection: socket.socket) -> None:
    connection.recv(65_536)
    connection.sendall(_http("200 OK", b"", "Content-Length: 1000000"))
    while True:
        connection.sendall(b" ")
        threading.Event().wait(0.02)


def _never_ends(connection: socket.socket) -> None:
    connection.recv(65_536)
    connection.sendall(_http("200 OK", b"", "Connection: close"))
    while True:
        connection.sendall(b" " * 2**20)


DEEP: Final = b"[" * 100_000 + b"]" * 100_000

FINAL: Final[dict[str, Answer]] = {
    "an HTML page": _sends(_http("200 OK", b"<html>hello</html>")),
    "an empty body": _sends(_http("200 OK", b"")),
    "cut JSON": _sends(_http("200 OK", b'{"max_batch_size": ')),
    "deeply nested JSON": _sends(_http("200 OK", DEEP)),
    "a JSON list": _sends(_http("200 OK", b"[]")),
    "a JSON number": _sends(_http("200 OK", b"3")),
    "a JSON null": _sends(_http("200 OK", b"null")),
    "an empty JSON object": _sends(_http("200 OK", b"{}")),
    "a text for a number": _sends(_http("200 OK", b'{"name": "x", "max_batch_size": "many"}')),
    "an infinite number": _sends(_http("200 OK", b'{"name": "x", "max_batch_size": 1e999}')),
    "invalid UTF-8": _sends(_http("200 OK", b"\xff\xfe\xfa")),
    "a gzip body that is not gzip": _sends(_http("200 OK", b"{}", "Content-Encoding: gzip", "Content-Length: 2")),
    "HTTP/2 frames": _sends(b"\x00\x00\x18\x04\x00\x00\x00\x00\x00\x00\x04\x00@\x00\x00" * 20),
    "random bytes": _sends(bytes(range(256)) * 4),
    "a negative length": _sends(_http("200 OK", b"{}", "Content-Length: -5")),
    "a broken chunk": _sends(_http("200 OK", b"zz\r\nhello", "Transfer-Encoding: chunked")),
    "a redirect to itself": _sends(_http("302 Found", b"", "Location: /v2", "Content-Length: 0", "Connection: close")),
}
"""Answers which show that the server at the address is not an inference server. The client does not retry."""

AWAY: Final[dict[str, Answer]] = {
    "a connection that closes at once": _closes,
    "silence": _is_silent,
    "a body that trickles": _trickles,
    "a length that is too large": _sends(_http("200 OK", b'{"max_batch_size": 1}', "Content-Length: 9999")),
    "half a header": _sends(b"HTTP/1.1 200 OK\r\nContent-Le"),
    "a bad gateway": _sends(_http("502 Bad Gateway", b"<html>bad gateway</html>")),
}
"""Answers of a server that may become available later. The client retries."""

REFUSED: Final[dict[str, Answer]] = {
    "an error of a megabyte": _sends(
        _http("500 Internal Server Error", json.dumps({"error": "out of luck " * 90_000}).encode())
    ),
    "an error without spaces": _sends(_http("400 Bad Request", json.dumps({"error": "x" * 2**20}).encode())),
    "an error with control characters": _sends(
        _http("400 Bad Request", json.dumps({"error": "\x1b[31m\x07red\r\nTraceback"}).encode())
    ),
    "an error that is a number": _sends(_http("400 Bad Request", b'{"error": 7}')),
    "an error that is a list": _sends(_http("500 Internal Server Error", b"[]")),
}
"""Answers of a server that refuses every request."""

LARGER_THAN_ANY_ANSWER: Final = {"a body that never ends": _never_ends}
"""Answers that exceed the size limit of the client."""


@contextmanager
def garbage_server(answer: Answer) -> Iterator[str]:
    """Run a server on a free loopback port, and yield its host:port."""
    stopped = threading.Event()

    def serve(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.settimeout(60.0)
            answer(connection)

    def accept() -> None:
        while not stopped.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield "{}:{}".format(*listener.getsockname())
        finally:
            stopped.set()
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            thread.join(10.0)
