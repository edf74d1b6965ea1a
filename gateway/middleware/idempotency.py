"""Requests with the header Idempotency-Key: one execution, and its stored answer for every repetition.

The first request claims the key with one statement. Its body is hashed while the route reads it, so nothing is held in
memory or on disk. Its answer is stored together with the hash before it is sent. A repetition is read and hashed, too,
and gets the stored answer if it is the same request.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.accounts.claims import LARGEST_ANSWER, RENEWAL_SECONDS, Claim, StoredAnswer
from gateway.accounts.principal import Principal
from gateway.database.engine import DatabaseUnavailableError
from gateway.problems import Problem
from gateway.services import Services

_HEADER: Final = b"idempotency-key"
_LONGEST: Final = 255
_OF_ONE_ANSWER: Final = frozenset({"content-length", "retry-after"})
"""Headers of an answer that are not stored."""
_NOT_EXECUTED: Final = frozenset({401, 403, 429})
"""Answers to requests that were refused before they were executed."""
_log = logging.getLogger(__name__)


class Idempotency:
    """Middleware for POST requests with an Idempotency-Key. It runs inside `Access`, which sets the principal."""

    def __init__(self, app: ASGIApp, services: Services) -> None:
        self._app = app
        self._claims = services.claims
        self._largest_body = max(services.settings.largest_upload, services.settings.largest_body)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Execute a request that was not executed before, and answer a repetition."""
        if scope["type"] != "http" or scope["method"] != "POST" or "principal" not in scope["state"]:
            await self._app(scope, receive, send)
            return
        keys = [value for name, value in scope["headers"] if name == _HEADER]
        if not keys:
            await self._app(scope, receive, send)
            return
        principal: Principal = scope["state"]["principal"]
        body = _HashedBody(scope, receive, self._largest_body, principal)
        claimed = await self._claims.claim(principal.account_id, _checked(keys))
        if isinstance(claimed, StoredAnswer):
            await _repeat(claimed, body, send)
            return
        scope["state"]["claim"] = claimed
        claimed.fingerprint_of_body = body.fingerprint
        answer = _HeldAnswer(send)
        try:
            async with _renewed(claimed):
                await self._app(scope, body.receive, answer.send)
                if _is_kept(answer, body):
                    await body.drain()
        except BaseException:
            # Also for a cancelled request: its key must not stay locked.
            await asyncio.shield(_release(claimed))
            raise
        if _is_kept(answer, body):
            await _store(claimed, answer)
        else:
            await _release(claimed)
        await answer.flush()


def _is_kept(answer: _HeldAnswer, body: _HashedBody) -> bool:
    """Whether an answer is stored: the request was executed, and a repetition would not end differently."""
    refused = answer.status in _NOT_EXECUTED or (answer.status >= HTTPStatus.BAD_REQUEST and not body.is_complete)
    return answer.is_held and not refused and 0 < answer.status < HTTPStatus.INTERNAL_SERVER_ERROR


async def _store(claim: Claim, answer: _HeldAnswer) -> None:
    if claim.is_stored:
        return
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in answer.headers}
    kept = {name: value for name, value in headers.items() if name not in _OF_ONE_ANSWER}
    try:
        await claim.store(answer.status, kept, bytes(answer.body))
    except DatabaseUnavailableError:
        # The request was executed, so its sender gets the answer. The key is free again when its lock expires.
        _log.warning("the answer to a request with an Idempotency-Key could not be stored")


async def _release(claim: Claim) -> None:
    with suppress(DatabaseUnavailableError):
        await claim.release()


async def _repeat(stored: StoredAnswer, body: _HashedBody, send: Send) -> None:
    await body.drain()
    if body.fingerprint() != stored.fingerprint:
        raise Problem(
            "idempotency-mismatch",
            "another request had this key",
            where="Idempotency-Key",
            expected="the same path, query and body, byte for byte, and a key with the same scopes",
            fix="use a new key for a new request",
        )
    headers = stored.headers | {"content-length": str(len(stored.body)), "idempotent-replayed": "true"}
    encoded = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": stored.status, "headers": encoded})
    await send({"type": "http.response.body", "body": stored.body})


