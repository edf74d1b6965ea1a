"""One gRPC stream over HTTP/2, for a load generator that shares its cores with the server.

The gRPC library spends some 150 µs of processor time on each message of a stream, about half of what the server needs
to answer it. This client supports just what one stream to a Triton server needs, and joins waiting messages into few
packets, for a tenth of that. See RFC 9113 for the frames, and the document "gRPC over HTTP/2" for the messages.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import Final

from client.connection import ServerUnavailableError
from client.grpc_request import STREAM_METHOD

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_ACK, _END_STREAM, _END_HEADERS = 1, 1, 4
_INITIAL_WINDOW_SIZE, _MAX_FRAME_SIZE = 4, 5
"""Settings of HTTP/2."""
_STREAM: Final = 1
"""Number of the only stream."""
_DEFAULT_WINDOW: Final = 65_535
_WINDOW: Final = 2**31 - 1
"""Bytes that the server may send before this client allows more."""
_FRAME: Final = 16_384
"""Largest number of bytes in a frame that every server accepts."""
_HEAD: Final = 9
"""Bytes of the head of a frame."""
_PREFIX: Final = 5
"""Bytes before each message of gRPC: whether it is compressed, and its length."""
_READ: Final = 2**20
_CONNECT_TIMEOUT: Final = 10.0  # s


class GrpcStream:
    """A stream of requests and answers of `ModelStreamInfer`. Its socket never blocks."""

    def __init__(self, address: str) -> None:
        """Connect to host:port and open the stream.

        Raises:
            ServerUnavailableError: nothing listens there.
        """
        self.address = address
        host, _, port = address.rpartition(":")
        try:
            self._socket = socket.create_connection((host.strip("[]"), int(port)), _CONNECT_TIMEOUT)
        except OSError as error:
            raise ServerUnavailableError(str(error), where=address) from error
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setblocking(False)
        self._unframed = bytearray()
        """Messages that are not in frames yet, because the server has not allowed more."""
        self._windows = {0: _DEFAULT_WINDOW, _STREAM: _DEFAULT_WINDOW}
        """Bytes that the server allows, for the connection and for the stream."""
        self._initial_window = _DEFAULT_WINDOW
        self._received = bytearray()
        self._messages = bytearray()
        self._consumed = 0
        headers = {
            ":method": "POST",
            ":scheme": "http",
            ":path": STREAM_METHOD,
            ":authority": address,
            "te": "trailers",
            "content-type": "application/grpc",
        }
        settings = struct.pack(">HIHI", _INITIAL_WINDOW_SIZE, _WINDOW, _MAX_FRAME_SIZE, _FRAME)
        self._framed = bytearray(
            _PREFACE
            + _frame(_SETTINGS, 0, 0, settings)
            + _frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", _WINDOW - _DEFAULT_WINDOW))
            + _frame(_HEADERS, _END_HEADERS, _STREAM, b"".join(_header(*each) for each in headers.items()))
        )
        self.flush()

    def fileno(self) -> int:
        """Return the file descriptor, to wait for answers."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close the connection; the server cancels requests without an answer."""
        self._socket.close()

    @property
    def blocked(self) -> bool:
        """Whether the socket must become writable before more can be sent."""
        return bool(self._framed)

    def put(self, message: bytes) -> None:
        """Add a request to those that `flush` sends."""
        self._unframed += b"\0" + len(message).to_bytes(_PREFIX - 1, "big")
        self._unframed += message

    def flush(self) -> None:
        """Send what the server and the socket accept.

        Raises:
            ServerUnavailableError: the connection is broken.
        """
        while self._unframed and (size := min(len(self._unframed), _FRAME, *self._windows.values())) > 0:
            self._framed += _frame(_DATA, 0, _STREAM, bytes(self._unframed[:size]))
            del self._unframed[:size]
            for each in self._windows:
                self._windows[each] -= size
        try:
            while self._framed:
                del self._framed[: self._socket.send(self._framed)]
        except BlockingIOError:
            pass
        except OSError as error:
            raise ServerUnavailableError(str(error), where=self.address) from error

    def receive(self) -> list[bytes]:
        """Return the answers that have arrived.

        Raises:
            ServerUnavailableError: the connection is broken, or the server has ended the stream.
        """
        try:
            data = self._socket.recv(_READ)
        except BlockingIOError:
            return []
        except OSError as error:
            raise ServerUnavailableError(str(error), where=self.address) from error
        if not data:
            raise ServerUnavailableError("the server closed the connection", where=self.address)
        self._received += data
        begin = 0
        while len(self._received) - begin >= _HEAD:
            end = begin + _HEAD + int.from_bytes(self._received[begin : begin + 3], "big")
            if len(self._received) < end:
                break
            kind, flags = self._received[begin + 3], self._received[begin + 4]
            stream = int.from_bytes(self._received[begin + 5 : begin + _HEAD], "big")
            self._take(kind, flags, stream, bytes(self._received[begin + _HEAD : end]))
            begin = end
        del self._received[:begin]
        self.flush()
        return self._whole_messages()

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        """Take a frame.

        Raises:
            ServerUnavailableError: it ends the stream.
        """
        if kind == _DATA:
            self._messages += payload
            self._consumed += len(payload)
            if self._consumed > _WINDOW // 2:
                update = struct.pack(">I", self._consumed)
                self._framed += _frame(_WINDOW_UPDATE, 0, 0, update) + _frame(_WINDOW_UPDATE, 0, _STREAM, update)
                self._consumed = 0
        elif kind == _WINDOW_UPDATE:
            if stream in self._windows:
                self._windows[stream] += int.from_bytes(payload, "big")
        elif kind == _SETTINGS and not flags & _ACK:
            for name, value in struct.iter_unpack(">HI", payload):
                if name == _INITIAL_WINDOW_SIZE:
                    self._windows[_STREAM] += value - self._initial_window
                    self._initial_window = value
            self._framed += _frame(_SETTINGS, _ACK, 0, b"")
        elif kind == _PING and not flags & _ACK:
            self._framed += _frame(_PING, _ACK, 0, payload)
        elif kind in (_RST_STREAM, _GOAWAY) or (kind == _HEADERS and flags & _END_STREAM):
            reason = payload.decode("ascii", errors="replace")
            with contextlib.suppress(ValueError):
                reason = reason[reason.index("grpc-message") :]
            raise ServerUnavailableError("the server ended the stream", where=self.address, got=reason)

    def _whole_messages(self) -> list[bytes]:
        """Return the messages that have arrived completely."""
        messages = []
        begin = 0
        while len(self._messages) - begin >= _PREFIX:
            start = begin + _PREFIX
            end = start + int.from_bytes(self._messages[begin + 1 : start], "big")
            if len(self._messages) < end:
                break
            messages.append(bytes(self._messages[start:end]))
            begin = end
        del self._messages[:begin]
        return messages


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">IBI", len(payload) << 8 | kind, flags, stream) + payload


def _header(name: str, value: str) -> bytes:
    """Encode a header as plain text, without an entry in the table of the connection."""
    return b"\0" + b"".join(bytes([len(text)]) + text.encode("ascii") for text in (name, value))
