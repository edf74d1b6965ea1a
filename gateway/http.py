"""HTTP/1.1 connections of the gateway: those of uvicorn, with bounded headers.

httptools collects the head and the trailers of a request without a bound, before anyone is authenticated.
"""

from __future__ import annotations

from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

LARGEST_HEAD: Final = 64 * 2**10
"""Bytes of the request line and the headers of a request. One read more may pass."""
_REFUSAL: Final = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class BoundedProtocol(HttpToolsProtocol):
    """Connection that ends when the head or the trailers of a request are too large."""

    _overhead = 0
    """Bytes that arrived since the last part of a body, the end of a head, or the end of a request."""

    def data_received(self, data: bytes) -> None:
        """Parse what has arrived, or refuse the request."""
        if self._overhead > LARGEST_HEAD:
            if self.cycle is None or self.cycle.response_complete:
                self.transport.write(_REFUSAL)
            self.transport.close()
            return
        self._overhead += len(data)
        super().data_received(data)

    def on_headers_complete(self) -> None:
        """Begin to answer the request."""
        self._overhead = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Pass on a part of the body."""
        self._overhead = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End the body."""
        self._overhead = 0
        super().on_message_complete()