def _checked(values: list[bytes]) -> str:
    text = values[0].decode("latin-1")
    if len(values) > 1 or not (0 < len(text) <= _LONGEST and text.isascii() and text.isprintable()):
        raise Problem(
            "invalid-request",
            "the Idempotency-Key is invalid",
            where="Idempotency-Key",
            expected=f"one header with 1 to {_LONGEST} printable ASCII characters, such as a random UUID",
            got=text[:_LONGEST] if len(values) == 1 else f"{len(values)} headers",
        )
    return text


@asynccontextmanager
async def _renewed(claim: Claim) -> AsyncIterator[None]:
    """Renew the lock of a claim while its request is executed."""
    ended = asyncio.Event()

    async def renew() -> None:
        while not ended.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), RENEWAL_SECONDS)
                return
            with suppress(DatabaseUnavailableError):
                await claim.renew()

    renewal = asyncio.create_task(renew())
    try:
        yield
    finally:
        # A renewal is not cancelled: SQLite would stay locked by the connection that is amid its transaction.
        ended.set()
        await asyncio.shield(renewal)


class _HashedBody:
    """Body of a request that is hashed while it is read.

    The hash includes the scopes of the sender, because a stored answer is sent without a check by its route.
    """

    def __init__(self, scope: Scope, receive: Receive, largest: int, principal: Principal) -> None:
        self._receive = receive
        self._largest = largest
        self._hash = hashlib.sha256()
        scopes = " ".join(sorted(principal.scopes)).encode()
        for part in (scope.get("raw_path") or scope["path"].encode(), scope["query_string"], scopes):
            self._hash.update(len(part).to_bytes(8, "big") + part)
        self._bytes = 0
        self.is_complete = False

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            part = message.get("body", b"")
            self._hash.update(part)
            self._bytes += len(part)
            self.is_complete = self.is_complete or not message.get("more_body", False)
        return message

    async def drain(self) -> None:
        """Read the rest of the body."""
        while not self.is_complete:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise Problem("invalid-request", "the connection ended before the body")
            if self._bytes > self._largest:
                raise Problem("body-too-large", "the body is too large", expected=f"at most {self._largest} bytes")

    def fingerprint(self) -> bytes:
        """Return the hash of path, query, scopes and body."""
        return self._hash.digest()


class _HeldAnswer:
    """Answer of a route that is sent after it was stored. An answer that is too large is sent as it comes."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._start: Message | None = None
        self.is_held = True
        self.body = bytearray()

    @property
    def status(self) -> int:
        return 0 if self._start is None else int(self._start["status"])

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        return [] if self._start is None else [(name.lower(), value) for name, value in self._start["headers"]]

    async def send(self, message: Message) -> None:
        if not self.is_held:
            await self._send(message)
        elif message["type"] == "http.response.start":
            self._start = message
        elif len(self.body) + len(message.get("body", b"")) <= LARGEST_ANSWER:
            self.body += message.get("body", b"")
        else:
            await self._let_go(message.get("body", b""), more_body=message.get("more_body", False))

    async def _let_go(self, rest: bytes, *, more_body: bool) -> None:
        assert self._start is not None
        self.is_held = False
        self._start["headers"] = [*self._start["headers"], (b"idempotency-stored", b"false")]
        await self._send(self._start)
        await self._send({"type": "http.response.body", "body": bytes(self.body) + rest, "more_body": more_body})

    async def flush(self) -> None:
        """Send the answer if it was held."""
        if self.is_held and self._start is not None:
            await self._send(self._start)
            await self._send({"type": "http.response.body", "body": bytes(self.body)})
