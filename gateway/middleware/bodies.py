"""Bounds of the request bodies: each one of the routes that parse it as a whole, and all that are in memory at once."""

from __future__ import annotations

from typing import Final

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.problems import Problem

LARGEST: Final = 4 * 2**20
"""Bytes of the largest body."""
_BULK: Final = ("/tracks:score", "/jobs", "/infer")
"""Ends of the paths whose routes read their bodies in parts and bound them by the settings."""


class Bodies:
    """Middleware that refuses a body that is too large, at its announcement or while it is read."""

    def __init__(self, app: ASGIApp, *, most_held: int) -> None:
        """Start without bodies.

        Args:
            app: the application.
            most_held: bytes of the bodies that may be in memory at once.
        """
        self._app = app
        self._most_held = most_held
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a request with a bounded body. `read_request_body` reports what it keeps in memory."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        held = 0

        def hold(count: int) -> None:
            nonlocal held
            if self._held + count > self._most_held:
                raise Problem(
                    "overloaded",
                    "the bodies of all requests take too much memory",
                    expected=f"at most {self._most_held:,} bytes",
                    got=f"{self._held + count:,} bytes",
                    fix="send fewer or smaller requests at once, or repeat later",
                )
            self._held += count
            held += count

        scope["state"]["hold_body"] = hold
        try:
            await self._bounded(scope, receive, send)
        finally:
            self._held -= held

    async def _bounded(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] in {"GET", "HEAD"} or scope["path"].endswith(_BULK):
            await self._app(scope, receive, send)
            return
        for name, value in scope["headers"]:
            if name == b"content-length" and int(value) > LARGEST:
                raise Problem(
                    "body-too-large",
                    "the body is too large for this route",
                    expected=f"at most {LARGEST} bytes",
                    got=f"{int(value)} bytes",
                )
        read = 0

        async def receive_bounded() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > LARGEST:
                # FastAPI passes on this exception alone while it reads a body; the application makes a problem of it.
                raise HTTPException(413)
            return message

        await self._app(scope, receive_bounded, send)
